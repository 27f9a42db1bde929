"""The Kinesis envelope: decoding a Lambda event, and the object with an invocation's rejections."""

import base64
import json
import re
from typing import Any

import msgspec
import pytest

from rides import Ride
from streaming.envelope import NotAKinesisEventError, partition_key
from streaming.records import Rejection, RejectionLine, decode_event, rejections_objects
from tests.builders import encoded, kinesis_event, packed, record, ride_event


def only_rejection(data: object) -> Rejection:
    """Decode an event of one user record that must be rejected."""
    received, (rejection,) = decode_event(kinesis_event(data))
    assert received == []
    return rejection


def lines(*rejections: Rejection) -> list[RejectionLine]:
    """Return the lines in the object with these rejections."""
    (stored,) = rejections_objects(rejections)
    return [msgspec.json.decode(line, type=RejectionLine) for line in stored.body.splitlines()]


class TestDecodeEvent:
    """Decoding a Lambda event."""

    def test_a_ride_keeps_the_record_that_brought_it(self) -> None:
        """The prediction and a later rejection need the record."""
        ((ride,), rejections) = decode_event(kinesis_event(ride_event(256)))
        assert rejections == []
        assert (ride.event.ride, ride.event.ride_id) == (Ride(130, 205, 3.66), 256)
        assert (ride.record.event_id, ride.record.sequence_number) == ("shardId-000000000000:1", "1")

    def test_a_record_without_a_partition_key_is_a_ride(self) -> None:
        """On-demand streams with automatic distribution send none."""
        event = kinesis_event(ride_event())
        del event["Records"][0]["kinesis"]["partitionKey"]
        assert len(decode_event(event)[0]) == 1

    @pytest.mark.parametrize("data", ["eyJ*", "!" + encoded(ride_event()), "eyJ", "é"])
    def test_data_that_is_not_base64_is_rejected(self, data: str) -> None:
        """Its rejection line has the data unchanged."""
        rejection = only_rejection(data)
        assert rejection.kind == "base64"
        assert "not base64" in rejection.reason
        assert rejection.line.data == data

    def test_a_bad_record_does_not_affect_its_neighbours(self) -> None:
        """The rides before and after it are received, in order."""
        received, rejections = decode_event(kinesis_event(ride_event(1), b"{", ride_event(3)))
        assert [ride.event.ride_id for ride in received] == [1, 3]
        assert [rejection.record.event_id for rejection in rejections] == ["shardId-000000000000:2"]

    def test_an_empty_event_has_no_rides(self) -> None:
        """It is not an error."""
        assert decode_event({"Records": []}) == ([], [])

    @pytest.mark.parametrize(
        ("event", "message"),
        [
            ({}, "`Records`"),
            (None, "`Records`"),
            ([], "`Records`"),
            ({"Records": None}, "`Records`"),
            ({"Records": [{}]}, "`kinesis`"),
            ({"Records": [{"eventID": "a:1", "kinesis": {"data": ""}}]}, "`sequenceNumber`"),
            ({"Records": [{"body": "an SQS message"}]}, "`kinesis`"),
        ],
    )
    def test_an_event_of_another_service_is_an_error(self, event: Any, message: str) -> None:
        """The message names the missing field, for a person who invokes the function by hand."""
        with pytest.raises(NotAKinesisEventError, match=message):
            decode_event(event)


class TestPartitionKey:
    """The partition key of a prediction on the output stream."""

    @pytest.mark.parametrize("ride_id", [256, -1, "a", "ü" * 256, "x" * 256, int("9" * 256)])
    def test_partition_key_is_the_ride_id(self, ride_id: int | str) -> None:
        """It is text, whatever type the id has."""
        assert partition_key(ride_id) == str(ride_id)

    @pytest.mark.parametrize("ride_id", ["😀" * 256, "x" + "😀" * 255])
    def test_a_long_key_is_cut(self, ride_id: str) -> None:
        """A stream counts UTF-16 code units. It would refuse a longer key, and every other entry of the request."""
        key = partition_key(ride_id)
        assert ride_id.startswith(key)
        assert len(key.encode("utf-16-le")) // 2 in (255, 256)


