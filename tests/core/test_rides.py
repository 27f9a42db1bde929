"""Decoding Kinesis events into rides and rejections, and encoding what goes out."""

import base64
import json
import re
from typing import Any

import msgspec
import pytest

from rides import Prediction, Ride, encode_prediction
from streaming.records import (
    NotAKinesisEventError,
    ReceivedRide,
    Rejection,
    decode_event,
    partition_key,
    rejections_object,
)
from tests.builders import encoded, kinesis_event, record, ride_event


def only_ride(*data: object) -> ReceivedRide:
    """Decode an event of one record that must be a ride."""
    received, rejections = decode_event(kinesis_event(*data))
    assert rejections == []
    return received[0]


def only_rejection(data: object) -> Rejection:
    """Decode an event of one record that must be rejected."""
    received, rejections = decode_event(kinesis_event(data))
    assert received == []
    return rejections[0]


def changed(before: bytes, after: bytes) -> bytes:
    """Build a good ride's JSON with one part of its text replaced."""
    good = json.dumps(ride_event()).encode()
    assert before in good
    return good.replace(before, after)


class TestGoodRides:
    """What the contract accepts."""

    def test_a_ride_comes_out_as_it_went_in(self) -> None:
        """The fields of ride and id are those of the JSON, and the record stays with them."""
        received = only_ride(ride_event(256))
        assert received.event.ride == Ride(130, 205, 3.66)
        assert received.event.ride_id == 256
        assert received.record.event_id == "shardId-000000000000:1"

    @pytest.mark.parametrize("ride_id", [0, -1, 2**80, "a", "256", "x" * 256, "поездка", "\U0001f600", "\x00"])
    def test_ride_ids_keep_their_type_and_value(self, ride_id: object) -> None:
        """Integers of any size and strings of 1 to 256 characters are ids."""
        assert only_ride(ride_event(ride_id)).event.ride_id == ride_id

    @pytest.mark.parametrize("distance", [0, 0.0, 1e-300, 99.99, 100, 100.0])
    def test_distances_from_0_to_100_miles_are_taken(self, distance: float) -> None:
        """Both ends belong to the range."""
        assert only_ride(ride_event(trip_distance=distance)).event.ride.trip_distance == distance

    def test_unknown_fields_are_ignored(self) -> None:
        """A backend may send more than is needed."""
        assert only_ride({**ride_event(passenger_count=2), "source": ["app"]}).event.ride == Ride(130, 205, 3.66)

    def test_a_record_without_a_partition_key_is_a_ride(self) -> None:
        """On-demand streams with automatic distribution send none."""
        event = kinesis_event(ride_event())
        del event["Records"][0]["kinesis"]["partitionKey"]
        assert len(decode_event(event)[0]) == 1


