"""The wheels of the locked packages: checks that Amazon Linux 2023 can load them.

The AWS base image for Python 3.13 has glibc 2.34, so it loads wheels up to manylinux_2_34.
"""

import tempfile
from collections.abc import Sequence

from packaging.requirements import Requirement

from scripts.cli import CommandError
from scripts.environment import PipError, pip

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
"""The values of markers in Lambda (PyPA specifications, "Dependency specifiers")."""
_ONLY_WHEELS = ("--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", "--abi=cp313")
_QUIETLY = ("--quiet", "--quiet")


def check(requirements: Sequence[str], architecture: str) -> None:
    """Raise CommandError if a package has no wheel with a locked hash for Lambda's Python on the architecture."""
    with tempfile.TemporaryDirectory() as folder:
        run_pip("install", ["--dry-run", "--ignore-installed", f"--target={folder}"], requirements, architecture)


def select(requirements: Sequence[str], architecture: str) -> list[str]:
    """Return the requirements that Lambda's Python has on the architecture, without their markers.

    pip would evaluate markers for the Python that runs pip, and skip packages that only Lambda's Python needs.
    """
    values = {**_LAMBDA, "platform_machine": architecture}
    lines = []
    for line in requirements:
        text, *hashes = line.split(" --hash=")
        package = Requirement(text)
        if package.marker is None or package.marker.evaluate(values):
            package.marker = None
            lines.append(" --hash=".join([str(package), *hashes]))
    return lines


def run_pip(verb: str, options: Sequence[str], requirements: Sequence[str], architecture: str) -> None:
    """Run a command of pip that takes only wheels for Lambda's Python. Raises CommandError."""
    platforms = [f"--platform={tag}_{architecture}" for tag in TAGS]
    try:
        pip([verb, *options, *_ONLY_WHEELS, *platforms, *_QUIETLY], select(requirements, architecture))
    except PipError as error:
        *before, last = str(error).splitlines() or ["it printed nothing"]
        errors = [line for line in before if line.startswith("ERROR")]
        raise CommandError(f"pip {verb} for Lambda's Python failed: {' '.join([*errors, last])}") from error
