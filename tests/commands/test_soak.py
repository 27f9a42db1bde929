"""The soak: a small one, its end by Ctrl-C, and its options."""

import json
import signal
from pathlib import Path

import pytest

from tests.tools import failed, finish, start


def test_a_small_soak_loses_nothing(tmp_path: Path) -> None:
    """The calls fail at the hard rates, and sandboxes are killed; still the account is exact."""
    arguments = ("--rides", "2000", "--shards", "2", "--seed", "87", "--kill-every", "10", "--json", "-")
    done = finish("soak", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["exact"]
    assert (report["account"]["predicted"], report["account"]["rejected"]) == (1960, 40)
    assert report["account"]["put"] == 2000
    assert report["statistics"]["kills"] > 0
    assert report["statistics"]["cold_starts"] >= 2
    faults = " ".join(report["statistics"]["faults"])
    assert "entries answered" in faults
    assert "dropped" in faults


def test_ctrl_c_ends_it_with_the_account_so_far(tmp_path: Path) -> None:
    """Nothing is there that was not put. Rides that had no time are missing."""
    with start("soak", "--rides", "20000", "--shards", "1", "--json", "account.json", cwd=tmp_path) as soak:
        assert soak.stderr
        assert any("Ctrl-C ends it" in line for line in soak.stderr)
        soak.send_signal(signal.SIGINT)
        printed, stderr = soak.communicate()
    assert soak.returncode == 130, stderr
    assert "was interrupted" in printed
    report = json.loads((tmp_path / "account.json").read_text())
    assert report["interrupted"]
    account = report["account"]
    assert 0 < account["put"] == account["predicted"] + account["rejected"] + len(account["missing"])
    assert not account["unknown"] + account["contradictory"] + account["wrong"]


def test_a_file_that_cannot_be_written_is_an_error_at_once() -> None:
    """The error does not come after minutes."""
    assert "nowhere/account.json cannot be written" in failed(finish("soak", "--json", "nowhere/account.json"))


@pytest.mark.parametrize(
    ("command", "option", "value", "limits"),
    [
        ("soak", "--bad", "101", "a percentage from 0 to 100"),
        ("soak", "--bad", "few", "a percentage from 0 to 100"),
        ("soak", "--kill-every", "-1", "a number of seconds from 0 to 604,800"),
        ("soak", "--kill-every", "often", "a number of seconds from 0 to 604,800"),
        ("soak", "--kill-every", "9e9", "a number of seconds from 0 to 604,800"),
        ("soak", "--shards", "33", "a number from 1 to 32"),
        ("run", "--shards", "1000000", "a number from 1 to 32"),
        ("run", "--rides", "1000000000000", "a number from 1 to 1,000,000"),
        ("run", "--rides", "9" * 5000, "a number from 1 to 1,000,000"),
        ("put-rides", "--rides", "0", "a number from 1 to 1,000,000"),
        ("read-predictions", "--limit", "-1", "a number from 1 to 1,000,000"),
        ("read-predictions", "--idle", "inf", "a number of seconds from 0 to 604,800"),
        ("read-predictions", "--idle", "nan", "a number of seconds from 0 to 604,800"),
        ("smoke-test", "--timeout", "1e300", "a number of seconds from 0 to 604,800"),
    ],
    ids=lambda value: value[:20],
)
def test_an_option_out_of_bounds_is_refused(command: str, option: str, value: str, limits: str) -> None:
    """The error says what it may be, before anything is started."""
    done = finish(command, option, value)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"{command}: error: argument {option}: {value} is not {limits}"
