"""Putting what the failures bucket keeps back on the input stream."""

import argparse
import base64
import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from rich.console import Console

from scripts.aws.kept_objects import KeptObjects
from scripts.aws.kept_records import KeptRecord
from scripts.aws.shards import ShardReader
from scripts.cli import CommandError
from scripts.commands.replay import Choice, Survey, replay, show, since, survey
from scripts.localaws.chaos import Call, FailedEntries, Fault, serve
from scripts.localaws.failure_record import failure_record
from scripts.localaws.rules import Batch, Discard
from scripts.sources.record import RideRecord
from streaming.delivery import OutputStream
from tests.builders import SHARD, kinesis_event, ride_event
from tests.tools import failed, finish

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

REJECTIONS = f"rejections/ride_events/{SHARD}"
ON_FAILURE = f"aws/lambda/11111111-2222-3333-4444-555555555555/{SHARD}/2026/02/03/2026-02-03T04.05.06-id"
ARRIVAL = 1_770_000_000.5


def rejection(number: int, data: bytes | str = b"{", **changes: object) -> bytes:
    """Build a line as the function keeps it; text is taken as base64 already."""
    line = {
        "kind": "json",
        "reason": "Input data was truncated",
        "event_id": f"{SHARD}:{number}",
        "sequence_number": str(number),
        "partition_key": f"key-{number}",
        "arrival": ARRIVAL,
        "data": data if isinstance(data, str) else base64.b64encode(data).decode(),
    }
    return json.dumps(line | changes).encode() + b"\n"


def discarded(*data: object, arrivals: tuple[float, ...] = ()) -> bytes:
    """Build an object as a mapping leaves it."""
    records = kinesis_event(*data)["Records"]
    for record, arrival in zip(records, arrivals, strict=False):
        record["kinesis"]["approximateArrivalTimestamp"] = arrival
    discard = Discard(Batch(tuple(records), invocations=3), "RetryAttemptsExhausted")
    at = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    return json.dumps(failure_record(discard, SHARD, "arn:stream", "arn:function", at)).encode()


def kept(kind: str, reason: str, arrival: datetime = datetime(2026, 2, 3, tzinfo=UTC)) -> KeptRecord:
    """Build a kept record as it is when it is read."""
    return KeptRecord(kind, reason, "ride_events", arrival, RideRecord("key", b""), b"")


def keep(s3: "S3Client", bucket: str, **bodies: bytes) -> None:
    """Write rejections, by the last part of their key."""
    for name, body in bodies.items():
        s3.put_object(Bucket=bucket, Key=f"{REJECTIONS}/{name}.jsonl", Body=body)


def held(s3: "S3Client", bucket: str) -> dict[str, bytes]:
    """Return all that a bucket holds, by key."""
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def on(kinesis: "KinesisClient", stream: str) -> list[tuple[str, bytes]]:
    """Return what a stream of one shard holds, as partition keys and data."""
    return [(record["PartitionKey"], record["Data"]) for record in ShardReader(kinesis, stream, SHARD).read()]


@pytest.fixture
def replayed(kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str) -> Callable[..., int]:
    """Give a function that replays what the bucket keeps, and returns how many records it put."""

    def run(choice: Choice = Choice()) -> int:  # noqa: B008
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")
        return replay(objects, OutputStream(kinesis, stream), survey(objects, choice), choice)

    return run