class TestRejectionsObject:
    """The object with the rejections of an invocation."""

    def test_a_line_has_the_reason_the_origin_and_the_data(self) -> None:
        """It is enough to understand a rejection, and to put its record on the stream again."""
        data = encoded(ride_event(trip_distance=120098.8))
        rejection = only_rejection(data)
        (stored,) = rejections_objects([rejection])
        assert json.loads(stored.body) == {
            "kind": "ride",
            "reason": "Expected `float` <= 100.0 - at `$.ride.trip_distance`",
            "event_id": "shardId-000000000000:1",
            "sequence_number": "1",
            "partition_key": "key-1",
            "arrival": 1545084650.987,
            "data": data,
        }
        assert lines(rejection) == [rejection.line]

    def test_only_the_line_of_a_packed_record_has_base64(self) -> None:
        """The record itself has the bytes, so that a packed ride is never encoded as base64 and decoded again."""
        good = json.dumps(ride_event(1)).encode()
        ((ride,), (rejection,)) = decode_event(kinesis_event(packed(good, b"{\xff")))
        assert ride.record.data == good
        assert rejection.record.data == b"{\xff"
        assert base64.b64decode(lines(rejection)[0].data) == b"{\xff"

    def test_half_a_surrogate_pair_is_replaced(self) -> None:
        """JSON can contain half a pair, and UTF-8 cannot encode it."""
        event = kinesis_event("\ud800")
        event["Records"][0]["kinesis"]["partitionKey"] = "key \ud800"
        (line,) = lines(*decode_event(event)[1])
        assert (line.partition_key, line.data) == ("key ?", "?")

    @pytest.mark.parametrize(("reason", "kept"), [("no \ud800 zone", "no ? zone"), ("x" * 5_000_000, "x" * 1000)])
    def test_a_reason_is_cleaned_and_cut(self, reason: str, kept: str) -> None:
        """The message of a model's exception can be anything."""
        rejection = Rejection(only_rejection(b"{").record, "prediction", reason)
        assert lines(rejection)[0].reason == rejection.summary["reason"] == kept

    def test_the_key_of_the_object_names_stream_shard_and_numbers(self) -> None:
        """A list of the bucket shows where a rejection came from. Numbers are compared as numbers."""
        _, rejections = decode_event({"Records": [record("*", 10), record("*", 9), record("*", 100)]})
        (stored,) = rejections_objects(rejections)
        assert re.fullmatch(r"ride_events/shardId-000000000000/9-100-[0-9a-f]{12}\.jsonl", stored.key)
        assert [line.sequence_number for line in lines(*rejections)] == ["9", "10", "100"]

    @pytest.mark.parametrize("added", ["", "/consumer/fast-lane:1712261124"])
    def test_the_key_names_the_stream_of_a_consumer(self, added: str) -> None:
        """With enhanced fan-out, the event has the consumer's ARN."""
        one = record("*")
        one["eventSourceARN"] = one["eventSourceARN"].replace("arn:aws:", "arn:aws-cn:") + added
        (stored,) = rejections_objects(decode_event({"Records": [one]})[1])
        assert stored.key.startswith("ride_events/shardId-000000000000/1-1-")

    def test_a_part_of_a_batch_does_not_overwrite_the_whole(self) -> None:
        """Nor does the whole overwrite a part, such as that of a bisected batch or of one that ran out of time."""
        _, rejections = decode_event(kinesis_event("*", ride_event(), "*", "*"))
        first, second, third = rejections
        parts = (rejections, [first], [first, third], [first, second], [third, second, first])
        keys = [stored.key for some in parts for stored in rejections_objects(some)]
        assert len(set(keys)) == 4
        assert keys[4] == keys[0]
