"""Environments beside .venv, each with only the locked packages of some categories of the Pipfile."""

import hashlib
import sys
import venv
from pathlib import Path

from scripts.cli import CONSOLE, CommandError
from scripts.environment import ROOT, PipError, pip, requirements
from scripts.launcher import lock_project

LEAN, SKLEARN, MLFLOW, MONITORING = "lean", "sklearn", "mlflow", "monitoring"
ENVIRONMENTS = {
    MLFLOW: ["packages", "training"],
    LEAN: ["packages"],
    SKLEARN: ["packages", "sklearn", "dataframe"],
    "lean-batch": ["packages", "batch"],
    "sklearn-batch": ["packages", "sklearn", "dataframe", "batch"],
    MONITORING: ["monitoring"],
}
"""The environments in .bench, each with only the locked packages that its programs need: categories of the Pipfile."""


def install_python(name: str) -> Path:
    """Return the Python of the environment in .bench of this name, which is installed if it is not there.

    Raises CommandError if a package cannot be installed; the message has pip's own words.
    """
    lines = requirements(ENVIRONMENTS[name])
    digest = hashlib.sha256("\n".join([sys.version, *lines]).encode()).hexdigest()
    folder = ROOT / ".bench" / name
    mark, python = folder / "made-of", folder / "bin" / "python"
    # Two commands at once would empty each other's environment.
    with lock_project():
        if not mark.exists() or mark.read_text() != digest:
            with CONSOLE.status(f"Installing {len(lines)} packages into .bench/{name}, once"):
                venv.create(folder, symlinks=True, clear=True)
                try:
                    pip(["--python", str(python), "install", "--compile", "--quiet"], lines)
                except PipError as error:
                    raise CommandError(
                        f"the locked packages cannot be installed into .bench/{name}: {error}"
                    ) from error
            mark.write_text(digest)
    return python
