"""The project's locked packages, as lines of a requirements file, and pip, which installs them.

It needs the standard library alone, because it runs before anything is installed; the Dockerfile runs it too. pip
checks every download against the lock's hashes.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = "--requirements"
SECTIONS = {"packages": "default", "dev-packages": "develop"}
"""Pipenv's names in the lock for the first two categories of the Pipfile; other categories keep their names."""
MISLEADING = {"PIP_DRY_RUN", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PYTHONHOME", "PYTHONPATH"}
"""Variables with which pip would look for packages in another place, or install them there."""
PIP_OPTIONS = ("--no-deps", "--require-hashes", "--progress-bar=off", "--disable-pip-version-check", "--no-input")
MESSAGE_LINES = 20
GRACE_SECONDS = 5
"""pip removes its temporary files when it is interrupted. After this time it is killed."""


class PipError(Exception):
    """pip failed. The message is the errors that pip printed."""


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
        requirements: the packages, each pinned and with its hashes. pip does not install their dependencies.
        python: the interpreter whose pip runs.
        on_line: called with each line of pip's output, while it runs.
        pass_fds: file descriptors that pip inherits.

    Raises PipError if pip fails.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        module = ["pip", *arguments, *PIP_OPTIONS, "--requirement", file.name]
        run_module(python, module, on_line, pass_fds)


def run_module(
    python: Path | str,
    module: Sequence[str],
    on_line: Callable[[str], None] = lambda _: None,
    pass_fds: Collection[int] = (),
) -> None:
    """Run pip or ensurepip until it ends. If this process is interrupted, end pip and its children."""
    variables = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    lines = []
    with subprocess.Popen(
        [str(python), "-m", *module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**variables, "PIP_USER": "0"},
        pass_fds=pass_fds,
        process_group=0,
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line)
                on_line(line)
        except BaseException:
            _end_group(process)
            raise
    if process.returncode != 0:
        raise PipError(_explanation(lines))


def _end_group(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)


def _explanation(lines: Sequence[str]) -> str:
    """Return the errors in pip's output, or its last lines. If there was no connection, say so: pip's errors do not."""
    errors = list(itertools.dropwhile(lambda line: not line.startswith("ERROR"), lines))
    errors = list(itertools.takewhile(lambda line: not line.startswith("Traceback"), errors))
    broken = [found[1] for line in lines if (found := re.match(r"WARNING: Retrying .*broken by '(.*)'", line))]
    if broken and any("No matching distribution" in line for line in errors):
        return f"no connection to the package index: {re.sub('<.*?>: ', '', broken[-1])}"
    return "".join(errors or lines[-MESSAGE_LINES:]).strip()


if __name__ == "__main__":
    if sys.argv[1:2] != [REQUIREMENTS] or not sys.argv[2:]:
        sys.exit(f"usage: environment.py {REQUIREMENTS} CATEGORY [...]")
    print("\n".join(requirements(sys.argv[2:])))