class TestBadRides:
    """What becomes a rejection, and the reason that it is given."""

    @pytest.mark.parametrize(
        ("data", "kind", "reason"),
        [
            pytest.param("eyJ*", "base64", "not base64", id="broken base64"),
            pytest.param("!" + encoded(ride_event()), "base64", "not base64", id="a stray character in base64"),
            pytest.param("eyJ", "base64", "not base64", id="cut base64"),
            pytest.param("é", "base64", "not base64", id="base64 beyond ASCII"),
            pytest.param(b"\xff\xfe", "utf-8", "byte 0", id="broken UTF-8"),
            pytest.param(changed(b'"ride_id"', b'"x":"\xff","ride_id"'), "utf-8", "byte", id="UTF-8, unknown field"),
            pytest.param(b"", "json", "truncated", id="empty"),
            pytest.param(b'{"ride": {"PULoc', "json", "truncated", id="cut JSON"),
            pytest.param(changed(b"3.66", b"NaN"), "json", "$.ride.trip_distance", id="NaN"),
            pytest.param(changed(b"3.66", b"Infinity"), "json", "$.ride.trip_distance", id="Infinity"),
            pytest.param(changed(b"256", b'"\\ud800"'), "json", "", id="half a surrogate pair"),
            pytest.param(b"[" * 100_000, "ride", "array", id="nested arrays"),
            pytest.param(changed(b'"ride_id"', b'"x":' + b"[" * 100_000), "json", "deeply", id="nested unknown field"),
            pytest.param(b"null", "ride", "null", id="null"),
            pytest.param(ride_event(trip_distance=None), "ride", "trip_distance", id="no distance"),
            pytest.param(ride_event(PULocationID=None), "ride", "PULocationID", id="no pickup"),
            pytest.param({"ride": {}, "ride_id": 1}, "ride", "PULocationID", id="empty ride"),
            pytest.param({"ride_id": 1}, "ride", "ride", id="no ride"),
            pytest.param({"ride": ride_event()["ride"]}, "ride", "ride_id", id="no id"),
            pytest.param(ride_event(trip_distance=120098.8), "ride", "$.ride.trip_distance", id="stuck meter"),
            pytest.param(ride_event(trip_distance=-0.1), "ride", "$.ride.trip_distance", id="negative distance"),
            pytest.param(changed(b"3.66", b"1e400"), "ride", "$.ride.trip_distance", id="beyond a double"),
            pytest.param(ride_event(trip_distance="3.66"), "ride", "$.ride.trip_distance", id="distance as text"),
            pytest.param(ride_event(trip_distance=True), "ride", "$.ride.trip_distance", id="distance as bool"),
            pytest.param(ride_event(PULocationID="130"), "ride", "$.ride.PULocationID", id="zone as text"),
            pytest.param(ride_event(DOLocationID=205.5), "ride", "$.ride.DOLocationID", id="zone as fraction"),
            pytest.param(ride_event(""), "ride", "$.ride_id", id="empty id"),
            pytest.param(ride_event("x" * 257), "ride", "$.ride_id", id="long id"),
            pytest.param(ride_event(10**256), "ride", "$.ride_id", id="id of 257 digits"),
            pytest.param(ride_event(True), "ride", "$.ride_id", id="id as bool"),
            pytest.param(ride_event(1.5), "ride", "$.ride_id", id="id as fraction"),
            pytest.param(ride_event([1]), "ride", "$.ride_id", id="id as list"),
        ],
    )
    def test_it_is_rejected_with_a_reason(self, data: object, kind: str, reason: str) -> None:
        """The kind says at which step it failed, the reason names the field where there is one."""
        rejection = only_rejection(data)
        assert rejection.kind == kind
        assert reason in rejection.reason

    def test_it_does_not_sink_its_neighbours(self) -> None:
        """Rides before and behind it come through, in order."""
        received, rejections = decode_event(kinesis_event(ride_event(1), b"{", ride_event(3)))
        assert [ride.event.ride_id for ride in received] == [1, 3]
        assert [rejection.record.event_id for rejection in rejections] == ["shardId-000000000000:2"]


class TestEvents:
    """Events as a whole."""

    def test_an_empty_batch_is_no_rides(self) -> None:
        """There is nothing to do and nothing wrong."""
        assert decode_event({"Records": []}) == ([], [])

    @pytest.mark.parametrize(
        ("event", "message"),
        [
            ({}, "`Records`"),
            (None, "`Records`"),
            ([], "`Records`"),
            ({"Records": None}, "null"),
            ({"Records": [{}]}, "`kinesis`"),
            ({"Records": [{"eventID": "a:1", "kinesis": {"data": ""}}]}, "`sequenceNumber`"),
            ({"Records": [{"body": "an SQS message"}]}, "`kinesis`"),
        ],
    )
    def test_what_is_no_kinesis_event_is_said_to_be_none(self, event: Any, message: str) -> None:
        """The error names what is missing, for the person who invokes by hand."""
        with pytest.raises(NotAKinesisEventError, match=message):
            decode_event(event)

    def test_a_megabyte_record_is_read(self) -> None:
        """Kinesis takes records of 1 MiB; an unknown field may fill one."""
        data = {**ride_event(), "photo": "x" * 1_000_000}
        assert only_ride(data).event.ride_id == 256


