"""A container engine, containers that are confined as Lambda confines a function, and the function in one of them."""

import contextlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.cli import CommandError
from scripts.image.emulator import Addresses

INSTALL = "apt-get install -y --no-install-recommends podman runc containernetworking-plugins iptables iproute2"

SECONDS, BUILD_SECONDS = 600, 3600
"""Timeouts for the engine's commands; a build installs packages, perhaps on a busy machine."""
MEMORY_MB = 1769
"""The memory with which Lambda gives a function one vCPU ("Configure Lambda function memory")."""
CPUS = 1
TIMEOUT_SECONDS = 60
TMP_MB = 512
OPEN_FILES = PROCESSES = 1024
USER = 993
"""Lambda's; the web service's image has a user of its own."""
CONFINEMENT = (
    "--read-only",
    f"--tmpfs=/tmp:rw,size={TMP_MB}m,mode=1777",
    "--ipc=none",  # no /dev/shm
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    f"--ulimit=nofile={OPEN_FILES}:{OPEN_FILES}",
    f"--ulimit=nproc={PROCESSES}:{PROCESSES}",
    f"--cpus={CPUS}",
)
"""Lambda's restrictions, as the developer guide ("Lambda quotas") and running functions show them."""
COMMAND = ("/lambda-entrypoint.sh", "lambda_function.lambda_handler")
SUM_SIZES = """
import os
paths = [os.path.join(folder, name) for folder, _, names in os.walk("/") for name in names]
print(sum(os.lstat(path).st_size for path in paths if path.split("/")[1] not in ("dev", "proc", "sys")))
"""
PEAKS = """
import pathlib
statuses = [path.read_text() for path in pathlib.Path("/proc").glob("[0-9]*/status")]
print(max(int(line.split()[1]) for status in statuses for line in status.splitlines() if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Engine:
    """The command line of Docker or Podman. The options used here are the same in both."""

    command: Sequence[str]

    @property
    def is_podman(self) -> bool:
        """Whether the engine is Podman."""
        return self.command[0] == "podman"

    @property
    def name(self) -> str:
        """The engine's name and version."""
        return self.call("--version")

    def call(self, *arguments: str, seconds: float = SECONDS) -> str:
        """Run a command of the engine and return its stdout. Raises CommandError."""
        try:
            done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{self.command[0]} {arguments[0]} took longer than {seconds} seconds") from error
        if done.returncode:
            stderr = " ".join(done.stderr.splitlines()[-8:])
            raise CommandError(f"{self.command[0]} {arguments[0]} failed: {stderr}")
        return done.stdout.strip()

    def can(self, *arguments: str) -> bool:
        """Return whether a command of the engine succeeds."""
        try:
            self.call(*arguments)
        except (CommandError, OSError):
            return False
        return True

    def build(self, folder: Path, tag: str, target: str = "", **arguments: str) -> None:
        """Build a target of the folder's Dockerfile, or its default one, with build arguments."""
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        given += [f"--target={target}"] if target else []
        # Podman's own format has no HEALTHCHECK.
        given += ["--format=docker"] if self.is_podman else []
        self.call("build", "--quiet", f"--tag={tag}", *given, str(folder), seconds=BUILD_SECONDS)

    def remove(self, container: str) -> None:
        """Stop and remove a container if it exists. Raises CommandError."""
        if self.can("container", "inspect", container):
            self.call("rm", "--force", container)

    def look_into(self, image: str, code: str) -> Any:
        """Run code in an image as it was built, and return its stdout from JSON."""
        # -B: Python writes no bytecode, which would be a file that the image lacks. As root: for another user, Podman
        # would add a line to /etc/passwd.
        return json.loads(self.call("run", "--rm", "--user=0", "--entrypoint=python3", image, "-B", "-c", code))

    def size(self, image: str) -> int:
        """Return the bytes of an image's files. The size that an engine reports depends on how it stores images."""
        return int(self.look_into(image, SUM_SIZES))


def find_engine() -> Engine:
    """Return Docker if its daemon answers, else Podman. Raises CommandError if there is neither."""
    for engine in (Engine(["docker"]), Engine(["podman"])):
        if shutil.which(engine.command[0]) and engine.can("version"):
            return engine
    raise CommandError(f"there is no Docker daemon and no Podman here: on Debian and Ubuntu, sudo {INSTALL}")


@dataclass(frozen=True)
class Container:
    """A running container."""

    engine: Engine
    name: str

    def python(self, code: str, *arguments: str) -> str:
        """Run code in the container as its user, and return its stdout."""
        return self.engine.call("exec", self.name, "python3", "-c", code, *arguments)

    def peak_memory(self) -> int:
        """Return the largest resident memory, in bytes, that a process of the container ever had."""
        return int(self.python(PEAKS)) * 1024

    @property
    def is_running(self) -> bool:
        """Whether the container still runs."""
        return self.look_up("{{.State.Running}}") == "true"

    def wait_until_ended(self) -> int:
        """Return the exit code when the container ends."""
        return int(self.engine.call("wait", self.name))

    def output(self) -> tuple[str, str]:
        """Return what the container has written to its stdout, and to its stderr."""
        done = subprocess.run([*self.engine.command, "logs", self.name], capture_output=True, text=True)
        return done.stdout, done.stderr

    def limits(self) -> dict[str, float]:
        """Return the memory in MiB and the CPUs to which the engine limits the container."""
        memory, nano_cpus = self.look_up("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}").split()
        return {"memory_mb": int(memory) / 2**20, "cpus": int(nano_cpus) / 1e9}

    def look_up(self, template: str) -> str:
        """Return what the engine knows of the container, as a template of Go's."""
        return self.engine.call("container", "inspect", f"--format={template}", self.name)


@dataclass(frozen=True)
class FunctionContainer(Container):
    """The container of a function, which starts with its first event."""

    addresses: Addresses
    timeout: float

    def invoke(self, event: object) -> Any:
        """Return the emulator's answer: the function's response or error from JSON, any other answer as text."""
        return self.addresses.invoke(event, self.timeout)


@contextlib.contextmanager
def run(
    engine: Engine, image: str, variables: Mapping[str, str], memory_mb: int, *options: str, command: Sequence[str] = ()
) -> Iterator[str]:
    """Run a confined container for the length of the block; it can reach servers on this machine's loopback."""
    container = f"ride-duration-{uuid.uuid4().hex}"
    given = [
        f"--name={container}",
        "--detach",
        "--network=host",
        *CONFINEMENT,
        # Podman would otherwise make /run and /var/tmp writable.
        *(["--read-only-tmpfs=false"] if engine.is_podman else []),
        f"--memory={memory_mb}m",
        f"--memory-swap={memory_mb}m",
        *(f"--env={name}={value}" for name, value in variables.items()),
        *options,
    ]
    try:
        engine.call("run", *given, image, *command)
        yield container
    finally:
        engine.remove(container)


@contextlib.contextmanager
def run_function(
    engine: Engine,
    image: str,
    variables: Mapping[str, str],
    *,
    memory_mb: int = MEMORY_MB,
    timeout: int = TIMEOUT_SECONDS,
) -> Iterator[FunctionContainer]:
    """Run the image's function, behind the emulator, for the length of the block."""
    addresses = Addresses.free()
    limits = {"AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb)}
    options = (f"--user={USER}:990", "--stop-timeout=0", "--entrypoint=/usr/local/bin/aws-lambda-rie")
    command = (*addresses.options(), *COMMAND)
    with run(engine, image, {**variables, **limits}, memory_mb, *options, command=command) as name:
        addresses.wait()
        yield FunctionContainer(engine, name, addresses, timeout)
