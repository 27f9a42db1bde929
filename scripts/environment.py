"""Make the project's environment, .venv, from Pipfile.lock, and run a command in it.

It stands on the standard library alone: it runs before anything is installed. pip checks every download against the
lock's hashes. The environment is marked with what it holds, so that a second call costs milliseconds.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
MARK = ENVIRONMENT / "installed.json"
MISLEADING = {"PIP_DRY_RUN", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PYTHONHOME", "PYTHONPATH"}
"""Variables that would have pip find, or leave, packages elsewhere than in the environment."""

SECTIONS = {"packages": "default", "dev-packages": "develop"}
"""What Pipenv calls the Pipfile's first two categories in the lock; the others keep their names."""


def main(arguments: list[str]) -> None:
    """Complete the environment for the categories before ``--`` and become the command after it."""
    if "--" not in arguments:
        arguments = ["--"]
    split = arguments.index("--")
    categories, command = ["packages", *arguments[:split]], arguments[split + 1 :]
    if not command:
        sys.exit("usage: scripts/environment CATEGORY [CATEGORY ...] -- COMMAND [ARG ...]")
    complete(locked(categories))
    path = f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(ENVIRONMENT), "PYTHONPATH": str(ROOT)}
    os.execvpe(command[0], command, environment)


def locked(categories: list[str]) -> dict[str, dict[str, Any]]:
    """Return the locked packages of the categories, by name."""
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    sections = [SECTIONS.get(category, category) for category in categories]
    unknown = [section for section in sections if section not in lock]
    if unknown:
        sys.exit(f"Pipfile.lock has no category {', '.join(unknown)}")
    return {name: package for section in sections for name, package in lock[section].items()}


def complete(packages: dict[str, dict[str, Any]]) -> None:
    """Install those of the packages that the environment does not hold yet."""
    requirements = {name: requirement(name, package) for name, package in packages.items()}
    wanted = {name: hashlib.sha256(line.encode()).hexdigest() for name, line in requirements.items()}
    # Two commands may start side by side in two terminals. A lock on the folder leaves no file behind.
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        held = holds()
        missing = [name for name, digest in wanted.items() if held.get(name) != digest]
        if not missing:
            return
        if not held:
            create()
        # Without its mark, an environment that an interruption leaves half made is made anew the next time.
        MARK.unlink(missing_ok=True)
        install([requirements[name] for name in missing], folder)
        MARK.write_text(json.dumps({"made": made(), "packages": {**held, **wanted}}))
    except OSError as error:
        sys.exit(f"The environment {ENVIRONMENT} cannot be made: {error}")
    finally:
        os.close(folder)


def requirement(name: str, package: dict[str, Any]) -> str:
    """Return a locked package as a line of a requirements file, hashes included."""
    marker = f" ; {package['markers']}" if "markers" in package else ""
    hashes = "".join(f" --hash={digest}" for digest in package["hashes"])
    return f"{name}{package['version']}{marker}{hashes}"


def holds() -> dict[str, str]:
    """Return what the environment was marked to hold: nothing where it is absent, broken, or not made for here."""
    try:
        subprocess.run([PYTHON, "-c", ""], check=True, capture_output=True)
        mark: dict[str, Any] = json.loads(MARK.read_text())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return {}
    return mark["packages"] if mark.get("made") == made() else {}


def create() -> None:
    """Create the virtual environment anew."""
    if ENVIRONMENT.is_symlink():
        sys.exit(f"{ENVIRONMENT} is a link, and what it leads to would be emptied: remove it, then run this again.")
    try:
        import ensurepip  # noqa: F401  Debian and Ubuntu leave it out of python3
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(
            f"Python {version} lacks its venv module: install it (on Debian and Ubuntu:"
            f" apt install python{version}-venv), then run this again."
        )
    # Never from inside itself: the interpreter that runs this may be the one in .venv.
    interpreter = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.prefix != sys.base_prefix and interpreter.exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    else:
        venv.create(ENVIRONMENT, with_pip=True, clear=True, symlinks=True)


def made() -> list[object]:
    """Return where and for which Python the environment is made: the commands in it name that folder."""
    return [str(ENVIRONMENT), *sys.version_info[:2]]


def install(requirements: list[str], lock: int) -> None:
    """Install the requirements with pip, showing one line of progress; exit with pip's own words where it fails.

    pip inherits the lock: where this process is killed, nobody else begins before pip has ended.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        options = [
            "--no-deps",
            "--require-hashes",
            "--progress-bar",
            "off",
            "--disable-pip-version-check",
            "--no-input",
        ]
        pip = [str(PYTHON), "-m", "pip", "install", *options, "-r", file.name]
        # Whatever else pip is told by its own variables, these would send the packages to another place.
        environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        environment["PIP_USER"] = "0"
        process = subprocess.Popen(
            pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, pass_fds=[lock]
        )
        lines = []
        done = 0
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith(("Collecting", "Requirement already")):
                done += 1
                progress(f"Fetching the locked packages, once: {done} of {len(requirements)}")
            elif line.startswith("Installing"):
                progress(f"Installing {len(requirements)} packages into .venv …")
        if process.wait() != 0:
            sys.exit("".join(["\n", *lines[-20:], "The packages could not be installed: pip's words are above."]))
        progress("")


def progress(text: str) -> None:
    """Show the text on the terminal's current line; in a log, on a line of its own."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text and (" 1 of " in text or "…" in text):
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
