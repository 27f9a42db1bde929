"""Complete the project's environment, and become a command in it: scripts/environment runs this file.

The environment is .venv, or the one that Pipenv made for the project. A package counts as installed if its metadata
there has the locked version, so a call that finds all of them costs milliseconds. An environment that another tool
made is completed, but never emptied. This module needs the standard library alone.
"""

import sys

from scripts import interrupts

if __name__ == "__main__":
    # Messages use this name. The handler is set before the other imports, so that an interrupt of them is one line.
    sys.argv[0] = "environment"
    interrupts.handle_with(interrupts.end_at_once)

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time
import venv
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.environment import (
    REQUIREMENTS,
    ROOT,
    PipError,
    locked_packages,
    pip,
    requirement,
    requirements,
    run_module,
)

ENVIRONMENT = ROOT / ".venv"
MARK = "installed.json"
"""The file that this module writes into an environment: whether it made it, and which packages this machine skips."""
USAGE = f"usage: scripts/environment CATEGORY [...] -- COMMAND [ARG ...], or {REQUIREMENTS} CATEGORY [...]"
START = "scripts.start"
"""The module that starts the project's own commands."""
SUPPORTED = (3, 11), (3, 13)
"""The oldest and the newest version of Python that the lock is for."""
ARCHIVE = re.compile(
    r"(?:Downloading|Using cached|Processing) (?:\S*/)?([^-\s]+-[^-\s]+)\S*\.(?:whl|tar\.gz|zip)( \(.+\))?$"
)
"""Matches a line of pip about a package's file, and not the line about its metadata, which may come before."""
BAR_WIDTH = 20
TICK_SECONDS = 0.25


def main(arguments: list[str]) -> None:
    """Complete the environment for the categories before ``--`` and become the command after it."""
    if arguments[:1] == [REQUIREMENTS] and arguments[1:]:
        print("\n".join(requirements(arguments[1:])))
        return
    if "--" not in arguments[:-1]:
        sys.exit(USAGE)
    split = arguments.index("--")
    packages = locked_packages(["packages", *arguments[:split]])
    command = arguments[split + 1 :]
    # Modules come from the project, even if the working folder has a rides.py or model.py of its own.
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    if asks_for_help(command):
        command = [sys.executable, "-S", "-m", "scripts.help_page", *command[2:]]
    else:
        environment = complete(packages)
        variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        variables["VIRTUAL_ENV"] = str(environment)
    if START in command[:4]:
        interrupts.postpone()
    try:
        os.execvpe(command[0], command, variables)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run: {error.strerror}")


def asks_for_help(command: Sequence[str]) -> bool:
    """Return whether a command is one of the project's with ``--help``, which needs no package."""
    options = itertools.takewhile(lambda argument: argument != "--", command[3:])
    return START in command[2:3] and not {"-h", "--help"}.isdisjoint(options)


def complete(packages: dict[str, dict[str, Any]]) -> Path:
    """Install the packages that the environment lacks, and return its folder. Raises SystemExit if that fails."""
    environment = choose_environment(packages)
    if not find_missing(environment, packages):
        return environment
    try:
        with lock_project() as lock:
            if not find_packages_folder(environment):
                create_environment(environment)
            # While this command waited, another one may have installed them.
            if missing := find_missing(environment, packages):
                install(environment, missing, lock)
    except (OSError, PipError) as error:
        sys.exit(f"The packages could not be installed into {environment}: {error}")
    return environment


def choose_environment(packages: dict[str, dict[str, Any]]) -> Path:
    """Return the active environment if it belongs to the project or lacks none of the packages, else .venv."""
    active = os.environ.get("VIRTUAL_ENV")
    if active and (belongs_to_project(Path(active)) or not find_missing(Path(active), packages)):
        return Path(active)
    return ENVIRONMENT


def belongs_to_project(environment: Path) -> bool:
    """Return whether Pipenv made an environment for this project: a file in it names the project's folder."""
    try:
        return Path((environment / ".project").read_text().strip()).resolve() == ROOT
    except (OSError, ValueError):
        return False


