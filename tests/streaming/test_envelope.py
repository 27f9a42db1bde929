"""A Lambda event's envelope: fields that are wrong in one record, and partition keys."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from scripts.sources.chosen import read_json_rides
from streaming.envelope import NotAKinesisEventError, arrival_seconds, is_partition_key, kinesis_records, partition_key
from streaming.records import decode_event, rejections_objects
from tests.builders import encoded, kinesis_event, record, ride_event

ARRIVAL = 1545084650.987


def event_with(**changes: Any) -> dict[str, Any]:
    """Build an event of three rides; the second record has the changes, in its ``kinesis`` part or around it."""
    event = kinesis_event(ride_event(1), ride_event(2), ride_event(3))
    changed = event["Records"][1]
    for name, value in changes.items():
        part = changed["kinesis"] if name in changed["kinesis"] else changed
        assert name in part
        part.pop(name) if value is ... else part.update({name: value})
    return event


WRONG: list[Any] = [..., None, "", 7, -1.5, True, math.nan, [], {"a": 1}, "text", "\ud800", "a/b:2", 10**30]
"""Values that some field cannot have; ``...`` removes the field."""


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["partitionKey", "approximateArrivalTimestamp", "eventID", "eventSourceARN"])
def test_a_field_that_is_wrong_in_one_record_fails_no_record(name: str, value: object) -> None:
    """All rides are received, each with an event_id of its own, and each can be stored if it is rejected later."""
    event = event_with(**{name: value})
    received, rejections = decode_event(event)
    assert [ride.event.ride_id for ride in received] == [1, 2, 3]
    assert rejections == []
    event["Records"][1]["kinesis"]["data"] = "*"
    received, rejections = decode_event(event)
    (stored,) = rejections_objects(rejections)
    assert len(stored.key.split("/")) == 3
    (line,) = map(json.loads, stored.body.splitlines())
    ids = [*(ride.record.event_id for ride in received), line["event_id"]]
    assert len(set(ids)) == 3
    assert all(ids)


@pytest.mark.parametrize("value", [value for value in WRONG if not isinstance(value, str)], ids=repr)
def test_data_that_is_no_text_is_one_rejection(value: object) -> None:
    """The rides around it are received, and its line has no base64, which would be taken for the original."""
    received, (rejection,) = decode_event(event_with(data=value))
    assert [ride.event.ride_id for ride in received] == [1, 3]
    assert (rejection.kind, rejection.reason) == ("base64", "the data is missing, or not text")
    assert rejection.line.data.startswith("not text: ")


def test_a_numeric_key_is_kept_as_text() -> None:
    """The producer's language may have written it as a number."""
    assert [one.kinesis.partition_key for one in kinesis_records(event_with(partitionKey=7))] == ["key-1", "7", "key-3"]


def test_a_numeric_sequence_number_is_kept_as_text() -> None:
    """Its digits are all there in JSON."""
    assert [one.kinesis.sequence_number for one in kinesis_records(event_with(sequenceNumber=10**55))][
        1
    ] == "1" + "0" * 55


@pytest.mark.parametrize(
    "value", [..., None, "", "abc", "1.5", "-1", 1.5, True, "9" * 130, "9" * 5000, "\u0661"], ids=repr
)
def test_a_record_without_a_sequence_number_is_an_error(value: object) -> None:
    """Lambda could not deliver it again. The error comes before anything is delivered."""
    with pytest.raises(
        NotAKinesisEventError, match="^not a Kinesis event: the `sequenceNumber` of a record is"
    ) as caught:
        decode_event(event_with(sequenceNumber=value))
    assert len(str(caught.value).encode()) < 300


NO_ARRIVALS: list[Any] = [math.nan, math.inf, -math.inf, -1, -62135596800, 10**400, True, "noon", "nan", None, []]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (ARRIVAL, ARRIVAL),
        (ARRIVAL * 1e3, ARRIVAL),
        (ARRIVAL * 1e6, ARRIVAL),
        (int(ARRIVAL) * 10**9, int(ARRIVAL)),
        ("1545084650.987", ARRIVAL),
        (0, 0),
        *((arrival, None) for arrival in NO_ARRIVALS),
    ],
)
def test_an_arrival_is_in_seconds_or_not_known(value: object, seconds: float | None) -> None:
    """Producers and emulators count in other units too."""
    assert arrival_seconds(value) == (seconds if seconds is None else pytest.approx(seconds))
    (found,) = kinesis_records(
        {"Records": [{**(one := record("")), "kinesis": {**one["kinesis"], "approximateArrivalTimestamp": value}}]}
    )
    assert found.kinesis.arrival == arrival_seconds(value)


@pytest.mark.parametrize(
    ("key", "accepted"),
    [
        *(("k", True), ("", False), ("x" * 256, True), ("x" * 257, False), ("\U0001f600" * 128, True)),
        *(("\U0001f600" * 129, False), ("\u00fc" * 256, True), ("\u00fc" * 257, False), ("\ud800", False)),
    ],
)
def test_kinesis_counts_a_key_in_utf_16(key: str, accepted: bool) -> None:
    """Emoji count twice. What is accepted is a ride's key as it is, and what is too long is cut."""
    assert is_partition_key(key) is accepted
    if len(key) > 1:
        assert is_partition_key(partition_key(key))
        assert (partition_key(key) == key) is accepted


def test_a_sound_event_is_not_repaired() -> None:
    """Its records have what it has."""
    event = kinesis_event(ride_event(1))
    (found,) = kinesis_records(event)
    assert (found.event_id, found.kinesis.data) == ("shardId-000000000000:1", encoded(ride_event(1)))
    assert found.stream_arn == event["Records"][0]["eventSourceARN"]


@pytest.mark.parametrize("event", [ride_event("\U0001f600" * 200), ride_event("\U0001f600" * 200, trip_distance=-1)])
def test_a_ride_from_a_file_has_a_key_that_kinesis_takes(event: dict[str, Any], tmp_path: Path) -> None:
    """Its ride_id may be longer than a key, and a bad ride's too."""
    (tmp_path / "ride.json").write_text(json.dumps(event))
    (ride,) = read_json_rides(str(tmp_path / "ride.json"))
    assert is_partition_key(ride.partition_key)
