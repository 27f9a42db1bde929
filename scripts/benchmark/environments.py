"""Environments that hold what a consumer needs and nothing else, in ``.bench``, made of the locked packages.

Each is marked with a digest of what it holds, so that a second run finds it made.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from scripts.cli import CONSOLE, CommandError
from scripts.environment import MISLEADING, ROOT, locked_packages, requirement

FOLDER = ROOT / ".bench"
PACKAGES, MLFLOW, SKINNY = ENVIRONMENTS = ("packages", "mlflow", "mlflow-skinny")

SKINNY_NEEDS = ("mlflow-skinny", "pandas", "scikit-learn", "skops", "boto3")
"""What a consumer with mlflow-skinny asks for: ``mlflow.pyfunc`` cannot be imported without pandas."""


def interpreter(name: str) -> Path:
    """Return the Python of an environment, made first where it is not there or holds something else.

    Raises:
        CommandError: where a package cannot be installed, with pip's own words.
    """
    requirements = [requirement(package, entry) for package, entry in sorted(_contents(name).items())]
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()
    folder = FOLDER / name
    mark = folder / "made-of"
    if not mark.exists() or mark.read_text() != digest:
        with CONSOLE.status(f"Installing {len(requirements)} packages into .bench/{name}, once"):
            _make(folder, requirements)
        mark.write_text(digest)
    return folder / "bin" / "python"


def _contents(name: str) -> Mapping[str, Any]:
    if name == SKINNY:
        everything = locked_packages(["packages", "training"])
        return {package: everything[package] for package in closure(SKINNY_NEEDS)}
    return locked_packages(["packages", "training"] if name == MLFLOW else ["packages"])


def closure(names: tuple[str, ...]) -> set[str]:
    """Return these packages and all that they need, going by what the packages say that are installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            needed = map(Requirement, importlib.metadata.requires(name) or ())
            waiting += [need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def _make(folder: Path, requirements: list[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        options = ["--no-deps", "--require-hashes", "--compile", "--quiet", "--disable-pip-version-check", "--no-input"]
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", *options]
        # Whatever else pip is told by its own variables, these would send the packages to another place.
        variables = {name: value for name, value in os.environ.items() if name not in MISLEADING} | {"PIP_USER": "0"}
        done = subprocess.run([*pip, "-r", file.name], env=variables, capture_output=True, text=True)
    if done.returncode:
        raise CommandError(f"the packages of .bench/{folder.name} cannot be installed: {done.stderr[-2000:]}")
