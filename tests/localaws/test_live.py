"""The live page's collector and server in this process: what they count, and that they leave nothing behind."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from rides import Ride
from scripts.aws.shards import ShardReader, shard_ids
from scripts.cli import INPUT_STREAM, SAMPLE_MODEL
from scripts.live import collector, figures, server
from scripts.live.figures import Figures, RunningErrors, percentile
from scripts.live.ledger import GIVEN_UP, PREDICTED, REJECTED, InputRides, Outcomes, RidePlace
from scripts.localaws import faults, setup
from scripts.localaws.consumers import MAPPING, DeliveredRides, RunningConsumer
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.setup import LocalStack, ModelCopy
from scripts.sources.records import aggregate
from scripts.sources.synthetic import generate_rides
from targets import DURATION
from tests.tools import PATIENCE, wait_for

pytestmark = pytest.mark.slow
SWITCH = faults.Switch(faults.no_fault, is_on=False)


@pytest.fixture
def model() -> ModelCopy:
    """Copy the sample model."""
    return setup.copy_model(str(SAMPLE_MODEL))


@pytest.fixture
def local(model: ModelCopy) -> Iterator[LocalStack]:
    """Run a local AWS with the streams and buckets of one consumer."""
    with setup.start(1, [(model, setup.LIVE)]) as local:
        yield local


class Tab:
    """A client that follows the snapshots of a page, as a browser's tab does."""

    def __init__(self, url: str) -> None:
        """Ask for the snapshots."""
        self._connection = http.client.HTTPConnection(url.split("/")[2], timeout=PATIENCE)
        self._connection.request("GET", "/events")
        self._response = self._connection.getresponse()
        assert self._response.getheader("Content-Type") == "text/event-stream"

    def read(self) -> dict[str, Any]:
        """Return the next snapshot."""
        while not (line := self._response.readline()).startswith(b"data: "):
            assert line, "the server has ended the connection"
        found: dict[str, Any] = msgspec.json.decode(line[len("data: ") :])
        return found

    def close(self) -> None:
        """Close the connection, as a tab does that is closed."""
        self._response.close()
        self._connection.close()


def test_a_tab_that_is_closed_leaves_no_thread(local: LocalStack) -> None:
    """Two tabs get snapshots, the other one goes on when one is closed, and the end of the block ends it too."""
    before = set(threading.enumerate())
    with server.serve(local, [], [], SWITCH) as url:
        of_the_server = set(threading.enumerate())
        with contextlib.closing(Tab(url)) as first, contextlib.closing(Tab(url)) as second:
            assert first.read()["rides"] == second.read()["rides"] == 0
            first.close()
            wait_for(lambda: len(set(threading.enumerate()) - of_the_server) == 1)
            second.read()
        with contextlib.closing(Tab(url)) as third:
            third.read()
        idle = http.client.HTTPConnection(url.split("/")[2])
        idle.connect()  # browsers open connections that they may need
    assert set(threading.enumerate()) <= before


def test_nothing_is_read_while_nobody_looks(local: LocalStack) -> None:
    """A tab that is opened later shows all rides that came before."""
    with server.serve(local, [], [], SWITCH) as url:
        put(local, 3)
        with contextlib.closing(Tab(url)) as tab:
            assert tab.read()["rides"] == 3
        put(local, 4)
        with contextlib.closing(Tab(url)) as tab:
            wait_for(lambda: tab.read()["rides"] == 7)


def put(local: LocalStack, number: int, packed: int = 0) -> None:
    """Put rides on the input stream, and as many again as ``packed`` says in one aggregated record."""
    rides = generate_rides(number + packed, 1)
    records = rides[:number] + (aggregate(rides[number:]) if packed else [])
    entries: Any = [{"Data": one.data, "PartitionKey": one.partition_key} for one in records]
    assert local.kinesis.put_records(StreamName=INPUT_STREAM, Records=entries)["FailedRecordCount"] == 0


def test_rides_that_are_given_up_are_not_behind(local: LocalStack, model: ModelCopy) -> None:
    """Each ride of an aggregated record counts."""

    def fail(event: dict[str, Any]) -> None:
        raise ValueError("no ride can be predicted")

    settings = replace(MAPPING, maximum_retry_attempts=0, on_failure=f"s3://{setup.LIVE.failures_bucket}")
    mapping = EventSourceMapping(local.kinesis, local.s3, INPUT_STREAM, fail, settings)
    consumer = RunningConsumer("broken", model, setup.LIVE, mapping, DeliveredRides())
    with mapping, server.serve(local, [consumer], [[]], SWITCH) as url, contextlib.closing(Tab(url)) as tab:
        put(local, 3, packed=20)
        wait_for(lambda: tab.read()["consumers"][0]["given_up"] == 23)
        (found,) = tab.read()["consumers"]
    assert (found["predicted"], found["rejected"], found["behind"]) == (0, 0, 0)


