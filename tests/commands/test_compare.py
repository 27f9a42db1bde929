"""Comparing two models by their output streams, from the command line."""

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scripts.aws.shards import read_window
from scripts.aws.windows import moment
from scripts.cli import CommandError
from scripts.commands.compare import main
from scripts.models.comparing import JoinedRides, ReadStream
from tests.tools import failed, finish
from tests.trip_records import trip, write

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

SHARD = "shardId-000000000000"
NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)


def output(
    ride_id: int | str, value: float, version: str = "v1", field: str = "ride_duration", event: str = ""
) -> bytes:
    """Build the data of an output record, whose event_id depends on the ride_id unless it is given."""
    prediction = {field: value, "ride_id": ride_id}
    event_id = f"{SHARD}:{event or ride_id}"
    return json.dumps({"model": "m", "version": version, "prediction": prediction, "event_id": event_id}).encode()


def put(client: "KinesisClient", stream: str, *data: bytes) -> None:
    """Put records in order."""
    for start in range(0, len(data), 500):
        entries: Any = [{"Data": one, "PartitionKey": "1"} for one in data[start : start + 500]]
        assert not client.put_records(StreamName=stream, Records=entries)["FailedRecordCount"]


@pytest.fixture
def shadow(kinesis: "KinesisClient", stream: str) -> str:
    """Create a second stream of two shards, and give its name."""
    kinesis.create_stream(StreamName=f"{stream}-shadow", ShardCount=2)
    return f"{stream}-shadow"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give a function that runs the command in this process, which takes less time, and returns what it prints."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare", *arguments])
        assert main() == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def refuse(run: Callable[..., str]) -> Callable[..., str]:
    """Give a function that runs the command, which raises an error, and returns the error's message."""

    def call(*arguments: str) -> str:
        with pytest.raises(CommandError) as raised:
            run(*arguments)
        return str(raised.value)

    return call


