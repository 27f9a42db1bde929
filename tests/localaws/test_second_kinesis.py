"""The second Kinesis that tests run against: it is installed if possible, and never left running."""

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
