"""The function counts the rides of each delivery in its line of metrics, and emits the drift of a sandbox's rides."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines import Baseline
from drift import Finding, Shares, judge
from model import load_model
from ride_counts import KEY, Counter, RideCounts
from rides import Ride
from scripts.localaws.faults import Call, FailedEntries
from scripts.localaws.rules import MappingSettings
from streaming import delivery, windows
from streaming.windows import DriftWindows
from tests.builders import copy_saying, ride_event
from tests.flow import RETRY, Chaos, Flow
from tests.watched_models import BASELINE, BINS, copy_watched, draw_rides


@pytest.fixture
def watched(tmp_path: Path) -> str:
    """Give the folder of a model with a baseline."""
    return copy_watched(tmp_path / "watched")


def as_event(number: int, ride: Ride) -> dict[str, Any]:
    """Build the JSON of a ride's record."""
    zones = {"PULocationID": ride.PULocationID, "DOLocationID": ride.DOLocationID}
    return ride_event(number, **zones, trip_distance=ride.trip_distance)


def count(model: str, rides: Sequence[Ride], rejected: int = 0) -> RideCounts:
    """Count rides in one batch."""
    loaded = load_model(model)
    counter = Counter(BINS)
    loaded.predict(rides, counter=counter)
    counter.rejected = rejected
    return counter.total()


def counts_of(lines: Sequence[dict[str, Any]]) -> list[RideCounts]:
    """Return the counts in lines of metrics, in order."""
    return [msgspec.convert(line[KEY], RideCounts) for line in lines if "_aws" in line]


@pytest.mark.parametrize("batch_size", [1_000, 7, 1])
def test_the_lines_of_any_batches_add_up_to_the_rides_of_the_stream(flow: Flow, watched: str, batch_size: int) -> None:
    """Rejections count too, and the counts are no metric."""
    rides = draw_rides(20)
    events = [*(as_event(*one) for one in enumerate(rides)), b"{", ride_event(trip_distance=-1)]
    settings = MappingSettings(report_batch_item_failures=True, batch_size=batch_size)
    flow.deliver(flow.function(MODEL_LOCATION=watched), flow.put(*events), settings)
    found = counts_of(flow.printed)
    total = sum(found[1:], found[0])
    assert total == count(watched, rides, rejected=2)
    metrics = [line for line in flow.printed if "_aws" in line]
    names = {metric["Name"] for line in metrics for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert not names & {KEY, "Drift"}


def test_a_redelivered_ride_counts_at_each_delivery_and_once_on_the_stream(
    flow: Flow, watched: str, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of a delivery that left rides undelivered says so. A reader of the predictions drops duplicates."""
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1)
    rides = draw_rides(20)
    records = flow.put(*(as_event(*one) for one in enumerate(rides)))

    def fail_once(call: Call) -> FailedEntries | None:
        return FailedEntries(frozenset({5, 12})) if call.number == 0 else None

    with chaos(lambda call: fail_once(call) or (FailedEntries(frozenset({0, 1})) if call.number == 1 else None)):
        counters = flow.deliver(flow.function(MODEL_LOCATION=watched), records)
    assert counters.redelivered > 0
    first, second = (line for line in flow.printed if "_aws" in line)
    # Lambda redelivers from the first undelivered ride on.
    assert (first["Undelivered"], second["Undelivered"]) == ([2], [0])
    assert counts_of([first, second]) == [count(watched, rides), count(watched, rides[5:])]
    ids = flow.predicted()
    assert len(ids) == 20 + 13
    assert count(watched, [rides[number] for number in set(ids)]) == count(watched, rides)


def test_a_model_without_a_baseline_counts_nothing(flow: Flow, tmp_path: Path) -> None:
    """The metrics lines still have the other metrics."""
    function = flow.function(MODEL_LOCATION=copy_saying({}, tmp_path / "model"))
    flow.deliver(function, flow.put(ride_event()))
    assert flow.metric("Rides") == 1
    assert not any(KEY in line for line in flow.printed)


class TestDrift:
    """The metric Drift."""

    def test_it_is_the_worst_finding_of_each_window_of_a_sandbox(
        self, flow: Flow, watched: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A window has whole batches. The next one begins with no rides."""
        monkeypatch.setattr(windows, "RIDES", 250)
        rides = draw_rides(700)
        settings = MappingSettings(report_batch_item_failures=True, batch_size=60)
        flow.deliver(flow.function(MODEL_LOCATION=watched), flow.put(*map(as_event, range(700), rides)), settings)
        expected, emitted, window = [], [], RideCounts(BINS.name)
        for line in (line for line in flow.printed if "_aws" in line):
            window += msgspec.convert(line[KEY], RideCounts)
            if window.rides + window.without_distance >= 250:
                expected.append(judge(BASELINE, window)[0].excess)
                window = RideCounts(BINS.name)
                assert {"Name": "Drift", "Unit": "None"} in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
            emitted += line.get("Drift", [])
        assert emitted == expected
        assert len(emitted) >= 2

    @pytest.mark.parametrize(("predicted", "rejected"), [(0, 1), (1, 0)], ids=["rejected", "without distance"])
    def test_rides_that_are_in_no_histogram_complete_a_window_too(self, predicted: int, rejected: int) -> None:
        """Otherwise a stream of such rides alone would never be judged."""
        drift, counter = DriftWindows(), Counter(BINS)
        counter.add([Ride(10, 20, 0.0)] * 100 * predicted, [1.0] * 100 * predicted)
        counter.rejected = 100 * rejected
        found = [drift.add(counter) for _ in range(40)]
        assert [number for number, one in enumerate(found, 1) if one is not None] == [20, 40]
        assert all(one is None or one > 1 for one in found)

    def test_each_ride_is_in_one_window_if_several_shards_share_a_sandbox(
        self, watched: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The local mapping invokes the function for its shards at the same time."""
        judged: list[RideCounts] = []

        def note(_: Baseline, counts: RideCounts, __: Mapping[str, Shares]) -> list[Finding]:
            judged.append(counts)
            return []

        monkeypatch.setattr(windows, "judge", note)
        drift, counter = DriftWindows(), Counter(BINS)
        load_model(watched).predict(draw_rides(250), counter=counter)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: drift.add(counter), range(400)))
        assert [one.rides + one.without_distance for one in judged] == [2_000] * 50


@pytest.mark.parametrize("broken", ["ride_counts.Counter.add", "ride_counts.Counter.total", "streaming.windows.judge"])
def test_an_error_of_counting_fails_no_delivered_batch(
    flow: Flow, watched: str, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The predictions are delivered once, and the line has all other metrics."""
    monkeypatch.setattr(windows, "RIDES", 1)
    monkeypatch.setattr(broken, lambda *_: 1 / 0)
    counters = flow.deliver(flow.function(MODEL_LOCATION=watched), flow.put(ride_event(1), ride_event(2)), RETRY)
    assert (counters.redelivered, flow.predicted()) == (0, [1, 2])
    assert flow.metric("Predictions") == 2
    assert not json.dumps(flow.printed).count('"Drift"')