def find_missing(environment: Path, packages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the packages that an environment does not have in the locked version."""
    folder = find_packages_folder(environment)
    installed = installed_versions(folder) if folder else {}
    skipped = read_mark(environment).get("skipped", []) if folder else []
    return {
        name: package
        for name, package in packages.items()
        if installed.get(_normalized(name)) != package["version"].removeprefix("==")
        and _digest(name, package) not in skipped
    }


def find_packages_folder(environment: Path) -> Path | None:
    """Return the folder of an environment's packages, or None if the environment cannot be used here.

    Its Python may not run, or be too old or too new, or the environment may have been moved, which breaks its commands.
    """
    code = (
        "import sys, sysconfig; sys.prefix == sys.base_prefix and sys.exit(1);"
        " print(*sys.version_info[:2], sysconfig.get_path('purelib'))"
    )
    try:
        output = subprocess.check_output([environment / "bin" / "python", "-I", "-c", code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor, folder = output.decode().rstrip("\n").split(" ", 2)
    identity = [str(environment), int(major), int(minor)]
    is_supported = SUPPORTED[0] <= (int(major), int(minor)) <= SUPPORTED[1]
    return Path(folder) if is_supported and read_mark(environment).get("made", identity) == identity else None


def installed_versions(folder: Path) -> dict[str, str]:
    """Return the versions of the packages in a folder, by name, without packages whose installation was interrupted.

    Installers write the file INSTALLER after all other files of a package.
    """
    names = (file.parent.name.removesuffix(".dist-info") for file in folder.glob("*.dist-info/INSTALLER"))
    return {_normalized(name): version for name, _, version in (name.partition("-") for name in names)}


def _normalized(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def _digest(name: str, package: dict[str, Any]) -> str:
    return hashlib.sha256(requirement(name, package).encode()).hexdigest()


def read_mark(environment: Path) -> dict[str, Any]:
    """Return the content of an environment's mark; it is empty if there is no mark."""
    try:
        mark: dict[str, Any] = json.loads((environment / MARK).read_text())
    except (OSError, ValueError):
        return {}
    return mark


@contextlib.contextmanager
def lock_project() -> Iterator[int]:
    """Let one command at a time install packages, and yield the lock's file descriptor.

    A lock on the project's folder leaves no file behind. If pip inherits it and this process is killed, no other
    command begins before pip has ended.
    """
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another command is installing packages: waiting until it ends", file=sys.stderr)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def create_environment(environment: Path) -> None:
    """Create the environment without packages. Raises SystemExit if another tool made the present one."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if environment.is_symlink():
        sys.exit(f"{environment} is a link, and its target would be emptied: remove the link, then run this again.")
    if environment.exists() and any(environment.iterdir()) and "made" not in read_mark(environment):
        sys.exit(
            f"{environment} has no Python 3.11 to 3.13 that runs, and is not replaced because another tool made it:"
            " remove it, then run this again."
        )
    try:
        import ensurepip  # noqa: F401  Debian and Ubuntu have it in a package of its own
    except ImportError:
        sys.exit(
            f"Python {version} lacks its venv module: install it (on Debian and Ubuntu:"
            f" apt install python{version}-venv), then run this again."
        )
    environment.mkdir(exist_ok=True)
    # The mark is written first and kept, so that an unfinished environment may be replaced later.
    mark = environment / MARK
    mark.write_text(json.dumps({"made": [str(environment), *sys.version_info[:2]]}))
    for path in list(environment.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != mark:
            path.unlink()
    venv.create(environment, symlinks=True)


def install(environment: Path, packages: dict[str, dict[str, Any]], lock: int) -> None:
    """Install locked packages into the environment and show the progress. Raises PipError."""
    python, folder = environment / "bin" / "python", find_packages_folder(environment)
    if not folder:
        raise PipError("its Python does not run")
    wanted = {(_normalized(name), package["version"].removeprefix("==")) for name, package in packages.items()}
    remove_unfinished(folder, {"pip", *dict(wanted)})
    if "pip" not in installed_versions(folder):
        run_module(python, ["ensurepip", "--default-pip"], pass_fds=[lock])
    lines = [requirement(name, package) for name, package in packages.items()]

    def count_installed() -> int:
        return len(wanted & installed_versions(folder).items())

    place = environment.name if environment == ENVIRONMENT else environment
    print(f"Installing {len(wanted)} packages into {place}, once", file=sys.stderr, flush=True)
    with Progress(len(wanted), count_installed) as progress:
        pip(["install"], lines, python=python, on_line=progress.read, pass_fds=[lock])
    if skipped := find_missing(environment, packages):
        remember_skipped(environment, skipped)


def remove_unfinished(folder: Path, names: Collection[str]) -> None:
    """Remove the metadata of packages whose installation was interrupted: pip would count them as installed."""
    for information in folder.glob("*.dist-info"):
        name = _normalized(information.name.partition("-")[0])
        if name in names and not (information / "INSTALLER").exists():
            shutil.rmtree(information)


def remember_skipped(environment: Path, packages: dict[str, dict[str, Any]]) -> None:
    """Write packages that pip skipped into the mark: their markers say that they are for other machines."""
    mark = read_mark(environment)
    mark["skipped"] = [*mark.get("skipped", []), *(_digest(name, package) for name, package in packages.items())]
    (environment / MARK).write_text(json.dumps(mark))


class Progress:
    """Shows the progress of pip while the block runs: a bar on a terminal, a line for every tenth package in a log."""

    def __init__(self, total: int, count_installed: Callable[[], int]) -> None:
        """Take the number of packages, and a function that says how many of them are installed."""
        self._total, self._count_installed = total, count_installed
        self._fetched, self._file, self._is_installing = set[str](), "", False
        self._began, self._shown = time.monotonic(), (0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_showing, daemon=True)

    def __enter__(self) -> "Progress":
        """Start to show the progress."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Clear the bar."""
        self._ended.set()
        self._thread.join()

    def read(self, line: str) -> None:
        """Take a line of pip's output. pip prints the line of a download, with its size, when the download begins."""
        if found := ARCHIVE.search(line):
            self._file = f": {found[1]}{found[2] or ''}"
            self._fetched.add(found[1])
        elif line.startswith(("Requirement already", "Ignoring")):
            self._fetched.add(line)
        elif line.startswith("Installing collected"):
            self._file, self._is_installing = "", True

    def _keep_showing(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            # pip says nothing while it installs, so look at the folder.
            installed = self._count_installed() if self._is_installing else 0
            fetched = self._total if self._is_installing else min(len(self._fetched), self._total)
            text = f"{fetched} of {self._total} fetched, {installed} installed"
            if sys.stderr.isatty():
                done = BAR_WIDTH * (fetched + installed) // (2 * self._total)
                bar = f"[{'#' * done}{'.' * (BAR_WIDTH - done)}]"
                line = f"{bar} {text}, {time.monotonic() - self._began:.0f} s{self._file}"
                print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
            elif self._shown != (tens := (fetched // 10, installed // 10)):
                print(text, file=sys.stderr, flush=True)
                self._shown = tens
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        interrupts.handle_with(interrupts.raise_interrupt)
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("environment: interrupted; the next command installs the rest", file=sys.stderr)
        sys.exit(interrupts.INTERRUPTED)
