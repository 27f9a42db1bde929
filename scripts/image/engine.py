"""A container engine: Docker where its daemon answers, Podman elsewhere."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.cli import CONSOLE, CommandError

PACKAGES = ("podman", "runc", "containernetworking-plugins", "iptables", "iproute2")
INSTALL = f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"

SECONDS, BUILD_SECONDS = 600, 3600
"""After which a command of the engine's counts as hanging; a build installs packages, maybe on a busy machine."""

CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""Podman's for root: limits that need not be raised, and no systemd, so that it works inside of a container too."""


@dataclass(frozen=True)
class Engine:
    """The command line of Docker or Podman, which take the same words for all that is done here."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    """Where it is run: Podman's monitor leaves a file there when a container runs out of memory."""

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman."""
        return self.command[0] == "podman"

    @property
    def name(self) -> str:
        """The engine's name and version."""
        return self.call("--version")

    def call(self, *arguments: str, seconds: float = SECONDS) -> str:
        """Run a command of the engine's and return what it printed to stdout. Raises CommandError."""
        command = [*self.command, *arguments]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
                timeout=seconds,
                cwd=self.folder,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{self.command[0]} {arguments[0]} took longer than {seconds} seconds") from error
        if done.returncode:
            said = " ".join(done.stderr.splitlines()[-8:])
            raise CommandError(f"{self.command[0]} {arguments[0]} failed: {said}")
        return done.stdout.strip()

    def can(self, *arguments: str) -> bool:
        """Return whether a command of the engine's succeeds."""
        try:
            self.call(*arguments)
        except (CommandError, OSError):
            return False
        return True

    def build(self, folder: Path, tag: str, *, base: str | None = None, **arguments: str) -> None:
        """Build the folder's Dockerfile with build arguments; where a base is given, on that, as Podman alone can."""
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        stand_in = [f"--from={base}", "--pull=never"] if base else []
        self.call("build", "--quiet", f"--tag={tag}", *stand_in, *given, str(folder), seconds=BUILD_SECONDS)

    def remove(self, container: str) -> None:
        """End a container and remove it, where there is one of that name. Raises CommandError."""
        if self.can("container", "inspect", container):
            self.call("rm", "--force", container)

    def size(self, image: str) -> int:
        """Return the bytes of an image's layers, unpacked."""
        return int(self.call("image", "inspect", "--format={{.Size}}", image))


@contextlib.contextmanager
def chosen(base: str) -> Iterator[Engine]:
    """Give the engine for the length of the block: Docker, where its daemon answers and has or gets the base image.

    Elsewhere it is Podman, which can build on another base. For root, Podman gets storage of its own, which ends with
    the block: the images and settings that the machine has are not touched.

    Raises:
        CommandError: where there is none; the message says how to install one.
    """
    docker = Engine(["docker"])
    if docker.can("version") and docker.can("pull", "--quiet", base):
        yield docker
        return
    if not shutil.which("podman"):
        _install()
    if os.geteuid() != 0:
        yield Engine(["podman"])
        return
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
        try:
            yield _private(Path(folder))
        finally:
            # Podman mounts its storage onto itself.
            subprocess.run(["umount", "--recursive", f"{folder}/root/overlay"], capture_output=True)


def _private(folder: Path) -> Engine:
    configuration = folder / "containers.conf"
    runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
    configuration.write_text(CONFIGURATION + runtime)
    command = ["podman", f"--root={folder}/root", f"--runroot={folder}/runroot", "--storage-driver=overlay"]
    scratch = folder / "tmp"
    scratch.mkdir()
    environment = {"CONTAINERS_CONF": str(configuration), "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(scratch)}
    return Engine(command, environment, str(folder))


def _install() -> None:
    """Install Podman where that is nobody's own machine: as root of Debian or Ubuntu, with CI set."""
    if not (os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get")):
        raise CommandError(f"there is no Docker daemon and no Podman here: on Debian and Ubuntu, sudo {INSTALL}")
    CONSOLE.print(f"No Docker daemon and no Podman here, and CI is set: {INSTALL}", soft_wrap=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], INSTALL.split()):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise CommandError(f"{' '.join(command)} failed: {' '.join(done.stderr.splitlines()[-5:])}")
