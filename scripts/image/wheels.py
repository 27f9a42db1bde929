"""The wheels of the locked packages: whether Amazon Linux 2023 can load them, and fetching them.

The AWS base image for Python 3.13 has glibc 2.34, and so takes wheels up to manylinux_2_34.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from scripts.cli import CommandError
from scripts.environment import MISLEADING

ARCHITECTURES = ("x86_64", "aarch64")
TAGS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
PYTHON = "3.13"

_LAMBDA = {
    "implementation_name": "cpython",
    "implementation_version": f"{PYTHON}.0",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": f"{PYTHON}.0",
    "python_version": PYTHON,
    "sys_platform": "linux",
}
"""What markers may ask of it (PyPA specifications, "Dependency specifiers")."""

_WHEELS_ALONE = ("--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", "--abi=cp313")
_QUIETLY = ("--quiet", "--quiet", "--disable-pip-version-check", "--no-input")


def check(requirements: Sequence[str], architecture: str) -> None:
    """Raise CommandError where a locked package has no wheel, of a locked hash, for Lambda's Python on the machine."""
    with tempfile.TemporaryDirectory() as folder:
        _pip("install", ["--dry-run", "--ignore-installed", f"--target={folder}"], requirements, architecture)


def fetch(requirements: Sequence[str], architecture: str, folder: Path) -> None:
    """Fetch these very wheels into the folder. Raises CommandError."""
    _pip("download", [f"--dest={folder}"], requirements, architecture)


def install(requirements: Sequence[str], architecture: str, folder: Path) -> None:
    """Unpack these very wheels into the folder, for an interpreter that is not this one. Raises CommandError."""
    _pip("install", ["--ignore-installed", "--no-compile", f"--target={folder}"], requirements, architecture)


def needed(requirements: Sequence[str], architecture: str) -> list[str]:
    """Return those that Lambda's Python needs on the machine, without the markers that say so.

    pip itself would ask them of the Python that it runs on, and leave out what that one does not need.
    """
    machine = {**_LAMBDA, "platform_machine": architecture}
    lines = []
    for line in requirements:
        text, *hashes = line.split(" --hash=")
        package = Requirement(text)
        if package.marker is None or package.marker.evaluate(machine):
            package.marker = None
            lines.append(" --hash=".join([str(package), *hashes]))
    return lines


def _pip(verb: str, options: Sequence[str], requirements: Sequence[str], architecture: str) -> None:
    """Run pip for Lambda's Python on the machine; it checks the requirements' hashes."""
    wheels = [*_WHEELS_ALONE, *(f"--platform={tag}_{architecture}" for tag in TAGS)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(needed(requirements, architecture)) + "\n")
        file.flush()
        pip = [sys.executable, "-m", "pip", verb, *options, *wheels, *_QUIETLY]
        command = [*pip, "--require-hashes", "--requirement", file.name]
        # Whatever else pip is told by its own variables, these would send the wheels to another place.
        environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        done = subprocess.run(command, env={**environment, "PIP_USER": "0"}, capture_output=True, text=True)
    if done.returncode:
        *before, last = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in before if line.startswith("ERROR")]
        raise CommandError(f"pip {verb} for Lambda's Python failed: {' '.join([*errors, last])}")
