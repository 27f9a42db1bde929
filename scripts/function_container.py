"""The function in a container, confined as Lambda confines it, behind Lambda's runtime interface emulator."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scripts.command_line import CommandError
from scripts.container_engine import Engine
from scripts.lambda_emulator import Addresses

MEMORY_MB = 1769
"""One vCPU's worth (Lambda developer guide, "Configure Lambda function memory")."""

TIMEOUT_SECONDS = 60

CONFINEMENT = (
    "--read-only",
    "--tmpfs=/tmp:rw,size=512m,mode=1777",
    "--ipc=none",  # no /dev/shm
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--user=993:990",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
    "--cpus=1",
)
"""What Lambda leaves a function, as far as the developer guide ("Lambda quotas") and running ones show it."""

EMULATOR = "/usr/local/bin/aws-lambda-rie"
HANDLER = ("/lambda-entrypoint.sh", "lambda_function.lambda_handler")

PEAK_FILES = ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes")
"""Of version 2 and of version 1 of Linux' control groups."""


@dataclass(frozen=True)
class FunctionContainer:
    """A container that is up; the function in it starts with its first event."""

    engine: Engine
    id: str
    addresses: Addresses
    timeout: float

    def invoke(self, event: object) -> Any:
        """Return what the emulator answers: the function's response or error as JSON says it, else plain text."""
        return self.addresses.invoke(event, self.timeout)

    def python(self, code: str) -> str:
        """Run code in the container, as the function's user, and return what it printed."""
        return self.engine.call("exec", self.id, "python3", "-c", code)

    def peak_memory(self) -> int:
        """Return the most bytes of memory that the container ever had."""
        for name in PEAK_FILES:
            with contextlib.suppress(CommandError):
                return int(self.engine.call("exec", self.id, "cat", name))
        raise CommandError("this kernel does not say how much memory a container had: none of " + ", ".join(PEAK_FILES))


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
    container = engine.call(
        "run",
        "--detach",
        "--network=host",
        *CONFINEMENT,
        *(["--read-only-tmpfs=false"] if engine.is_podman else []),
        f"--memory={memory_mb}m",
        f"--memory-swap={memory_mb}m",
        *(f"--env={name}={value}" for name, value in told.items()),
        f"--entrypoint={EMULATOR}",
        image,
        *addresses.options(),
        *HANDLER,
    )
    try:
        addresses.wait()
        yield FunctionContainer(engine, container, addresses, timeout)
    finally:
        engine.call("rm", "--force", container)