class TestOriginals:
    """What goes back on the stream, and what stays in the bucket."""

    def test_they_are_put_with_their_keys_and_moved(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str, replayed: Callable[..., int]
    ) -> None:
        """Byte for byte, from rejections and from what the mapping gave up, whatever they hold."""
        lines = rejection(1, b"\xff\x00{", partition_key="ü") + rejection(2, b"")
        batch = discarded(b' {"ride_id": 3}\n', ride_event(4))
        keep(s3, bucket, **{"1-2": lines})
        s3.put_object(Bucket=bucket, Key=ON_FAILURE, Body=batch)
        assert replayed() == 4
        ride = json.dumps(ride_event(4)).encode()
        expected = [("ü", b"\xff\x00{"), ("key-2", b""), ("key-1", b' {"ride_id": 3}\n'), ("key-2", ride)]
        assert on(kinesis, stream) == expected
        found = held(s3, bucket)
        assert found.pop(f"rejections/replayed/ride_events/{SHARD}/1-2.jsonl") == lines
        assert json.loads(found.pop(f"replayed/{ON_FAILURE}")) == json.loads(batch)
        assert found == {}

    def test_what_was_moved_is_not_replayed_again(
        self, s3: "S3Client", bucket: str, replayed: Callable[..., int]
    ) -> None:
        """Neither from below the prefix nor from the root."""
        keep(s3, bucket, **{"1-1": rejection(1)})
        s3.put_object(Bucket=bucket, Key=ON_FAILURE, Body=discarded(b"{"))
        assert [replayed(), replayed()] == [2, 0]

    def test_one_without_a_key_gets_its_datas_digest(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str, replayed: Callable[..., int]
    ) -> None:
        """A stream that distributes records by itself has none."""
        keep(s3, bucket, **{"1-1": rejection(1, b"data", partition_key=None)})
        replayed()
        assert on(kinesis, stream) == [(hashlib.sha256(b"data").hexdigest(), b"data")]

    def test_what_the_function_rejected_comes_back_as_it_was(
        self,
        kinesis: "KinesisClient",
        s3: "S3Client",
        stream: str,
        bucket: str,
        replayed: Callable[..., int],
        cold_start: Callable[..., ModuleType],
    ) -> None:
        """From the handler's own objects."""
        handler = cold_start(
            PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}/rejections"
        ).lambda_handler
        handler(kinesis_event(b"{", b"\xff", ride_event(trip_distance=101)))
        assert on(kinesis, stream) == []
        assert replayed() == 3
        too_far = json.dumps(ride_event(trip_distance=101)).encode()
        assert on(kinesis, stream) == [("key-1", b"{"), ("key-2", b"\xff"), ("key-3", too_far)]

    def test_a_location_without_a_prefix_is_the_whole_bucket(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str
    ) -> None:
        """What else lies there is not touched."""
        others = {"notes.jsonl": b"{", "models/1/MLmodel": b"{", f"replayed/ride_events/{SHARD}/9-9.jsonl": b"{"}
        for key, body in others.items():
            s3.put_object(Bucket=bucket, Key=key, Body=body)
        for key, body in {f"ride_events/{SHARD}/1-1.jsonl": rejection(1), ON_FAILURE: discarded(b"{")}.items():
            s3.put_object(Bucket=bucket, Key=key, Body=body)
        objects = KeptObjects(s3, f"s3://{bucket}")
        assert replay(objects, OutputStream(kinesis, stream), survey(objects, Choice()), Choice()) == 2
        moved = {f"replayed/ride_events/{SHARD}/1-1.jsonl", f"replayed/{ON_FAILURE}"}
        assert set(held(s3, bucket)) == {*others, *moved}

    def test_every_page_of_the_listing_is_read(self, s3: "S3Client", bucket: str) -> None:
        """S3 lists a thousand objects at a time."""
        keep(s3, bucket, **{f"{number}-{number}": b"" for number in range(5)})
        s3.put_object(Bucket=bucket, Key=ON_FAILURE, Body=b"")
        found = list(KeptObjects(s3, f"s3://{bucket}/rejections").find(page_size=2))
        assert found == [*(f"{REJECTIONS}/{number}-{number}.jsonl" for number in range(5)), ON_FAILURE]