@pytest.mark.kinesis("moto", "kinesis-local")
def test_rides_are_joined_by_event_id(
    kinesis: "KinesisClient", stream: str, shadow: str, run: Callable[..., str]
) -> None:
    """The first prediction of an event_id counts. Rides of only one stream, and other records, are reported."""
    put(kinesis, stream, output(1, 10), output("a", 20), output(1, 99), output(3, 30), b"none", output(4, 40))
    put(kinesis, shadow, output(4, 40, "v2"), output(3, 26, "v2"), output(1, 11, "v2"), output(9, 1, "v2"))
    put(kinesis, shadow, output(7, 0, "v2").replace(b'"ride_duration": 0', b'"ride_duration": 1e300'))
    done = finish("compare", stream, shadow, "--top", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    live, other = found["live"], found["shadow"]
    assert [live[name] for name in ("model", "version", "rides", "repeats", "not_predictions")] == ["m", "v1", 4, 1, 1]
    assert [other[name] for name in ("version", "rides", "repeats", "not_predictions")] == ["v2", 4, 0, 1]
    assert (live["only_here"], other["only_here"]["rides"]) == ({"rides": 1, "examples": [f"{SHARD}:a"]}, 1)
    assert (found["rides_of_both"], live["share_that_the_other_has"]) == (3, 0.75)
    assert (found["field"], found["unit"], found["judgement"]) == ("ride_duration", "minutes", None)
    assert found["difference"] == pytest.approx({"mean": -1, "p50": 0, "p95": 0.9, "largest": -4})
    assert found["absolute_difference"] == pytest.approx({"mean": 5 / 3, "p50": 1, "p95": 3.7, "largest": 4})
    ride = {"ride_id": 3, "event_id": f"{SHARD}:3", "live": 30, "shadow": 26, "actual": None}
    assert found["most_different"] == [ride]
    shown = run(stream, shadow)
    for text in (
        "75.00 %",
        f"Only in {shadow}: 1 rides, such as {SHARD}:9",
        "1 predictions repeat",
        "Rides that differ",
    ):
        assert text in shown


def test_what_cannot_be_compared_is_one_line(
    kinesis: "KinesisClient", stream: str, shadow: str, refuse: Callable[..., str]
) -> None:
    """The error says in one line what was found and what to do."""
    assert "is given twice" in failed(finish("compare", stream, stream))
    assert f"there is no stream {stream}-none in" in refuse(stream, f"{stream}-none")
    assert f"{stream} has no prediction in this time: choose" in refuse(stream, shadow)
    put(kinesis, stream, output(1, 1), output(2, 1), output(3, 1, "v0"), b"{}")
    put(kinesis, shadow, output(8, 1, field="tip_amount"))
    several = refuse(stream, shadow)
    assert re.search(r"2 models \(m, version v1, ride_duration: 2 rides from 20.+Z; m, version v0", several)
    assert several.endswith("choose one with --live-version VERSION, or a time with --since and --until")
    v1 = (stream, shadow, "--live-version", "v1")
    assert f"{stream} predicts ride_duration and {shadow} tip_amount" in refuse(*v1)
    assert "no prediction of the version v9 in this time (2 of the version v1, 1 of the version v0, 1 rec" in refuse(
        stream, shadow, "--live-version", "v9"
    )
    put(kinesis, shadow, output(9, 1, "v2"))
    v2 = (*v1, "--shadow-version", "v2")
    assert f"no event_id is in both streams ({stream} has {SHARD}:1, {shadow} has {SHARD}:9)" in refuse(*v2)
    put(kinesis, shadow, output(5, 1, "v2", event="1"))
    assert "of the ride 1 and of 5 for the event_id" in refuse(*v2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--since", "1h", "--until", "2h"), "there is no time between 20"),
        (("--since", "2999-01-01"), "there is no time between 2999-01-01"),
        (("--since", "soon"), "soon is neither a time, such as 2026-02-03T04:05, nor an age"),
        (("--until", "9999999d"), "9999999d is neither"),
        (("--top", "-1"), "-1 is not a number from 0 to 1,000"),
        (("--actual", "not a stream"), "is neither the name nor the ARN of a stream"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    option: tuple[str, ...], message: str, run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command refuses these options before it reads anything."""
    with pytest.raises((CommandError, SystemExit)) as raised:
        run("live", "shadow", f"{option[0]}={option[1]}", *option[2:])
    assert message in f"{raised.value}{capsys.readouterr().err}"


def test_a_time_has_an_offset_or_is_an_age() -> None:
    """A time without an offset is in the time zone of this machine."""
    assert moment("2026-02-03T12:00Z") == moment("2026-02-03T13:00+01:00") == NOON
    assert moment("2026-02-03T12:00") == datetime(2026, 2, 3, 12).astimezone()
    assert abs(datetime.now(UTC) - timedelta(minutes=30) - moment("30m")) < timedelta(minutes=1)


def test_a_window_has_the_rides_whose_first_prediction_is_in_it() -> None:
    """A ride is in the window of its first prediction, even if the other stream's came after the window."""
    rides = JoinedRides(ReadStream("live"), ReadStream("shadow"))

    def read(stream: ReadStream, arrivals: dict[int, float]) -> None:
        records: Any = [
            (
                SHARD,
                {
                    "Data": output(ride, ride),
                    "SequenceNumber": "1",
                    "ApproximateArrivalTimestamp": NOON + timedelta(0, at),
                },
            )
            for ride, at in arrivals.items()
        ]
        assert list(rides.read(stream, [records])) == [len(records)]

    read(rides.live, {1: -2, 2: 1, 3: 2, 4: 59, 5: 61})
    read(rides.shadow, {1: 3, 2: -1, 3: 3, 4: 62, 5: 58})
    found = rides.join(NOON, NOON + timedelta(seconds=60))
    assert found.ride_ids == [3, 4, 5]
    assert found.coverage() == (1, 1)
    assert rides.join(None, NOON).ride_ids == [1, 2]


@pytest.mark.kinesis("moto", "kinesis-local")
def test_a_window_is_read_from_its_time_on_and_ends(kinesis: "KinesisClient", stream: str) -> None:
    """Reading ends at the first response that has only later records, or at the newest record."""
    put(kinesis, stream, b"1", b"2")
    (first, _) = kinesis.get_records(
        ShardIterator=kinesis.get_shard_iterator(StreamName=stream, ShardId=SHARD, ShardIteratorType="TRIM_HORIZON")[
            "ShardIterator"
        ]
    )["Records"]
    arrived = first["ApproximateArrivalTimestamp"]

    def read(since: datetime | None, until: datetime) -> list[bytes]:
        return [record["Data"] for found in read_window(kinesis, stream, since, until, 0) for _, record in found]

    hour = timedelta(hours=1)
    assert read(None, datetime.now(UTC) + hour) == read(arrived - hour, datetime.now(UTC) + hour) == [b"1", b"2"]
    assert read(None, arrived - hour) == []


def predict_many(kinesis: "KinesisClient", stream: str, shadow: str, rides: int) -> list[tuple[str, float]]:
    """Put the predictions of two models, of which the shadow is better, and return the actual values by ride_id."""
    draw = np.random.default_rng(3)
    actual = [(f"2023/02_{number}", float(value)) for number, value in enumerate(draw.uniform(5, 50, rides).round())]
    for name, spread in ((stream, 5), (shadow, 2)):
        put(kinesis, name, *(output(ride, value + draw.normal(0, spread), name) for ride, value in actual))
    return actual


def test_actual_values_of_a_stream_decide(
    kinesis: "KinesisClient", stream: str, shadow: str, run: Callable[..., str]
) -> None:
    """Unknown and repeated values, and other records, are counted, and the last value of a ride counts."""
    actual = predict_many(kinesis, stream, shadow, 400)
    put(kinesis, stream, output(actual[0][0], 999, stream, event="again"))
    put(kinesis, shadow, output(actual[0][0], 999, shadow, event="again"))
    kinesis.create_stream(StreamName=f"{stream}-actual", ShardCount=1)
    given: list[dict[str, Any]] = [
        {"ride_id": ride, "ride_duration": value, "payment": 1} for ride, value in actual[:-1]
    ]
    given[1]["ride_duration"] = 61
    wrong = {"ride_id": actual[5][0], "ride_duration": -1e9}
    others: list[Any] = [{"ride_id": "other", "ride_duration": 5}, {"ride_id": 1}, "text"]
    put(kinesis, f"{stream}-actual", *(json.dumps(one).encode() for one in (wrong, *given, *others)))
    found = json.loads(run(stream, shadow, "--json", "--actual", f"{stream}-actual"))["judgement"]
    counts = ("rides", "missing", "unusual", "repeated_rides", "unknown", "repeated_actuals", "not_actuals")
    assert [found[name] for name in counts] == [398, 1, 1, 1, 1, 1, 2]
    assert found["live"]["rmse"] == pytest.approx(5, 0.2)
    assert found["shadow"]["rmse"] == pytest.approx(2, 0.2)
    assert found["verdict"]["verdict"] == "better"
    assert found["verdict"]["low"] < found["verdict"]["difference"] < found["verdict"]["high"] < 0
    shown = run(shadow, stream, "--actual", f"{stream}-actual")
    assert "Verdict on 398 rides: the shadow is worse: its MAE differs by +" in shown


def test_a_trip_record_file_has_actual_values(
    kinesis: "KinesisClient",
    stream: str,
    shadow: str,
    tmp_path: Path,
    run: Callable[..., str],
    refuse: Callable[..., str],
) -> None:
    """Rides that models are not trained on are left out. A few rides give no verdict, and JSON has no infinity."""
    file = tmp_path / "green_tripdata_2023-02.parquet"
    write(file, [trip(15), trip(10, trip_distance=0), trip(1439), trip(20)])
    for name, value in ((stream, 15), (shadow, 18)):
        put(kinesis, name, *(output(f"2023/02_{row}", value, name) for row in range(3)))
    arguments = (stream, shadow, "--actual", str(file))
    found = json.loads(run(*arguments, "--json"))["judgement"]
    assert [found[name] for name in ("rides", "unusual", "unknown", "missing")] == [1, 2, 1, 0]
    assert (found["live"]["mae"], found["shadow"]["mae"]) == (0, 3)
    assert (found["verdict"]["verdict"], found["verdict"]["low"]) == ("not yet known", None)
    shown = run(*arguments)
    assert "Verdict on 1 rides: not yet known: 1 rides are too few, 200 are the least" in shown


def test_a_field_of_no_known_target_needs_one_for_a_file(
    kinesis: "KinesisClient",
    stream: str,
    shadow: str,
    tmp_path: Path,
    run: Callable[..., str],
    refuse: Callable[..., str],
) -> None:
    """The predicted value may have any name, because PREDICTION_FIELD sets it."""
    file = tmp_path / "green_tripdata_2023-02.parquet"
    write(file, [trip(15)])
    for name in (stream, shadow):
        put(kinesis, name, output("2023/02_0", 12, name, "minutes"))
    arguments = (stream, shadow, "--actual", str(file))
    assert "say with --target which column" in refuse(*arguments)
    assert json.loads(run(*arguments, "--json", "--target", "duration"))["judgement"]["live"]["mae"] == 3
    assert "Both models predicted the same value for every ride." in run(stream, shadow)
