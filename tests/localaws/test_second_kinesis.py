"""The second Kinesis that tests run against: it is installed if possible, and never left running."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.localaws import second_kinesis
from tests.localaws.test_moto import ends_listening, listens
from tests.tools import ROOT

PARENT = """
import time
from tests.localaws import second_kinesis
with second_kinesis.serve() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_kinesis_local_ends_with_a_parent_that_is_killed(kinesis_local: str) -> None:
    """A test session that was killed leaves nothing running."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        port = int(parent.stdout.readline().rpartition(":")[2])
        assert listens(port)
        parent.send_signal(signal.SIGKILL)
    assert ends_listening(port)


def test_a_missing_node_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests that need it are skipped with this reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(second_kinesis.NotInstallableError, match="there is no node on PATH"):
        second_kinesis.install()


def test_an_error_of_npm_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It tells an offline machine from a broken lock file."""
    for program, script in (("node", ""), ("npm", "echo npm error code ENOTFOUND >&2; exit 1")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(second_kinesis, "HOME", tmp_path)
    with pytest.raises(second_kinesis.NotInstallableError, match="npm ci .*: npm error code ENOTFOUND"):
        second_kinesis.install()


def test_a_server_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If Node.js and the package are there, no test is skipped silently."""
    (tmp_path / "node").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match="exit code 7"), second_kinesis.serve():
        pass
