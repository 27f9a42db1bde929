"""The wheels of the locked packages: whether Amazon Linux 2023 can load them, and fetching them.

The AWS base image for Python 3.13 has glibc 2.34, and so takes wheels up to manylinux_2_34.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.command_line import CommandError
from scripts.environment import MISLEADING

ARCHITECTURES = ("x86_64", "aarch64")
TAGS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
PYTHON = "3.13"

_WHEELS_ALONE = ("--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", "--abi=cp313")
_QUIETLY = ("--quiet", "--quiet", "--disable-pip-version-check", "--no-input")


def check(requirements: Sequence[str], architecture: str) -> None:
    """Raise CommandError where a locked package has no wheel, of a locked hash, for Lambda's Python on the machine."""
    with tempfile.TemporaryDirectory() as folder:
        _pip("install", "--dry-run", "--ignore-installed", f"--target={folder}", _for(architecture), requirements)


def fetch(requirements: Sequence[str], architecture: str, folder: Path) -> None:
    """Fetch these very wheels into the folder. Raises CommandError."""
    _pip("download", f"--dest={folder}", _for(architecture), requirements)


def install(requirements: Sequence[str], architecture: str, folder: Path) -> None:
    """Unpack these very wheels into the folder, for an interpreter that is not this one. Raises CommandError."""
    _pip("install", "--ignore-installed", "--no-compile", f"--target={folder}", _for(architecture), requirements)


def _for(architecture: str) -> list[str]:
    return [*_WHEELS_ALONE, *(f"--platform={tag}_{architecture}" for tag in TAGS)]


def _pip(*arguments: str | Sequence[str]) -> None:
    """Run pip with requirements as its last argument, whose hashes it checks."""
    *options, requirements = arguments
    flat = [part for option in options for part in ([option] if isinstance(option, str) else option)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        command = [sys.executable, "-m", "pip", *flat, *_QUIETLY, "--require-hashes", "--requirement", file.name]
        # Whatever else pip is told by its own variables, these would send the wheels to another place.
        environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        done = subprocess.run(command, env={**environment, "PIP_USER": "0"}, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise CommandError(f"pip {flat[0]} for Lambda's Python failed: {' '.join(said)}")
