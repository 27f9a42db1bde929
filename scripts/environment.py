"""Make the project's environment, .venv, from Pipfile.lock, and run a command in it.

It needs the standard library alone, because it runs before anything is installed; the Dockerfile runs it too. pip
checks every download against the lock's hashes. A file in the environment lists the packages in it, so that a second
call costs milliseconds.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
MARK = ENVIRONMENT / "installed.json"
REQUIREMENTS = "--requirements"
USAGE = f"usage: scripts/environment CATEGORY [...] -- COMMAND [ARG ...], or {REQUIREMENTS} CATEGORY [...]"
SECTIONS = {"packages": "default", "dev-packages": "develop"}
"""Pipenv's names in the lock for the first two categories of the Pipfile; other categories keep their names."""
MISLEADING = {"PIP_DRY_RUN", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PYTHONHOME", "PYTHONPATH"}
"""Variables with which pip would look for packages in another place, or install them there."""
PIP_OPTIONS = ("--no-deps", "--require-hashes", "--progress-bar=off", "--disable-pip-version-check", "--no-input")
MESSAGE_LINES = 20


class PipError(Exception):
    """pip failed. The message is the end of its output."""


def main(arguments: list[str]) -> None:
    """Complete the environment for the categories before ``--`` and become the command after it."""
    if arguments[:1] == [REQUIREMENTS] and arguments[1:]:
        print("\n".join(requirements(arguments[1:])))
        return
    if "--" not in arguments[:-1]:
        sys.exit(USAGE)
    split = arguments.index("--")
    complete(locked_packages(["packages", *arguments[:split]]))
    command = arguments[split + 1 :]
    path = f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(ENVIRONMENT), "PYTHONPATH": str(ROOT)}
    os.execvpe(command[0], command, environment)


def locked_packages(categories: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the locked packages of the Pipfile's categories, by name. Raises SystemExit for an unknown category."""
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    sections = [SECTIONS.get(category, category) for category in categories]
    unknown = [section for section in sections if section not in lock]
    if unknown:
        sys.exit(f"Pipfile.lock has no category {', '.join(unknown)}")
    return {name: package for section in sections for name, package in lock[section].items()}


def requirements(categories: Sequence[str]) -> list[str]:
    """Return a line of a requirements file for each locked package of the Pipfile's categories."""
    return [requirement(name, package) for name, package in locked_packages(categories).items()]


def requirement(name: str, package: dict[str, Any]) -> str:
    """Return a locked package as a line of a requirements file, with its hashes."""
    marker = f" ; {package['markers']}" if "markers" in package else ""
    hashes = "".join(f" --hash={digest}" for digest in package["hashes"])
    return f"{name}{package['version']}{marker}{hashes}"


def pip(
    arguments: Sequence[str],
    requirements: Sequence[str],
    *,
    python: Path | str = sys.executable,
    on_line: Callable[[str], None] = lambda _: None,
    pass_fds: Collection[int] = (),
) -> None:
    """Run pip, for example with ``["install"]``, on lines of a requirements file. pip verifies their hashes.

    Args:
        arguments: a subcommand of pip and its options.
        requirements: the packages, each pinned and with its hashes. pip adds no dependencies of theirs.
        python: the interpreter whose pip runs.
        on_line: called with each line of pip's output, while it runs.
        pass_fds: file descriptors that pip inherits.

    Raises PipError if pip fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    environment["PIP_USER"] = "0"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        process = subprocess.Popen(
            [str(python), "-m", "pip", *arguments, *PIP_OPTIONS, "--requirement", file.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            pass_fds=pass_fds,
        )
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            on_line(line)
    if process.wait() != 0:
        raise PipError("".join(lines[-MESSAGE_LINES:]))


def complete(packages: dict[str, dict[str, Any]]) -> None:
    """Install the packages that the environment lacks."""
    lines = {name: requirement(name, package) for name, package in packages.items()}
    wanted = {name: hashlib.sha256(line.encode()).hexdigest() for name, line in lines.items()}
    # Two commands may start at the same time in two terminals. Unlike a lock file, a lock on the folder leaves no file.
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        installed = installed_packages()
        missing = [name for name, digest in wanted.items() if installed.get(name) != digest]
        if not missing:
            return
        if not installed:
            create_environment()
        # If this is interrupted, the environment has no mark, so that the next call makes it anew.
        MARK.unlink(missing_ok=True)
        install([lines[name] for name in missing], folder)
        MARK.write_text(json.dumps({"made": identity(), "packages": {**installed, **wanted}}))
    except OSError as error:
        sys.exit(f"The environment {ENVIRONMENT} cannot be made: {error}")
    finally:
        os.close(folder)


def installed_packages() -> dict[str, str]:
    """Return the packages in the environment, with a digest each; no packages if it is unusable here."""
    try:
        subprocess.run([PYTHON, "-c", ""], check=True, capture_output=True)
        mark: dict[str, Any] = json.loads(MARK.read_text())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return {}
    return mark["packages"] if mark.get("made") == identity() else {}


def identity() -> list[object]:
    """Return the environment's folder, which the commands in it name, and its version of Python."""
    return [str(ENVIRONMENT), *sys.version_info[:2]]


def create_environment() -> None:
    """Create the virtual environment, empty. Raises SystemExit if that is impossible."""
    if ENVIRONMENT.is_symlink():
        sys.exit(f"{ENVIRONMENT} is a link, and its target would be emptied: remove the link, then run this again.")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        import ensurepip  # noqa: F401  Debian and Ubuntu have it in a package of its own
    except ImportError:
        sys.exit(
            f"Python {version} lacks its venv module: install it (on Debian and Ubuntu:"
            f" apt install python{version}-venv), then run this again."
        )
    # This process may be the Python in .venv, which cannot empty its own folder: use the one that it was made from.
    interpreter = Path(sys.base_prefix) / "bin" / f"python{version}"
    if sys.prefix != sys.base_prefix and interpreter.exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    else:
        venv.create(ENVIRONMENT, with_pip=True, clear=True, symlinks=True)


def install(lines: list[str], lock: int) -> None:
    """Install packages into the environment and show one line of progress. Raises SystemExit if pip fails.

    pip inherits the lock: if this process is killed, no other one begins before pip has ended.
    """
    fetched = 0

    def count(line: str) -> None:
        nonlocal fetched
        if line.startswith(("Collecting", "Requirement already")):
            fetched += 1
            show_progress(f"Fetching the locked packages, once: {fetched} of {len(lines)}")
        elif line.startswith("Installing"):
            show_progress(f"Installing {len(lines)} packages into .venv …")

    try:
        pip(["install"], lines, python=PYTHON, on_line=count, pass_fds=[lock])
    except PipError as error:
        sys.exit(f"\n{error}The packages could not be installed: pip's output is above.")
    show_progress("")


def show_progress(text: str) -> None:
    """Show the text on the terminal's current line. A log gets only the first text and those that end with "…"."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text and (" 1 of " in text or text.endswith("…")):
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