class TestPartitionKeys:
    """Where a prediction goes on the output stream."""

    @pytest.mark.parametrize("ride_id", [256, -1, "a", "ü" * 256, "x" * 256, int("9" * 256)])
    def test_it_is_the_ride_id(self, ride_id: int | str) -> None:
        """As text, whatever type the id has."""
        assert partition_key(ride_id) == str(ride_id)

    @pytest.mark.parametrize("ride_id", ["😀" * 256, "x" + "😀" * 255])
    def test_it_is_cut_where_a_stream_would_refuse_it(self, ride_id: str) -> None:
        """And with it every other entry of the request: rare characters count twice there, as in UTF-16."""
        key = partition_key(ride_id)
        assert ride_id.startswith(key)
        assert len(key.encode("utf-16-le")) // 2 in (255, 256)


class TestPredictions:
    """What goes to the output stream."""

    def test_it_is_the_contracts_json(self) -> None:
        """Names, nesting and types are those that readers rely on."""
        data = encode_prediction(Prediction("a model", "a run", "ride_duration", 21.29, 256, "shardId-000000000000:1"))
        assert json.loads(data) == {
            "model": "a model",
            "version": "a run",
            "prediction": {"ride_duration": 21.29, "ride_id": 256},
            "event_id": "shardId-000000000000:1",
        }

    def test_a_value_keeps_every_digit(self) -> None:
        """A reader gets the very double that the model gave."""
        data = encode_prediction(Prediction("m", "v", "fare", 0.1 + 0.2, 1, "e"))
        assert json.loads(data)["prediction"]["fare"] == 0.1 + 0.2


class TestRejectionsObject:
    """What goes to the failures bucket."""

    def test_a_line_holds_reason_origin_and_the_original_data(self) -> None:
        """Enough to understand it, and to put it on the stream again."""
        data = encoded(ride_event(trip_distance=120098.8))
        _, body = rejections_object([only_rejection(data)])
        line = json.loads(body)
        assert line == {
            "kind": "ride",
            "reason": "Expected `float` <= 100.0 - at `$.ride.trip_distance`",
            "event_id": "shardId-000000000000:1",
            "sequence_number": "1",
            "partition_key": "key-1",
            "arrival": 1545084650.987,
            "data": data,
        }
        assert json.loads(base64.b64decode(line["data"]))["ride"]["trip_distance"] == 120098.8

    def test_half_a_surrogate_pair_in_a_key_can_be_kept(self) -> None:
        """JSON can bring one in, and UTF-8 cannot take it out."""
        event = kinesis_event("\ud800")
        event["Records"][0]["kinesis"]["partitionKey"] = "key \ud800"
        line = json.loads(rejections_object(decode_event(event)[1])[1])
        assert (line["partition_key"], line["data"]) == ("key ?", "?")

    def test_the_key_names_stream_shard_and_numbers(self) -> None:
        """Whoever lists the bucket sees where a rejection came from; numbers are compared as numbers."""
        _, rejections = decode_event({"Records": [record("*", 10), record("*", 9), record("*", 100)]})
        key, body = rejections_object(rejections)
        assert re.fullmatch(r"ride_events/shardId-000000000000/9-100-[0-9a-f]{12}\.jsonl", key)
        assert [msgspec.json.decode(line)["sequence_number"] for line in body.splitlines()] == ["9", "10", "100"]

    def test_a_part_of_a_batch_does_not_overwrite_the_whole(self) -> None:
        """Neither a bisected redelivery's, nor one that had no time for the record in the middle; nor the other way."""
        _, rejections = decode_event(kinesis_event("*", ride_event(), "*", "*"))
        first, second, third = rejections
        keys = [rejections_object(some)[0] for some in (rejections, [first], [first, third], [first, second])]
        assert len(set(keys)) == 4
        assert rejections_object([third, second, first])[0] == keys[0]

    @pytest.mark.parametrize("said", ["no \ud800 zone", "x" * 5_000_000])
    def test_a_reason_can_be_anything_that_a_model_says(self, said: str) -> None:
        """It is cleaned and cut."""
        rejection = Rejection(only_ride(ride_event()).record, "prediction", said)
        _, body = rejections_object([rejection])
        assert json.loads(body)["reason"] in ("no ? zone", "x" * 1000)
