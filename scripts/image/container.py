"""The function in a container, confined as Lambda confines it, behind Lambda's runtime interface emulator."""

import contextlib
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.cli import CommandError
from scripts.image.emulator import Addresses
from scripts.image.engine import Engine

MEMORY_MB = 1769
"""One vCPU's worth (Lambda developer guide, "Configure Lambda function memory")."""

CPUS = 1

TIMEOUT_SECONDS = 60

TMP_MB = 512
OPEN_FILES = PROCESSES = 1024
USER = 993

CONFINEMENT = (
    "--read-only",
    f"--tmpfs=/tmp:rw,size={TMP_MB}m,mode=1777",
    "--ipc=none",  # no /dev/shm
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    f"--user={USER}:990",
    f"--ulimit=nofile={OPEN_FILES}:{OPEN_FILES}",
    f"--ulimit=nproc={PROCESSES}:{PROCESSES}",
    f"--cpus={CPUS}",
)
"""What Lambda leaves a function, as far as the developer guide ("Lambda quotas") and running ones show it."""

EMULATOR = "/usr/local/bin/aws-lambda-rie"
HANDLER = ("/lambda-entrypoint.sh", "lambda_function.lambda_handler")

CONTROL_GROUP = "/sys/fs/cgroup"
PEAK_MEMORY = (["memory.peak"], ["memory/memory.max_usage_in_bytes"])
MEMORY_LIMIT = (["memory.max"], ["memory/memory.limit_in_bytes"])
MEMORY_EVENTS = (["memory.events"], ["memory/memory.oom_control"])
CPU_QUOTA = (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"])
"""The container's own files in version 2 and in version 1 of Linux' control groups, which say the same."""


@dataclass(frozen=True)
class FunctionContainer:
    """A container that is up; the function in it starts with its first event."""

    engine: Engine
    name: str
    addresses: Addresses
    timeout: float

    def invoke(self, event: object) -> Any:
        """Return what the emulator answers: the function's response or error as JSON says it, else plain text."""
        return self.addresses.invoke(event, self.timeout)

    def python(self, code: str) -> str:
        """Run code in the container, as the function's user, and return what it printed."""
        return self.engine.call("exec", self.name, "python3", "-c", code)

    def peak_memory(self) -> int:
        """Return the most bytes of memory that the container ever had."""
        return int(self._control_group(PEAK_MEMORY))

    def memory_limit(self) -> float:
        """Return the bytes of memory that the container may have."""
        return _limit(self._control_group(MEMORY_LIMIT))

    def cpus(self) -> float:
        """Return how many CPUs' time the container may use."""
        quota, period = self._control_group(CPU_QUOTA).split()
        return _limit(quota) / int(period)

    def out_of_memory_kills(self) -> int:
        """Return how many of the container's processes the kernel has killed for want of memory."""
        counts = dict(line.split() for line in self._control_group(MEMORY_EVENTS).splitlines())
        return int(counts["oom_kill"])

    def _control_group(self, versions: Sequence[Sequence[str]]) -> str:
        """Return what the files say of the version that this kernel has."""
        for names in versions:
            with contextlib.suppress(CommandError):
                return self.engine.call("exec", self.name, "cat", *(f"{CONTROL_GROUP}/{name}" for name in names))
        raise CommandError(f"a container's control group here has none of {', '.join(map(' and '.join, versions))}")


@contextlib.contextmanager
def running(
    engine: Engine,
    image: str,
    variables: Mapping[str, str],
    *,
    memory_mb: int = MEMORY_MB,
    timeout: int = TIMEOUT_SECONDS,
) -> Iterator[FunctionContainer]:
    """Run the image's function for the length of the block; it reaches what listens on this machine's loopback."""
    addresses = Addresses.free()
    told = {**variables, "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb)}
    container = f"ride-duration-{uuid.uuid4().hex}"
    options = [
        f"--name={container}",
        "--detach",
        "--network=host",
        "--stop-timeout=0",
        *CONFINEMENT,
        *(["--read-only-tmpfs=false"] if engine.is_podman else []),
        f"--memory={memory_mb}m",
        f"--memory-swap={memory_mb}m",
        *(f"--env={name}={value}" for name, value in told.items()),
        f"--entrypoint={EMULATOR}",
    ]
    try:
        engine.call("run", *options, image, *addresses.options(), *HANDLER)
        addresses.wait()
        yield FunctionContainer(engine, container, addresses, timeout)
    finally:
        engine.remove(container)


def _limit(text: str) -> float:
    """Return a limit of version 2, where there may be none, or of version 1."""
    return math.inf if text == "max" else int(text)
