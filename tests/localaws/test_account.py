"""The account of a run: whether it notices each way in which rides can go wrong."""

import math
import threading
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from model import load_model
from rides import Prediction, encode_prediction
from scripts.aws.predictions import ReadPrediction
from scripts.cli import INPUT_STREAM, OUTPUT_STREAM
from scripts.localaws import account as accounts
from scripts.localaws import setup
from scripts.localaws.account import Account, ExpectedRecord, PutRide, expect_records, reconcile, take_account
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.report import latency
from scripts.localaws.rules import MappingSettings
from scripts.sources.records import RideRecord
from streaming.records import RejectionLine
from tests.conftest import SAMPLE_MODEL, Clock
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

RECORD = RideRecord("7", b"")
OUTCOMES = {"a:1": (7, 12.5), "a:2:0": ("seven", 3.25), "a:2:1": "rejected", "a:3": "either"}
"""Two good rides, a bad one, and one that may be either."""


def predicted(event_id: str, ride_id: int | str, minutes: float, at: float = 2.0) -> ReadPrediction:
    """Build a prediction that arrived ``at`` seconds after the epoch."""
    prediction = Prediction("model", "version", "ride_duration", minutes, ride_id, event_id)
    return ReadPrediction(prediction, b"", datetime.fromtimestamp(at, UTC))


RIGHT = [predicted("a:1", 7, 12.5), predicted("a:2:0", "seven", 3.25), predicted("a:3", 8, 1.0)]


def account(
    predictions: Iterable[ReadPrediction] = RIGHT,
    rejections: Iterable[str] = ("a:2:1",),
    given_up: Set[str] = frozenset(),
) -> Account:
    """Reconcile the four rides, which were put one second after the epoch."""
    rides: Any = {event_id: PutRide(RECORD, outcome, 1.0) for event_id, outcome in OUTCOMES.items()}  # type: ignore[arg-type]
    lines = [RejectionLine(kind="ride", reason="bad", event_id=event_id, data="") for event_id in rejections]
    return reconcile(rides, predictions, lines, given_up)


def summary(found: Account) -> dict[str, Any]:
    """Return the parts of an account that are not empty, with event ids in place of predictions and rejections."""
    parts = {name: getattr(found, name) for name in ("missing", "unknown", "contradictory", "wrong", "duplicates")}
    given_up = {"given_up": sorted(found.given_up)}
    return {name: value for name, value in {**parts, **given_up}.items() if value}


def test_an_account_is_exact_if_each_ride_is_predicted_or_rejected_as_it_must_be() -> None:
    """A ride whose outcome nobody knows may be either."""
    for found in (account(), account(RIGHT[:2], ["a:2:1", "a:3"])):
        assert found.is_exact
        assert summary(found) == {}
        assert found.put == len(found.predicted) + len(found.rejected) == 4


def test_repeated_predictions_count_once_and_as_the_first_one() -> None:
    """Delivery is at least once, so duplicates and two objects with a rejection are in order."""
    found = account([predicted("a:3", 8, 1.0, at=9), *RIGHT], ["a:2:1", "a:2:1"])
    assert found.is_exact
    assert summary(found) == {"duplicates": 1}
    assert found.predicted["a:3"] == RIGHT[2]


ANOMALIES = {
    "a good ride is missing": (account(RIGHT[1:]), {"missing": ["a:1"]}),
    "a bad ride is missing": (account(rejections=[]), {"missing": ["a:2:1"]}),
    "unknown prediction": (account([*RIGHT, predicted("a:9", 9, 1.0)]), {"unknown": ["a:9"]}),
    "unknown rejection": (account(rejections=["a:2:1", "a:9"]), {"unknown": ["a:9"]}),
    "a good ride is rejected too": (account(RIGHT, ["a:2:1", "a:1"]), {"contradictory": ["a:1"], "wrong": ["a:1"]}),
    "a bad ride is predicted too": (
        account([*RIGHT, predicted("a:2:1", 8, 1.0)]),
        {"contradictory": ["a:2:1"], "wrong": ["a:2:1"]},
    ),
    "a good ride is rejected instead": (account(RIGHT[1:], ["a:1", "a:2:1"]), {"wrong": ["a:1"]}),
    "another duration": (account([predicted("a:1", 7, 12.5000001), *RIGHT[1:]]), {"wrong": ["a:1"]}),
    "another ride_id": (account([predicted("a:1", "7", 12.5), *RIGHT[1:]]), {"wrong": ["a:1"]}),
    "a wrong duplicate": (account([*RIGHT, predicted("a:1", 7, 99.0)]), {"duplicates": 1, "wrong": ["a:1"]}),
    "given up": (account(RIGHT[2:], [], {"a:1", "a:2", "a:3"}), {"given_up": ["a:1", "a:2:0", "a:2:1"]}),
}


@pytest.mark.parametrize(("found", "noticed"), ANOMALIES.values(), ids=ANOMALIES)
def test_an_account_names_rides_that_are_not_in_order(found: Account, noticed: dict[str, Any]) -> None:
    """It names their event ids, and it is not exact."""
    assert summary(found) == noticed
    assert not found.is_exact