def test_a_ride_is_found_by_its_event_id() -> None:
    """Shards have numbers of their own, and the rides of an aggregated record follow each other."""
    rides = InputRides(1000.0)
    for shard, number, arrived, size in (
        ("a", 1, 1001.5, 1),
        ("b", 1, 1002.5, 1),
        ("a", 2, 1003.5, 3),
        ("a", 3, 1004, 1),
    ):
        rides.add(shard, number, arrived, size)
    found = {one: rides.find(one) for one in ("a:1", "b:1", "a:2:0", "a:2:2", "a:3")}
    assert list(found.values()) == [
        RidePlace("a", 0),
        RidePlace("b", 0),
        RidePlace("a", 1),
        RidePlace("a", 3),
        RidePlace("a", 4),
    ]
    assert [rides.arrival(place) for place in found.values() if place] == [1001.5, 1002.5, 1003.5, 1003.5, 1004]
    assert rides.find_record("a:2") == [("a", 1), ("a", 2), ("a", 3)]
    assert [rides.find(one) for one in ("a:0", "a:4", "b:2", "c:1", "a", "a:x", "a:2:3", "unknown:1")] == [None] * 8
    assert rides.count == 6
    with pytest.raises(ValueError, match="a has record 9 after record 3"):
        rides.add("a", 9, 1005, 1)


@pytest.mark.parametrize(
    ("marks", "counts"),
    [
        ([PREDICTED, PREDICTED], (1, 0, 0, 1)),
        ([PREDICTED, REJECTED], (1, 1, 0, 1)),
        ([GIVEN_UP, GIVEN_UP], (0, 0, 1, 0)),
        ([GIVEN_UP, PREDICTED], (1, 0, 0, 1)),
        ([REJECTED, GIVEN_UP], (0, 1, 0, 1)),
    ],
)
def test_a_ride_counts_once(marks: list[int], counts: tuple[int, ...]) -> None:
    """A ride that was given up and is predicted later does not count as given up."""
    outcomes = Outcomes()
    is_new = [outcomes.mark(RidePlace("a", 5), mark) for mark in marks]
    assert is_new == [True, marks[0] != marks[1]]
    assert (outcomes.predicted, outcomes.rejected, outcomes.given_up, outcomes.settled) == counts


def test_producers_cannot_make_the_page_grow() -> None:
    """A reason's place in the data is left out, a long reason is cut off, and further reasons are counted together."""
    found = Figures(DURATION)
    for number in range(3):
        found.rejected("json", f"JSON is malformed: invalid character (byte {number})")
        found.rejected("utf-8", f"the data is not UTF-8: invalid start byte at byte {number}")
    for number in range(2 * figures.REASONS):
        found.rejected("ride", f"{number} {'x' * 1000}")
    reasons = found.summary(0, 0.0)["reasons"]
    assert reasons[:2] == [
        ["json", "JSON is malformed: invalid character", 3],
        ["utf-8", "the data is not UTF-8: invalid start byte", 3],
    ]
    assert len(reasons) == figures.REASONS + 1
    assert max(len(reason) for _, reason, _ in reasons) == figures.MAX_REASON
    assert sum(number for _, _, number in reasons) == 6 + 2 * figures.REASONS


def test_errors_are_those_of_the_rides_that_models_are_trained_on() -> None:
    """An hour's ride that lasted a day, and a ride of no miles, are known and left out."""
    errors, ride = RunningErrors(DURATION), Ride(1, 2, 3.0)
    assert errors.summary() is None
    for one, actual, predicted in ((ride, 10, 13), (ride, 10, 6), (ride, 1440, 10), (Ride(1, 2, 0.0), 10, 10)):
        errors.add(one, actual, predicted)
    found = errors.summary()
    assert found
    assert (found["rides"], found["known"], found["mae"], found["rmse"]) == (2, 4, 3.5, 12.5**0.5)


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (95, 4), (100, 4)])
def test_a_percentile_is_one_of_the_values(percent: int, value: int) -> None:
    """A percentile is the nearest rank, as in the report of a run."""
    assert percentile([1, 2, 3, 4], percent) == value
    assert percentile([], percent) is None


def test_a_rate_is_that_of_the_time_until_which_all_was_counted() -> None:
    """A page that reads late shows no rates of 0 for seconds that it has not read."""
    found = Figures(DURATION)
    for number in range(10):
        found.predicted(1000 + number / 2, 1000.0)
    assert found.summary(10, 1005.0)["rate"] == 2
    assert found.summary(10, 1020.0)["rate"] == 0


def test_a_stream_with_more_records_is_read_until_the_last_one(
    local: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream without more is read until now."""
    monkeypatch.setattr(collector, "FULL_READ", 40)
    readers = [ShardReader(local.kinesis, INPUT_STREAM, one) for one in shard_ids(local.kinesis, INPUT_STREAM)]
    put(local, 40)
    began = time.time()
    found = collector.read_on(readers)
    _, last = found.records[-1]
    assert (len(found.records), found.is_all) == (40, False)
    assert found.until == last["ApproximateArrivalTimestamp"].timestamp() < began
    found = collector.read_on(readers)
    assert (found.records, found.is_all) == ([], True)
    assert began < found.until < time.time()
