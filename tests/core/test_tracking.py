"""Tests of how the commands use MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.environment import ROOT

IMPORT = "from scripts.models import tracking; "


@pytest.mark.parametrize(
    "call", ["tracking.open_experiment('rides')", "tracking.check_registry('ride-duration', 'challenger')"]
)
def test_two_commands_at_once_can_make_one_database(tmp_path: Path, call: str) -> None:
    """Both start at once without a database. MLflow makes its tables in many steps."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    command = [sys.executable, "-c", IMPORT + call]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
