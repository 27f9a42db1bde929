"""The second Kinesis that tests run against: installed where that is possible, and never left behind."""

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


def test_it_ends_with_its_parent_however_that_ends(kinesis_local: str) -> None:
    """Nothing is left behind by a test session that was killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        port = int(parent.stdout.readline().rpartition(":")[2])
        assert listens(port)
        parent.send_signal(signal.SIGKILL)
    assert ends_listening(port)


def test_without_node_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests that want it are skipped with this reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(second_kinesis.NotInstallableError, match="there is no node on PATH"):
        second_kinesis.install()


def test_what_npm_says_of_a_failure_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An offline machine is to be told from a lock file that is broken."""
    for program, script in (("node", ""), ("npm", "echo npm error code ENOTFOUND >&2; exit 1")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(second_kinesis, "HOME", tmp_path)
    with pytest.raises(second_kinesis.NotInstallableError, match="npm ci .*: npm error code ENOTFOUND"):
        second_kinesis.install()


def test_one_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where Node.js and the package are there, nothing is skipped in silence."""
    (tmp_path / "node").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match="exit code 7"), second_kinesis.serve():
        pass
