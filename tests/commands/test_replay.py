"""Putting the records in the failures bucket back on the input stream."""

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from scripts.aws.replaying import ReplayFilter
from scripts.cli import CommandError
from tests.builders import SHARD, kinesis_event, ride_event
from tests.commands.conftest import ARRIVAL, ON_FAILURE, REJECTIONS, REPLAYED, Bucket, discarded, kept, rejection


def test_originals_are_put_with_their_keys_and_moved(failures: Bucket) -> None:
    """Rejections and discarded records are put byte for byte, whatever they hold."""
    lines = rejection(1, b"\xff\x00{", partition_key="ü") + rejection(2, b"")
    batch = discarded(b' {"ride_id": 3}\n', ride_event(4))
    failures.keep(**{"1-2": lines})
    failures.write({ON_FAILURE: batch})
    assert failures.replay() == 4
    ride = json.dumps(ride_event(4)).encode()
    expected = [("ü", b"\xff\x00{"), ("key-2", b""), ("key-1", b' {"ride_id": 3}\n'), ("key-2", ride)]
    assert failures.on_stream() == expected
    found = failures.content()
    assert found.pop(f"{REPLAYED}/1-2.jsonl") == lines
    assert json.loads(found.pop(f"replayed/{ON_FAILURE}")) == json.loads(batch)
    assert found == {}
    assert failures.replay() == 0


def test_a_record_without_a_key_gets_its_datas_digest(failures: Bucket) -> None:
    """A record has no key if the stream distributes records by itself."""
    failures.keep(**{"1-1": rejection(1, b"data", partition_key=None)})
    failures.replay()
    assert failures.on_stream() == [(hashlib.sha256(b"data").hexdigest(), b"data")]


def test_the_functions_own_rejections_come_back_as_they_were(
    failures: Bucket, cold_start: Callable[..., ModuleType]
) -> None:
    """They are what a producer put."""
    location = f"s3://{failures.name}/rejections"
    handler = cold_start(PREDICTIONS_STREAM_NAME=failures.stream, FAILURES_LOCATION=location).lambda_handler
    handler(kinesis_event(b"{", b"\xff", ride_event(trip_distance=101)))
    assert failures.on_stream() == []
    assert failures.replay() == 3
    too_far = json.dumps(ride_event(trip_distance=101)).encode()
    assert failures.on_stream() == [("key-1", b"{"), ("key-2", b"\xff"), ("key-3", too_far)]


def test_a_location_without_a_prefix_is_the_whole_bucket(failures: Bucket) -> None:
    """Objects that are not failures are not touched."""
    others = {"notes.jsonl": b"{", "models/1/MLmodel": b"{", f"replayed/ride_events/{SHARD}/9-9.jsonl": b"{"}
    failures.write({**others, f"ride_events/{SHARD}/1-1.jsonl": rejection(1), ON_FAILURE: discarded(b"{")})
    whole = Bucket(failures.kinesis, failures.s3, failures.stream, failures.name, prefix="")
    assert whole.replay() == 2
    moved = {f"replayed/ride_events/{SHARD}/1-1.jsonl", f"replayed/{ON_FAILURE}"}
    assert set(failures.content()) == {*others, *moved}


def test_every_page_of_the_listing_is_read(failures: Bucket) -> None:
    """S3 lists a thousand objects at a time. The console's folders are objects too, and hold nothing."""
    failures.keep(**{f"{number}-{number}": b"" for number in range(5)})
    failures.write({ON_FAILURE: b"", "aws/lambda/": b""})
    found = list(failures.objects.find(page_size=2))
    assert found == [*(f"{REJECTIONS}/{number}-{number}.jsonl" for number in range(5)), ON_FAILURE]