class TestChoice:
    """Which records are replayed."""

    @pytest.mark.parametrize(
        ("reasons", "chosen"),
        [
            pytest.param((), [0, 1, 2], id="all without a reason"),
            pytest.param(("RIDE",), [0], id="a kind"),
            pytest.param(("rid",), [], id="not part of a kind"),
            pytest.param(("Zerodivision",), [1], id="part of a reason"),
            pytest.param(("retryattemptsexhausted",), [2], id="a condition"),
            pytest.param(("discarded", "float"), [0, 2], id="any of several"),
        ],
    )
    def test_a_reason_is_a_kind_or_part_of_a_reason(self, reasons: tuple[str, ...], chosen: list[int]) -> None:
        """In upper or lower case."""
        records = [
            kept("ride", "Expected `float` <= 100.0"),
            kept("prediction", "ZeroDivisionError: no such zone"),
            kept("discarded", "RetryAttemptsExhausted"),
        ]
        assert Choice(reasons).of(records) == [records[index] for index in chosen]

    def test_since_is_the_arrivals_earliest_moment(self) -> None:
        """Itself included."""
        moment = datetime(2026, 2, 3, tzinfo=UTC)
        records = [kept("json", "", moment + timedelta(seconds=seconds)) for seconds in (-1, 0, 1)]
        assert Choice(since=moment).of(records) == records[1:]

    def test_a_record_of_unknown_arrival_came_when_its_object_was_written(
        self, s3: "S3Client", bucket: str, replayed: Callable[..., int]
    ) -> None:
        """Not before this test began."""
        began = datetime.now(UTC) - timedelta(minutes=1)
        keep(s3, bucket, **{"1-2": rejection(1, arrival=None) + rejection(2)})
        assert replayed(Choice(since=began)) == 1

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-02-03T04:05:06Z", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
            ("2026-02-03T04:05+02:00", datetime(2026, 2, 3, 2, 5, tzinfo=UTC)),
            ("2026-02-03", datetime(2026, 2, 3).astimezone()),
        ],
    )
    def test_a_date_or_time_is_a_moment(self, text: str, moment: datetime) -> None:
        """Local, unless it says otherwise."""
        assert since(text) == moment

    @pytest.mark.parametrize(
        ("text", "ago"),
        [("90m", timedelta(minutes=90)), ("24h", timedelta(hours=24)), ("7d", timedelta(days=7))],
    )
    def test_a_duration_ends_now(self, text: str, ago: timedelta) -> None:
        """It begins so long ago."""
        before = datetime.now(UTC)
        assert before <= since(text) + ago <= datetime.now(UTC)

    @pytest.mark.parametrize("text", ["yesterday", "7", "7w", "-7d", "2026-02-30", "9999999999d"])
    def test_what_is_no_moment_is_refused(self, text: str) -> None:
        """The message has it."""
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            since(text)


class TestPartOfAnObject:
    """Where only some of an object's records are chosen."""

    def test_the_others_stay_under_the_same_key(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str, replayed: Callable[..., int]
    ) -> None:
        """And join the first when they are replayed later."""
        one, two, three = rejection(1), rejection(2, b"[", kind="ride"), rejection(3, b"]")
        keep(s3, bucket, **{"1-3": one + two + three})
        moved = f"rejections/replayed/ride_events/{SHARD}/1-3.jsonl"
        assert replayed(Choice(("ride",))) == 1
        assert held(s3, bucket) == {f"{REJECTIONS}/1-3.jsonl": one + three, moved: two}
        assert replayed() == 2
        assert held(s3, bucket) == {moved: two + one + three}
        assert [data for _, data in on(kinesis, stream)] == [b"[", b"{", b"]"]

    def test_a_discarded_batch_is_split_as_well(
        self, s3: "S3Client", bucket: str, replayed: Callable[..., int]
    ) -> None:
        """Each part is an object as the mapping writes it, with some of the records."""
        whole = discarded(b"old", b"new", arrivals=(ARRIVAL, ARRIVAL + 60))
        s3.put_object(Bucket=bucket, Key=ON_FAILURE, Body=whole)
        assert replayed(Choice(since=datetime.fromtimestamp(ARRIVAL + 30, UTC))) == 1
        parts = {key: json.loads(body) for key, body in held(s3, bucket).items()}
        old, new = json.loads(json.loads(whole)["payload"])["Records"]
        assert {key: json.loads(part.pop("payload"))["Records"] for key, part in parts.items()} == {
            ON_FAILURE: [old],
            f"replayed/{ON_FAILURE}": [new],
        }
        envelope = {name: value for name, value in json.loads(whole).items() if name != "payload"}
        assert list(parts.values()) == [envelope, envelope]


