"""The ride contract: decoding a ride event, and encoding a prediction."""

import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from rides import InvalidRideError, Prediction, Ride, RideEvent, decode_json, decode_ride, encode_prediction, with_time
from tests.builders import BAD_TIMES, ride_event


def decode(event: object) -> RideEvent:
    """Decode a ride event from its JSON, or from bytes that may be anything."""
    return decode_ride(event if isinstance(event, bytes) else json.dumps(event).encode())


def changed(before: bytes, after: bytes) -> bytes:
    """Build a good ride's JSON with one part of its text replaced."""
    good = json.dumps(ride_event()).encode()
    assert before in good
    return good.replace(before, after)


def test_a_ride_has_the_fields_of_its_json() -> None:
    """A ride and its id come from the JSON unchanged."""
    assert decode(ride_event(256)) == RideEvent(Ride(130, 205, 3.66), 256)


@pytest.mark.parametrize("ride_id", [0, -1, 2**80, "a", "256", "x" * 256, "поездка", "\U0001f600", "\x00"])
def test_ride_ids_keep_their_type_and_value(ride_id: object) -> None:
    """Integers of any size and strings of 1 to 256 characters are ids."""
    assert decode(ride_event(ride_id)).ride_id == ride_id


@pytest.mark.parametrize("distance", [0, 0.0, 1e-300, 99.99, 100, 100.0])
def test_distances_from_0_to_100_miles_are_valid(distance: float) -> None:
    """Both ends belong to the range."""
    assert decode(ride_event(trip_distance=distance)).ride.trip_distance == distance