@pytest.mark.parametrize(("percent", "seconds"), [(50, 5.0), (95, 10.0), (90, 9.0), (1, 1.0)])
def test_a_percentile_is_a_latency_that_was_measured(percent: int, seconds: float) -> None:
    """It is the nearest rank; without predictions there is none."""
    rides = {str(number): PutRide(RECORD, "either", 1.0) for number in range(10)}
    found = reconcile(rides, [predicted(ride, ride, 1.0, at=2 + int(ride)) for ride in rides], [])
    assert latency(found, rides, percent) == seconds
    assert latency(replace(found, predicted={}), rides, percent) is None


@pytest.fixture
def local_aws(kinesis: "KinesisClient", s3: "S3Client") -> Iterator[None]:
    """Create the streams and buckets of the local stack; delete the streams, whose names other tests use too."""
    setup.create(kinesis, s3, shards=2)
    yield
    for stream in (INPUT_STREAM, OUTPUT_STREAM):
        kinesis.delete_stream(StreamName=stream)


@pytest.mark.usefixtures("local_aws")
def test_rides_are_found_wherever_they_ended(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> None:
    """They are in the output stream, among the rejections, or in the mapping's on-failure destination."""
    for event_id in ("a:1", "a:2"):
        data = encode_prediction(Prediction("model", "version", "ride_duration", 12.5, 7, event_id))
        kinesis.put_record(StreamName=OUTPUT_STREAM, PartitionKey=event_id, Data=data)
    lines = [RejectionLine(kind="ride", reason="bad", event_id=event_id, data="") for event_id in ("a:3", "a:4")]
    body = msgspec.json.Encoder().encode_lines(lines)
    s3.put_object(Bucket=setup.FAILURES_BUCKET, Key="rejections/a/b/1-2.jsonl", Body=body)
    put = kinesis.put_record(StreamName=stream, PartitionKey="5", Data=b"{}")
    lost = f"{put['ShardId']}:{put['SequenceNumber']}"

    def fail(event: dict[str, Any]) -> None:
        raise ValueError

    settings = MappingSettings(maximum_retry_attempts=0, on_failure=f"s3://{setup.FAILURES_BUCKET}")
    with EventSourceMapping(kinesis, s3, stream, fail, settings) as mapping:
        assert mapping.wait_for(1, timeout=PATIENCE)
    event_ids = ["a:1", "a:2", "a:3", "a:4", lost, "a:6"]
    found = take_account({one: PutRide(RECORD, "either", 1.0) for one in event_ids}, kinesis, s3)
    assert (sorted(found.predicted), sorted(found.rejected)) == (["a:1", "a:2"], ["a:3", "a:4"])
    assert (found.given_up, found.missing) == ({lost}, ["a:6"])


def test_the_rides_of_a_soak_are_the_same_for_a_seed() -> None:
    """The bad rides are among them, and every tenth ride is in an aggregated record."""
    model = load_model(SAMPLE_MODEL)
    records = list(expect_records(1010, 2.0, 5, model))
    assert records == list(expect_records(1010, 2.0, 5, model))
    assert records != list(expect_records(1010, 2.0, 6, model))
    outcomes = [outcome for record in records for outcome in record.outcomes]
    assert (len(outcomes), outcomes.count("rejected")) == (1010, 21)
    assert sum(len(record.outcomes) for record in records if record.is_aggregated) == 101


def test_a_ride_in_an_aggregated_record_has_its_place_in_its_event_id() -> None:
    """So has the only ride of one, as the function names them."""
    assert ExpectedRecord(RECORD).event_ids("a", "5") == ["a:5"]
    packed = ExpectedRecord(RECORD, ["rejected", "rejected"], is_aggregated=True)
    assert packed.event_ids("a", "5") == ["a:5:0", "a:5:1"]
    assert ExpectedRecord(RECORD, ["rejected"], is_aggregated=True).event_ids("a", "5") == ["a:5:0"]


class _Pauses(threading.Event):
    """An event whose wait lets the time of a clock pass."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.sleep(timeout or 0)
        return self.is_set()


@pytest.mark.parametrize("rate", [2000, 7])
@pytest.mark.parametrize("slow", [0, 0.6], ids=["quick requests", "a slow request"])
def test_a_rate_lets_records_flow_steadily(monkeypatch: pytest.MonkeyPatch, rate: int, slow: float) -> None:
    """No record comes before its time. After a slow request, the others catch up: the last comes after 3 seconds."""
    clock = Clock()
    monkeypatch.setattr(accounts, "time", clock)
    put, times = 0, []
    for chunk in accounts._chunks([ExpectedRecord(RECORD)] * (3 * rate + 1), rate, _Pauses(clock)):
        put += len(chunk)
        times.append(clock.now)
        assert put <= clock.now * rate + 1 + 1e-9
        assert len(chunk) <= 500
        clock.sleep(slow if len(times) == 2 else 0)
    assert put == 3 * rate + 1
    assert 3 <= times[-1] + 1e-9 < 3 + 2 * max(1 / rate, accounts.PUT_SECONDS)


def test_without_a_rate_requests_are_full_and_a_stop_ends_them() -> None:
    """Nothing waits between requests."""
    stopping = threading.Event()
    chunks = accounts._chunks([ExpectedRecord(RECORD)] * 1200, math.inf, stopping)
    assert [len(chunk) for chunk in chunks] == [500, 500, 200]
    chunks = accounts._chunks([ExpectedRecord(RECORD)] * 1200, math.inf, stopping)
    assert len(next(iter(chunks))) == 500
    stopping.set()
    assert list(chunks) == []
