"""The soak: a small one, and whether its account notices what it is there for."""

import json
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model import Model, load_model
from rides import Prediction
from scripts.localaws.soak_account import Account, settle
from scripts.localaws.soak_rides import Expected, Outcome, Parcel, made_parcels
from scripts.sources.record import RideRecord
from tests.conftest import SAMPLE_MODEL
from tests.tools import failed, finish, start

PUT: dict[str, Outcome] = {"a:1": Expected(7, 12.5), "a:2:0": Expected("seven", 3.25), "a:2:1": None}
"""Two good rides and a bad one."""


def predicted(event_id: str, ride_id: int | str, minutes: float) -> Prediction:
    """Build a prediction."""
    return Prediction("model", "version", "ride_duration", minutes, ride_id, event_id)


RIGHT = [predicted("a:1", 7, 12.5), predicted("a:2:0", "seven", 3.25)]


def account(predictions: Iterable[Prediction] = RIGHT, rejections: Iterable[str] = ("a:2:1",)) -> Account:
    """Settle the account of the three rides."""
    return settle(PUT, predictions, rejections)


EXACT = Account(put=3, predicted=2, rejected=1, duplicates=0, missing=[], unknown=[], contradictory=[], wrong=[])


def test_an_account_is_exact_where_each_ride_is_predicted_or_rejected() -> None:
    """As it had to be."""
    assert account() == EXACT
    assert EXACT.is_exact


def test_what_came_twice_is_counted() -> None:
    """A duplicate prediction is in order; so is a rejection that two objects hold."""
    assert account([*RIGHT, *RIGHT], ["a:2:1", "a:2:1"]) == replace(EXACT, duplicates=2)


@pytest.mark.parametrize(
    ("found", "noticed"),
    [
        pytest.param(account(RIGHT[:1]), {"predicted": 1, "missing": ["a:2:0"]}, id="a good ride is missing"),
        pytest.param(account(rejections=[]), {"rejected": 0, "missing": ["a:2:1"]}, id="a bad ride is missing"),
        pytest.param(
            account([*RIGHT, predicted("a:9", 9, 1.0)]), {"predicted": 3, "unknown": ["a:9"]}, id="unknown prediction"
        ),
        pytest.param(account(rejections=["a:2:1", "a:9"]), {"rejected": 2, "unknown": ["a:9"]}, id="unknown rejection"),
        pytest.param(
            account(rejections=["a:2:1", "a:1"]),
            {"rejected": 2, "contradictory": ["a:1"], "wrong": ["a:1"]},
            id="a good ride is rejected too",
        ),
        pytest.param(
            account([*RIGHT, predicted("a:2:1", 8, 1.0)]),
            {"predicted": 3, "contradictory": ["a:2:1"], "wrong": ["a:2:1"]},
            id="a bad ride is predicted too",
        ),
        pytest.param(
            account(RIGHT[:1], ["a:2:0", "a:2:1"]),
            {"predicted": 1, "rejected": 2, "wrong": ["a:2:0"]},
            id="a good ride is rejected instead",
        ),
        pytest.param(account([predicted("a:1", 7, 12.5000001), RIGHT[1]]), {"wrong": ["a:1"]}, id="another duration"),
        pytest.param(account([predicted("a:1", "7", 12.5), RIGHT[1]]), {"wrong": ["a:1"]}, id="another ride_id"),
        pytest.param(
            account([*RIGHT, predicted("a:1", 7, 99.0)]), {"duplicates": 1, "wrong": ["a:1"]}, id="a wrong duplicate"
        ),
    ],
)
def test_an_account_names_what_is_not_in_order(found: Account, noticed: dict[str, Any]) -> None:
    """By event id, and it is not exact."""
    assert found == replace(EXACT, **noticed)
    assert not found.is_exact


@pytest.fixture(scope="module")
def model() -> Model:
    """Load the sample model."""
    return load_model(SAMPLE_MODEL)


def test_the_rides_are_the_same_for_a_seed(model: Model) -> None:
    """As many as asked for, the bad ones among them, and every tenth of them in an aggregated record."""
    parcels = list(made_parcels(1010, 2.0, 5, model))
    assert parcels == list(made_parcels(1010, 2.0, 5, model))
    assert parcels != list(made_parcels(1010, 2.0, 6, model))
    outcomes = [outcome for parcel in parcels for outcome in parcel.outcomes]
    assert len(outcomes) == 1010
    assert outcomes.count(None) == 21
    assert sum(len(parcel.outcomes) for parcel in parcels if parcel.is_aggregated) == 101


def test_a_ride_in_an_aggregated_record_has_its_place_in_its_event_id() -> None:
    """As the function names them, even where it is the only one."""
    record = RideRecord("7", b"")
    assert Parcel(record, [None]).event_ids("a", "5") == ["a:5"]
    assert Parcel(record, [None], is_aggregated=True).event_ids("a", "5") == ["a:5:0"]
    assert Parcel(record, [None, None], is_aggregated=True).event_ids("a", "5") == ["a:5:0", "a:5:1"]


def test_a_small_soak_loses_nothing(tmp_path: Path) -> None:
    """At the hard rates, with sandboxes killed: put = distinct predicted + distinct rejected."""
    arguments = ("--rides", "2000", "--shards", "2", "--seed", "87", "--kill-every", "10", "--json", "-")
    done = finish("soak", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["exact"]
    assert (report["account"]["predicted"], report["account"]["rejected"]) == (1960, 40)
    assert report["account"]["put"] == 2000
    assert report["toll"]["kills"] > 0
    assert report["toll"]["cold_starts"] >= 2
    faults = " ".join(report["toll"]["faults"])
    assert "entries answered" in faults
    assert "dropped" in faults


def test_ctrl_c_ends_it_with_the_account_so_far(tmp_path: Path) -> None:
    """Nothing is there that was not put, and what had no time is missing."""
    with start("soak", "--rides", "20000", "--shards", "1", "--json", "account.json", cwd=tmp_path) as soak:
        assert soak.stderr
        assert any("Ctrl-C ends it" in line for line in soak.stderr)
        soak.send_signal(signal.SIGINT)
        printed, said = soak.communicate()
    assert soak.returncode == 130, said
    assert "was interrupted" in printed
    report = json.loads((tmp_path / "account.json").read_text())
    assert report["interrupted"]
    account = report["account"]
    assert 0 < account["put"] == account["predicted"] + account["rejected"] + len(account["missing"])
    assert not account["unknown"] + account["contradictory"] + account["wrong"]


def test_a_file_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    """And not after minutes."""
    assert "nowhere/account.json cannot be written" in failed(finish("soak", "--json", "nowhere/account.json"))


@pytest.mark.parametrize(
    ("option", "value"), [("--bad", "101"), ("--bad", "few"), ("--kill-every", "-1"), ("--kill-every", "often")]
)
def test_an_option_out_of_bounds_is_refused(option: str, value: str) -> None:
    """With what it may be."""
    done = finish("soak", option, value)
    assert done.returncode == 2
    assert f"argument {option}: {value} is not a" in done.stderr
