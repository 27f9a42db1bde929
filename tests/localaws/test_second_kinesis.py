"""The second Kinesis that tests run against: it is installed if possible, and never left running."""

import os
from pathlib import Path

import pytest

from tests.localaws import second_kinesis
from tests.localaws.test_moto import check_end_with_parent


def test_kinesis_local_ends_with_a_parent_that_is_killed(kinesis_local: str) -> None:
    """A test session that was killed leaves nothing running."""
    check_end_with_parent("tests.localaws.second_kinesis")


def test_a_missing_node_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests that need it are skipped with this reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(second_kinesis.NotInstallableError, match="there is no node on PATH"):
        second_kinesis.install()


def install_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, **scripts: str) -> None:
    """Put shell scripts before all other programs."""
    for program, script in scripts.items():
        (folder / program).write_text(f"#!/bin/sh\n{script}\n")
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_an_error_of_npm_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It tells an offline machine from a broken lock file."""
    install_programs(monkeypatch, tmp_path, node="", npm="echo npm error code ENOTFOUND >&2; exit 1")
    monkeypatch.setattr(second_kinesis, "HOME", tmp_path)
    with pytest.raises(second_kinesis.NotInstallableError, match="npm ci .*: npm error code ENOTFOUND"):
        second_kinesis.install()


def test_a_server_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If Node.js and the package are there, no test is skipped silently."""
    install_programs(monkeypatch, tmp_path, node="exit 7")
    with pytest.raises(RuntimeError, match="exit code 7"), second_kinesis.serve():
        pass