@pytest.mark.parametrize(
    ("text", "pickup"),
    [
        ("2023-02-01T08:30:00", datetime(2023, 2, 1, 8, 30)),
        ("2023-02-01 08:30:00", datetime(2023, 2, 1, 8, 30)),
        ("2023-02-01t08:30:00z", datetime(2023, 2, 1, 8, 30, tzinfo=UTC)),
        ("2023-02-01T08:30:00.123456789Z", datetime(2023, 2, 1, 8, 30, 0, 123457, tzinfo=UTC)),
        ("2023-02-01T08:30:00-00:00", datetime(2023, 2, 1, 8, 30, tzinfo=UTC)),
        ("2023-02-01T08:30:00+0530", datetime(2023, 2, 1, 8, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        ("2023-02-01T08:30:00-23:59", datetime(2023, 2, 1, 8, 30, tzinfo=timezone(-timedelta(hours=23, minutes=59)))),
        # Other forms of ISO 8601, such as Java's and HTML's for a time without seconds.
        ("2023-02-01T08:30", datetime(2023, 2, 1, 8, 30)),
        ("2023-02-01T08:30Z", datetime(2023, 2, 1, 8, 30, tzinfo=UTC)),
        ("2023-02-01 08:30:00+00", datetime(2023, 2, 1, 8, 30, tzinfo=UTC)),
        ("2023-02-01T08:30:00,5", datetime(2023, 2, 1, 8, 30, 0, 500_000)),
        ("1970-01-01T00:00:00", datetime(1970, 1, 1)),
        ("2099-12-31T23:59:59", datetime(2099, 12, 31, 23, 59, 59)),
    ],
)
def test_a_pickup_may_have_an_offset_or_not(text: str, pickup: datetime) -> None:
    """Datetimes compare as moments, so their offsets are compared too."""
    found = decode(ride_event(pickup_datetime=text)).ride.pickup_datetime
    assert found is not None
    assert (found, found.utcoffset()) == (pickup, pickup.utcoffset())


def test_null_is_no_pickup() -> None:
    """Producers write absent values in both ways."""
    assert decode(changed(b"3.66", b'3.66, "pickup_datetime": null')) == decode(ride_event())


@pytest.mark.parametrize("zone", [UTC, None])
def test_a_ride_keeps_its_own_time(zone: timezone | None) -> None:
    """A moment is for rides without a pickup, and changes nothing else in them."""
    moment, own = datetime(2023, 2, 1, tzinfo=UTC), Ride(1, 2, 3.0, datetime(2023, 3, 1, tzinfo=zone))
    assert with_time(own, moment) is own
    assert with_time(Ride(1, 2, 3.0), moment) == Ride(1, 2, 3.0, moment)


def test_unknown_fields_are_ignored() -> None:
    """A backend may send more than the contract needs."""
    assert decode({**ride_event(passenger_count=2), "source": ["app"]}).ride == Ride(130, 205, 3.66)


def test_a_megabyte_of_json_is_read() -> None:
    """Kinesis takes records of 1 MiB, and an unknown field may fill one."""
    assert decode({**ride_event(), "photo": "x" * 1_000_000}).ride_id == 256


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
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
        *(
            pytest.param(ride_event(pickup_datetime=time), "ride", "$.ride.pickup_datetime", id=f"time {time!r}"[:60])
            for time in BAD_TIMES
        ),
        *(
            pytest.param(
                changed(b"3.66}", b'3.66, "pickup_datetime": "2023-02-01T08:30"' + rest),
                "ride",
                "such as 2023-",
                id=name,
            )
            for name, rest in (
                ("broken after a time", b"}, }"),
                ("nested after a time", b', "x":' + b"[" * 9_000),
                ("not text after a time", b', "x": "\xc3\xa9"} \xc3\xa9'),
                ("large after a time", b', "x": "' + b"x" * 10_000 + b'"}'),
            )
        ),
        pytest.param(changed(b"3.66", b'3.66, "pickup_datetime": NaN'), "json", "ride.pickup_datetime", id="NaN time"),
        pytest.param(ride_event(""), "ride", "$.ride_id", id="empty id"),
        pytest.param(ride_event("x" * 257), "ride", "$.ride_id", id="long id"),
        pytest.param(ride_event(10**256), "ride", "$.ride_id", id="id of 257 digits"),
        pytest.param(ride_event(True), "ride", "$.ride_id", id="id as bool"),
        pytest.param(ride_event(1.5), "ride", "$.ride_id", id="id as fraction"),
        pytest.param(ride_event([1]), "ride", "$.ride_id", id="id as list"),
    ],
)
def test_invalid_data_is_an_error_with_kind_and_reason(data: object, kind: str, reason: str) -> None:
    """The kind is the step that failed, and the reason names the field if there is one."""
    with pytest.raises(InvalidRideError) as caught:
        decode(data)
    assert (caught.value.kind, caught.value.reason) == (kind, str(caught.value))
    assert reason in caught.value.reason


def test_nan_is_looked_for_in_the_type_that_is_explained() -> None:
    """What is decoded need not have the fields, such as a list whose elements are decoded later."""
    decoder = msgspec.json.Decoder(list[msgspec.Raw])
    data = b"[" + json.dumps(ride_event()).encode() + b"," + changed(b"3.66", b"NaN") + b"]"
    with pytest.raises(InvalidRideError, match=r"Expected `float` >= 0.0 - at `\$\[1\]\.ride\.trip_distance`"):
        decode_json(decoder, data, explained=list[RideEvent])


def test_a_prediction_is_the_json_of_the_contract() -> None:
    """Readers rely on the names, the nesting and the types."""
    data = encode_prediction(Prediction("a model", "a run", "ride_duration", 21.29, 256, "shardId-000000000000:1"))
    assert json.loads(data) == {
        "model": "a model",
        "version": "a run",
        "prediction": {"ride_duration": 21.29, "ride_id": 256},
        "event_id": "shardId-000000000000:1",
    }


def test_a_predicted_value_keeps_every_digit() -> None:
    """A reader gets exactly the double that the model gave."""
    data = encode_prediction(Prediction("m", "v", "fare", 0.1 + 0.2, 1, "e"))
    assert json.loads(data)["prediction"]["fare"] == 0.1 + 0.2