@pytest.mark.parametrize(
    ("reasons", "selected"),
    [
        pytest.param((), [0, 1, 2], id="every reason"),
        pytest.param(("RIDE",), [0], id="a kind"),
        pytest.param(("rid",), [], id="not part of a kind"),
        pytest.param(("Zerodivision",), [1], id="part of a reason"),
        pytest.param(("retryattemptsexhausted",), [2], id="a condition"),
        pytest.param(("discarded", "float"), [0, 2], id="any of several"),
    ],
)
def test_a_reason_is_a_kind_or_part_of_a_reason(reasons: tuple[str, ...], selected: list[int]) -> None:
    """Upper and lower case do not matter."""
    records = [
        kept("ride", "Expected `float` <= 100.0"),
        kept("prediction", "ZeroDivisionError: no such zone"),
        kept("discarded", "RetryAttemptsExhausted"),
    ]
    assert list(filter(ReplayFilter(reasons).accepts, records)) == [records[index] for index in selected]


def test_since_is_the_earliest_arrival(failures: Bucket) -> None:
    """It is included. A record of unknown arrival counts as received when its object was written."""
    moment = datetime(2026, 2, 3, tzinfo=UTC)
    records = [kept("json", "", moment + timedelta(seconds=seconds)) for seconds in (-1, 0, 1)]
    assert list(filter(ReplayFilter(since=moment).accepts, records)) == records[1:]
    began = datetime.now(UTC) - timedelta(minutes=1)
    failures.keep(**{"1-2": rejection(1, arrival=None) + rejection(2)})
    assert failures.replay(ReplayFilter(since=began)) == 1


def test_records_that_are_not_selected_stay_under_the_same_key(failures: Bucket) -> None:
    """They join the first when they are replayed later."""
    one, two, three = rejection(1), rejection(2, b"[", kind="ride"), rejection(3, b"]")
    failures.keep(**{"1-3": one + two + three})
    assert failures.replay(ReplayFilter(("ride",))) == 1
    assert failures.content() == {f"{REJECTIONS}/1-3.jsonl": one + three, f"{REPLAYED}/1-3.jsonl": two}
    assert failures.replay() == 2
    assert failures.content() == {f"{REPLAYED}/1-3.jsonl": two + one + three}
    assert [data for _, data in failures.on_stream()] == [b"[", b"{", b"]"]


def test_a_discarded_batch_is_split_as_well(failures: Bucket) -> None:
    """Each part is an object as the mapping writes it, with some of the records."""
    whole = discarded(b"old", b"new", arrivals=(ARRIVAL, ARRIVAL + 60))
    failures.write({ON_FAILURE: whole})
    assert failures.replay(ReplayFilter(since=datetime.fromtimestamp(ARRIVAL + 30, UTC))) == 1
    parts = {key: json.loads(body) for key, body in failures.content().items()}
    old, new = json.loads(json.loads(whole)["payload"])["Records"]
    assert {key: json.loads(part.pop("payload"))["Records"] for key, part in parts.items()} == {
        ON_FAILURE: [old],
        f"replayed/{ON_FAILURE}": [new],
    }
    envelope = {name: value for name, value in json.loads(whole).items() if name != "payload"}
    assert list(parts.values()) == [envelope, envelope]


@contextlib.contextmanager
def interrupt_before(request: int, *clients: Any) -> Iterator[None]:
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


REQUESTS = 2 + 2 + 2 * 5
"""Two listings, the two objects read for the plan, and five requests to replay each."""


@pytest.mark.parametrize("request_number", range(REQUESTS))
def test_an_interruption_loses_nothing(failures: Bucket, request_number: int) -> None:
    """Each line is always kept, waiting or moved; and after another run each selected record is on the stream."""
    condition = ReplayFilter(("ride",))
    lines = [rejection(number, kind=kind) for number, kind in enumerate(("ride", "ride", "json", "ride"))]
    failures.keep(**{"0-1": lines[0] + lines[1], "2-3": lines[2] + lines[3]})
    with interrupt_before(request_number, failures.kinesis, failures.s3), pytest.raises(KeyboardInterrupt):
        failures.replay(condition)
    put = {key for key, _ in failures.on_stream()}
    bodies = failures.content()
    assert {line for body in bodies.values() for line in body.splitlines(keepends=True)} == set(lines)
    waiting = b"".join(body for key, body in bodies.items() if "/replayed/" not in key)
    assert all(f"key-{number}" in put for number, line in enumerate(lines) if line not in waiting)

    failures.replay(condition)
    times = Counter(key for key, _ in failures.on_stream())
    assert sorted(times) == ["key-0", "key-1", "key-3"]
    assert max(times.values()) <= 2
    assert failures.content() == {
        f"{REJECTIONS}/2-3.jsonl": lines[2],
        f"{REPLAYED}/0-1.jsonl": lines[0] + lines[1],
        f"{REPLAYED}/2-3.jsonl": lines[3],
    }