@contextlib.contextmanager
def interrupted_before(request: int, *clients: Any) -> Iterator[None]:
    """Interrupt the block, as Ctrl-C does, before that request of the clients, counted from 0."""
    left = itertools.count(request, -1)

    def interrupt(**_: object) -> None:
        if next(left) == 0:
            raise KeyboardInterrupt

    for client in clients:
        client.meta.events.register("before-call", interrupt)
    try:
        yield
    finally:
        for client in clients:
            client.meta.events.unregister("before-call", interrupt)


class TestInterruptions:
    """A replay that ends in the middle."""

    REQUESTS = 2 + 2 + 2 * 5
    """Two listings, the two objects read for the table, and five requests to replay each."""

    @pytest.mark.parametrize("request_number", range(REQUESTS))
    def test_wherever_it_is_interrupted_nothing_is_lost(
        self,
        kinesis: "KinesisClient",
        s3: "S3Client",
        stream: str,
        bucket: str,
        replayed: Callable[..., int],
        request_number: int,
    ) -> None:
        """Each line is always kept, waiting or moved; and after another run each that was chosen is on the stream."""
        choice = Choice(("ride",))
        lines = [rejection(number, kind=kind) for number, kind in enumerate(("ride", "ride", "json", "ride"))]
        keep(s3, bucket, **{"0-1": lines[0] + lines[1], "2-3": lines[2] + lines[3]})
        with interrupted_before(request_number, kinesis, s3), pytest.raises(KeyboardInterrupt):
            replayed(choice)
        put = {key for key, _ in on(kinesis, stream)}
        bodies = held(s3, bucket)
        assert {line for body in bodies.values() for line in body.splitlines(keepends=True)} == set(lines)
        waiting = b"".join(body for key, body in bodies.items() if "/replayed/" not in key)
        assert all(f"key-{number}" in put for number, line in enumerate(lines) if line not in waiting)

        replayed(choice)
        times = Counter(key for key, _ in on(kinesis, stream))
        assert sorted(times) == ["key-0", "key-1", "key-3"]
        assert max(times.values()) <= 2
        assert held(s3, bucket) == {
            f"{REJECTIONS}/2-3.jsonl": lines[2],
            f"rejections/replayed/ride_events/{SHARD}/0-1.jsonl": lines[0] + lines[1],
            f"rejections/replayed/ride_events/{SHARD}/2-3.jsonl": lines[3],
        }

    def test_it_makes_no_more_requests_than_these(
        self, kinesis: "KinesisClient", s3: "S3Client", bucket: str, replayed: Callable[..., int]
    ) -> None:
        """So that none is left out above."""
        keep(s3, bucket, **{"0-1": rejection(0) + rejection(1), "2-3": rejection(2) + rejection(3)})
        with interrupted_before(self.REQUESTS, kinesis, s3):
            assert replayed() == 4

    def test_a_stream_that_accepts_no_more_ends_it(
        self,
        kinesis: "KinesisClient",
        s3: "S3Client",
        stream: str,
        bucket: str,
        endpoint: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It says how many are put; only what was accepted as a whole is moved."""
        monkeypatch.setattr("streaming.delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
        second, third = rejection(2) + rejection(3), rejection(4)
        keep(s3, bucket, **{"1-1": rejection(1), "2-3": second, "4-4": third})
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")

        def throttle_the_last(call: Call) -> Fault | None:
            return FailedEntries(frozenset({len(call.entries) - 1})) if call.number else None

        with serve(endpoint, throttle_the_last) as spoiled:
            client = boto3.client("kinesis", endpoint_url=spoiled.url)
            with pytest.raises(CommandError, match=r"/2-3\.jsonl: .* 1 of 2 are put; the 1 of the objects before it"):
                replay(objects, OutputStream(client, stream), survey(objects, Choice()), Choice())
        assert held(s3, bucket) == {
            f"rejections/replayed/ride_events/{SHARD}/1-1.jsonl": rejection(1),
            f"{REJECTIONS}/2-3.jsonl": second,
            f"{REJECTIONS}/4-4.jsonl": third,
        }

    def test_a_stream_that_is_gone_ends_it(self, s3: "S3Client", kinesis: "KinesisClient", bucket: str) -> None:
        """And changes nothing."""
        keep(s3, bucket, **{"1-1": rejection(1)})
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")
        with pytest.raises(CommandError, match="the 0 of the objects before it are put and moved"):
            replay(objects, OutputStream(kinesis, "no-such-stream"), survey(objects, Choice()), Choice())
        assert held(s3, bucket) == {f"{REJECTIONS}/1-1.jsonl": rejection(1)}

    @pytest.mark.parametrize("choice", [Choice(), Choice(("ride",))], ids=["deleted", "rewritten"])
    def test_an_object_that_was_written_meanwhile_is_left_alone(
        self,
        kinesis: "KinesisClient",
        s3: "S3Client",
        stream: str,
        bucket: str,
        replayed: Callable[..., int],
        caplog: pytest.LogCaptureFixture,
        choice: Choice,
    ) -> None:
        """The function may write it while its records are put; a warning says so."""
        keep(s3, bucket, **{"1-2": rejection(1) + rejection(2, kind="ride")})
        newer = rejection(1) + rejection(2, kind="ride") + rejection(3)
        kinesis.meta.events.register("after-call.kinesis.PutRecords", lambda **_: keep(s3, bucket, **{"1-2": newer}))
        replayed(choice)
        assert held(s3, bucket)[f"{REJECTIONS}/1-2.jsonl"] == newer
        assert "1-2.jsonl stays as it is: it was changed or removed meanwhile" in caplog.text

    def test_an_object_that_is_gone_meanwhile_stops_nothing(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str
    ) -> None:
        """Somebody else may replay at the same time."""
        keep(s3, bucket, **{"1-1": rejection(1), "2-2": rejection(2)})
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")
        found = survey(objects, Choice())
        s3.delete_object(Bucket=bucket, Key=f"{REJECTIONS}/1-1.jsonl")
        assert replay(objects, OutputStream(kinesis, stream), found, Choice()) == 1
        assert [key for key, _ in on(kinesis, stream)] == ["key-2"]


class TestWhatCannotBeReplayed:
    """It stays where it is, is shown, and stops nothing else."""

    @pytest.mark.parametrize(
        ("key", "body"),
        [
            pytest.param(f"{REJECTIONS}/1-1.jsonl", rejection(1) + b'{"kind"', id="a broken line"),
            pytest.param(f"{REJECTIONS}/1-1.jsonl", b'{"kind": "json", "reason": "no data"}\n', id="no data"),
            pytest.param(f"{REJECTIONS}/1-1.jsonl", rejection(1).replace(b"key-1", b"\xff"), id="no UTF-8"),
            pytest.param(f"{REJECTIONS}/1-1.jsonl", b"[" * 100_000, id="nested too deeply"),
            pytest.param(ON_FAILURE, b"", id="an empty object"),
            pytest.param(ON_FAILURE, b'{"requestContext": {"condition": "a"}}', id="no payload"),
            pytest.param(ON_FAILURE, discarded(b"{").replace(b"Records", b"Messages"), id="no records"),
            pytest.param(ON_FAILURE, discarded(b"{").replace(b"sequenceNumber", b"n"), id="a record that is none"),
        ],
    )
    def test_an_object_that_is_not_what_it_should_be(
        self,
        kinesis: "KinesisClient",
        s3: "S3Client",
        stream: str,
        bucket: str,
        caplog: pytest.LogCaptureFixture,
        key: str,
        body: bytes,
    ) -> None:
        """All of it stays."""
        s3.put_object(Bucket=bucket, Key=key, Body=body)
        keep(s3, bucket, **{"2-2": rejection(2)})
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")
        found = survey(objects, Choice())
        assert not found.complete
        assert sorted((kind, group.objects) for (_, kind, _), group in found.groups.items()) == [
            ("cannot be read", 1),
            ("json", 1),
        ]
        assert f"s3://{bucket}/{key} stays as it is" in caplog.text
        assert replay(objects, OutputStream(kinesis, stream), found, Choice()) == 1
        assert held(s3, bucket)[key] == body

    def test_an_archived_object(self, s3: "S3Client", kinesis: "KinesisClient", stream: str, bucket: str) -> None:
        """It stays, and does not stop the others."""
        keep(s3, bucket, **{"1-1": rejection(1), "2-2": rejection(2)})
        s3.put_object(Bucket=bucket, Key=f"{REJECTIONS}/1-1.jsonl", Body=rejection(1), StorageClass="GLACIER")
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")
        found = survey(objects, Choice())
        assert found.groups["", "cannot be read", "it is archived: restore it first"].objects == 1
        assert replay(objects, OutputStream(kinesis, stream), found, Choice()) == 1

    def test_a_folder_that_the_console_made(self, s3: "S3Client", bucket: str) -> None:
        """It is an object without content, which keeps nothing."""
        s3.put_object(Bucket=bucket, Key="aws/lambda/", Body=b"")
        assert survey(KeptObjects(s3, f"s3://{bucket}/rejections"), Choice()).complete

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            pytest.param(rejection(1, "eyJ*"), "the data is not base64", id="no base64"),
            pytest.param(
                rejection(1, b"x" * 1_048_572), "data and partition key are more than 1 MiB", id="too large by its key"
            ),
            pytest.param(
                rejection(1, partition_key="x" * 257), "the partition key has more than 256 characters", id="long key"
            ),
        ],
    )
    def test_a_record_that_no_stream_takes(
        self,
        kinesis: "KinesisClient",
        s3: "S3Client",
        stream: str,
        bucket: str,
        caplog: pytest.LogCaptureFixture,
        line: bytes,
        reason: str,
    ) -> None:
        """The others of its object are replayed."""
        keep(s3, bucket, **{"1-2": line + rejection(2)})
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")
        found = survey(objects, Choice())
        assert not found.complete
        assert found.groups["ride_events", "cannot be put", reason].records == 1
        assert reason in caplog.text
        assert replay(objects, OutputStream(kinesis, stream), found, Choice()) == 1
        assert held(s3, bucket)[f"{REJECTIONS}/1-2.jsonl"] == line
        assert [key for key, _ in on(kinesis, stream)] == ["key-2"]

    def test_where_what_was_moved_before_is_broken_the_object_stays(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing is written over it."""
        keep(s3, bucket, **{"1-1": rejection(1)})
        s3.put_object(Bucket=bucket, Key=f"rejections/replayed/ride_events/{SHARD}/1-1.jsonl", Body=b"{")
        before = held(s3, bucket)
        objects = KeptObjects(s3, f"s3://{bucket}/rejections")
        found = survey(objects, Choice())
        replay(objects, OutputStream(kinesis, stream), found, Choice())
        assert not found.complete
        assert f"what was moved to s3://{bucket}/rejections/replayed/" in caplog.text
        assert held(s3, bucket) == before

    def test_the_largest_record_that_a_stream_takes_is_replayed(
        self, s3: "S3Client", bucket: str, replayed: Callable[..., int]
    ) -> None:
        """1 MiB with its key."""
        keep(s3, bucket, **{"1-1": rejection(1, b"x" * 1_048_571)})
        assert replayed() == 1


class TestCommand:
    """The command line."""

    def test_a_dry_run_shows_the_table_and_changes_nothing(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str
    ) -> None:
        """By kind and reason, the most frequent first, with the oldest arrival."""
        keep(s3, bucket, a=rejection(1) + rejection(2, kind="ride", reason="[no] \x1b[2J"), b=rejection(3))
        s3.put_object(Bucket=bucket, Key=ON_FAILURE, Body=discarded(*[b"{"] * 3, arrivals=(ARRIVAL, 0, ARRIVAL)))
        before = held(s3, bucket)
        location = f"s3://{bucket}/rejections"
        done = finish("replay", "--dry-run", "--stream", stream, FAILURES_LOCATION=location, TZ="UTC", COLUMNS="120")
        assert done.returncode == 0
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
        assert rows == [
            ["ride_events", "discarded", "RetryAttemptsExhausted", "3", "1", "1970-01-01 00:00:00"],
            ["ride_events", "json", "Input data was truncated", "2", "2", "2026-02-02 02:40:00"],
            ["ride_events", "ride", r"[no] \x1b[2J", "1", "1", "2026-02-02 02:40:00"],
        ]
        assert held(s3, bucket) == before
        assert on(kinesis, stream) == []

    def test_it_says_how_many_it_put(self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str) -> None:
        """Chosen by the options."""
        keep(s3, bucket, a=rejection(1) + rejection(2, kind="ride") + rejection(3, kind="ride", arrival=0))
        options = ("--failures", f"s3://{bucket}/rejections/", "--reason", "RIDE", "--since", "2026-01-01")
        done = finish("replay", "--stream", stream, *options)
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1] == f"put 1 records on {stream}"
        assert on(kinesis, stream) == [("key-2", b"{")]

    def test_it_can_leave_the_records_of_other_streams_alone(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str
    ) -> None:
        """Several may share a bucket, whatever prefix each has: AWS fixes where mappings write."""
        keep(s3, bucket, a=rejection(1))
        s3.put_object(Bucket=bucket, Key=f"rejections/invoices/{SHARD}/2-2.jsonl", Body=rejection(2))
        s3.put_object(Bucket=bucket, Key=ON_FAILURE, Body=discarded(b"[]").replace(b"ride_events", b"invoices"))
        options = ("--failures", f"s3://{bucket}/rejections", "--from", "ride_events")
        done = finish("replay", "--stream", stream, *options)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"put 1 records on {stream}")
        assert on(kinesis, stream) == [("key-1", b"{")]

    def test_where_nothing_is_chosen_it_says_so(self, stream: str, s3: "S3Client", bucket: str) -> None:
        """And that is well."""
        keep(s3, bucket, a=rejection(1))
        done = finish("replay", "--stream", stream, "--failures", f"s3://{bucket}/rejections", "--reason", "no such")
        assert (done.returncode, done.stdout) == (0, "nothing is kept that is chosen\n")

    def test_a_bucket_that_is_not_there_is_one_line(self, stream: str, endpoint: str) -> None:
        """With the place that was looked at."""
        line = failed(finish("replay", "--stream", stream, "--failures", "s3://no-such-bucket"))
        assert line == f"replay: there is no bucket no-such-bucket at {endpoint}: name another one with --failures"

    def test_it_fails_where_something_chosen_stays(
        self, kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str
    ) -> None:
        """After everything else is put."""
        keep(s3, bucket, a=b"{", b=rejection(1))
        done = finish("replay", "--stream", stream, "--failures", f"s3://{bucket}/rejections")
        assert done.returncode == 1
        assert f"{REJECTIONS}/a.jsonl stays as it is: line 1 is not what it should be" in done.stderr
        assert on(kinesis, stream) == [("key-1", b"{")]

    def test_of_many_reasons_the_first_are_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        """And how many more there are."""
        found = Survey()
        for number in range(23):
            found.add("key", [kept("ride", f"reason {number:02}")])
        show(found, Console(width=120))
        said = capsys.readouterr().out
        assert "reason 19" in said
        assert "reason 20" not in said
        assert said.splitlines()[-1] == "... and 3 more"

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ((), "no failures location is known: name it with --failures, or set FAILURES_LOCATION"),
            (("--failures", "s3://a", "--stream", "none"), "there is no stream none in us-east-1 at"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(self, stream: str, options: tuple[str, ...], said: str) -> None:
        """It says what to do."""
        line = failed(finish("replay", "--stream", stream, *options, FAILURES_LOCATION=""))
        assert line.startswith(f"replay: {said}")

    def test_a_location_that_is_no_uri_is_refused(self) -> None:
        """Before AWS is asked for anything."""
        done = finish("replay", FAILURES_LOCATION="bucket/prefix")
        assert done.returncode == 2
        assert "bucket/prefix is not an s3://bucket/prefix URI" in done.stderr