def test_a_replay_makes_no_other_requests(failures: Bucket) -> None:
    """So no interruption is missing above."""
    failures.keep(**{"0-1": rejection(0) + rejection(1), "2-3": rejection(2) + rejection(3)})
    with interrupt_before(REQUESTS, failures.kinesis, failures.s3):
        assert failures.replay() == 4


def test_a_stream_that_accepts_no_more_ends_it(failures: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how many records are put; only objects that were accepted as a whole are moved."""
    monkeypatch.setattr("streaming.delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
    second, third = rejection(2) + rejection(3), rejection(4)
    failures.keep(**{"1-1": rejection(1), "2-3": second, "4-4": third})

    def throttle_the_last(parsed: dict[str, Any], **_: object) -> None:
        # Moto has the last entry all the same; the answer, which counts, says that it has not.
        if failures.content().keys() & {f"{REPLAYED}/1-1.jsonl"}:
            parsed["Records"][-1] = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
            parsed["FailedRecordCount"] = 1

    failures.kinesis.meta.events.register("after-call.kinesis.PutRecords", throttle_the_last)
    with pytest.raises(CommandError, match=r"/2-3\.jsonl: .* 1 of 2 are put; the 1 of the objects before it"):
        failures.replay()
    assert failures.content() == {
        f"{REPLAYED}/1-1.jsonl": rejection(1),
        f"{REJECTIONS}/2-3.jsonl": second,
        f"{REJECTIONS}/4-4.jsonl": third,
    }


def test_a_stream_that_is_gone_ends_it(failures: Bucket) -> None:
    """It changes nothing."""
    failures.keep(**{"1-1": rejection(1)})
    gone = Bucket(failures.kinesis, failures.s3, "no-such-stream", failures.name)
    with pytest.raises(CommandError, match="the 0 of the objects before it are put and moved"):
        gone.replay()
    assert failures.content() == {f"{REJECTIONS}/1-1.jsonl": rejection(1)}


@pytest.mark.parametrize("condition", [ReplayFilter(), ReplayFilter(("ride",))], ids=["deleted", "rewritten"])
def test_an_object_that_is_written_meanwhile_is_left_alone(
    failures: Bucket, caplog: pytest.LogCaptureFixture, condition: ReplayFilter
) -> None:
    """The function may write it while its records are put; a warning says so."""
    failures.keep(**{"1-2": rejection(1) + rejection(2, kind="ride")})
    newer = rejection(1) + rejection(2, kind="ride") + rejection(3)
    failures.kinesis.meta.events.register("after-call.kinesis.PutRecords", lambda **_: failures.keep(**{"1-2": newer}))
    failures.replay(condition)
    assert failures.content()[f"{REJECTIONS}/1-2.jsonl"] == newer
    assert "1-2.jsonl stays as it is: it was changed or removed meanwhile" in caplog.text


def test_an_object_that_is_removed_meanwhile_stops_nothing(failures: Bucket) -> None:
    """Somebody else may replay at the same time."""
    failures.keep(**{"1-1": rejection(1), "2-2": rejection(2)})
    plan = failures.plan()
    failures.s3.delete_object(Bucket=failures.name, Key=f"{REJECTIONS}/1-1.jsonl")
    assert failures.replay(plan=plan) == 1
    assert [key for key, _ in failures.on_stream()] == ["key-2"]
