"""The ride contract, which every entry point uses: rides, ride events and predictions, as values and as JSON."""

import codecs
import functools
import json
import operator
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

MAX_TRIP_DISTANCE = 100.0
"""Miles. Training leaves longer trips out and serving refuses them: a stuck meter says 120,000."""

FIRST_TIME, END_OF_TIME = datetime(1970, 1, 1), datetime(2100, 1, 1)
"""A pickup is at the first of these times or later, and before the second. Clocks that were never set say 2001 or 2008,
and such pickups are read. For a missing time, programs write 1677, 1900, 2262 or 9999."""

MAX_ID_LENGTH = 256
"""Characters: a ride_id becomes a partition key, and PutRecords takes no longer key (API reference)."""

MAX_EXPLAINED_BYTES = 10_000
"""JSON up to this size is read a second time for its error. Python's objects take up to twenty times the size."""

PIECE_BYTES = 65_536
"""The size of the pieces in which UTF-8 is checked."""

BAD_TIME = "Invalid RFC3339 encoded datetime"
"""msgspec's words for a text that has not the most usual form of ISO 8601, which has seconds."""
EXPECTED_TIME = "Expected a time in ISO 8601, such as 2023-02-01T08:30:00"

RIDE, RIDE_ID, TIME = "ride", "ride_id", "pickup_datetime"
"""The names in a ride event's JSON: of the ride, of its id, and of the ride's time, which is optional.

The id also stands beside the predicted value in an output record. The value therefore cannot have its name.
"""


# gc=False for values that a batch has thousands of: they are never part of a cycle, and GC would scan them for long.
class Ride(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a value is predicted from: two TLC zones, the distance between them in miles, and the time if known."""

    PULocationID: int
    DOLocationID: int
    trip_distance: Annotated[float, Meta(ge=0, le=MAX_TRIP_DISTANCE)]
    pickup_datetime: datetime | None = None
    """Without a UTC offset, it is what a clock shows where the ride takes place, as in TLC's files. ``check_time`` has
    one more rule."""


RideId = int | Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
"""A producer's name for a ride. A prediction carries it in the same type. ``check_id`` has one more rule."""


class RideEvent(Struct, frozen=True, gc=False):
    """A ride and the id that its prediction will carry."""

    ride: Ride = msgspec.field(name=RIDE)
    ride_id: RideId = msgspec.field(name=RIDE_ID)


class Prediction(Struct, frozen=True, gc=False):
    """A predicted value, with the ride and the model that it belongs to."""

    model: str
    version: str
    field: str
    """The value's name, from the model's artifact or from the settings."""
    value: float
    ride_id: int | str
    event_id: str
    """The input record's id. It is the same on every redelivery, so readers can drop duplicates by it."""


RejectionKind = Literal["base64", "aggregate", "utf-8", "json", "ride", "prediction"]
"""The step that rejected a ride."""


class InvalidRideError(ValueError):
    """The data is not a ride event. The error has the step that failed and a reason that names the field."""

    def __init__(self, kind: RejectionKind, reason: str) -> None:
        """Keep the step and the reason."""
        self.kind: RejectionKind = kind
        self.reason = reason
        super().__init__(reason)


class _PredictionLine(Struct, gc=False):
    """The JSON of a prediction. A struct is written faster than a dictionary."""

    model: str
    version: str
    prediction: Struct
    event_id: str


get_time: Callable[[Ride], datetime | None] = operator.attrgetter(TIME)
"""Return a ride's time, or None."""

_ride_events = msgspec.json.Decoder(RideEvent)
_encoder = msgspec.json.Encoder()
_T = TypeVar("_T")
_TOO_LARGE_ID, _TOO_SMALL_ID = 10**MAX_ID_LENGTH, -(10 ** (MAX_ID_LENGTH - 1))
"""The first integers that are too long: comparing an id with them is faster than counting its digits.

The minus sign counts as a digit.
"""


def decode_ride(data: bytes) -> RideEvent:
    """Return the ride event in the JSON that a producer sent.

    Raises:
        InvalidRideError: if the data is not UTF-8, not JSON, or not a ride event.
    """
    event = decode_json(_ride_events, data)
    check_id(event.ride_id)
    if get_time(event.ride) is not None:
        check_time(event.ride, f"$.{RIDE}")
    return event


def decode_json(decoder: "msgspec.json.Decoder[_T]", data: bytes, explained: type | None = None) -> _T:
    """Return the value in JSON. Raises InvalidRideError if the data is not UTF-8, not JSON, or not what is decoded.

    A field that holds NaN or Infinity is looked for in the type ``explained``; by default, in what is decoded.
    """
    if not data.isascii():
        _check_utf_8(data)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        reason = str(error)
        if BAD_TIME not in reason:
            raise InvalidRideError("ride", reason) from error
        return convert_other_time(_load_small(data), decoder.type, reason)
    except msgspec.DecodeError as error:
        raise InvalidRideError("json", f"{error}{_explain_non_finite(data, explained or decoder.type)}") from error
    except RecursionError as error:
        raise InvalidRideError("json", "JSON is nested too deeply") from error


def convert_other_time(value: Any, kind: type[_T], reason: str) -> _T:
    """Return a ride or a ride event whose time is in a form of ISO 8601 that msgspec does not read.

    Raises InvalidRideError if the time has no such form; ``reason`` is msgspec's error about it.
    """
    try:
        fields = value.get(RIDE, value)
        fields[TIME] = read_time(fields[TIME])
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidRideError("ride", str(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRideError("ride", reason.replace(BAD_TIME, EXPECTED_TIME)) from error


def _load_small(data: bytes) -> Any:
    """Return the value in JSON as Python's objects; None if it is not JSON after all, or too large for objects."""
    try:
        return json.loads(data) if len(data) <= MAX_EXPLAINED_BYTES else None
    except (ValueError, RecursionError):
        return None


def read_time(text: str) -> datetime:
    """Return a time in any form of ISO 8601 that begins with a year and a hyphen, such as one without seconds.

    Raises ValueError if it is another text, or has no time of day.
    """
    if text[4:5] != "-" or len(text) <= len("2023-02-01"):
        raise ValueError(EXPECTED_TIME)
    return datetime.fromisoformat(text)


def check_id(ride_id: int | str) -> None:
    """Raise InvalidRideError for a number with too many digits, which no type can say."""
    if isinstance(ride_id, int) and not _TOO_SMALL_ID < ride_id < _TOO_LARGE_ID:
        raise InvalidRideError("ride", f"Expected an `int` of at most {MAX_ID_LENGTH} digits - at `$.{RIDE_ID}`")


def check_time(ride: Ride, path: str) -> None:
    """Raise InvalidRideError if the ride has a time that no ride can have. ``path`` is the ride's place in the JSON."""
    moment = get_time(ride)
    if moment is not None and not FIRST_TIME.year <= moment.year < END_OF_TIME.year:
        raise InvalidRideError(
            "ride", f"Expected a time from {FIRST_TIME.year} to {END_OF_TIME.year - 1} - at `{path}.{TIME}`"
        )


def with_time(ride: Ride, moment: datetime) -> Ride:
    """Return a ride that has a time: its own, or else the moment."""
    return ride if get_time(ride) is not None else msgspec.structs.replace(ride, **{TIME: moment})


def encode_prediction(prediction: Prediction) -> bytes:
    """Return the JSON of a prediction as readers of the output stream get it."""
    inner = _value_struct(prediction.field)(prediction.value, prediction.ride_id)
    return _encoder.encode(_PredictionLine(prediction.model, prediction.version, inner, prediction.event_id))


@functools.cache
def _value_struct(field: str) -> Callable[[float, int | str], Struct]:
    """Return the struct with the predicted value, whose name is a setting, and the ride's id."""
    fields = [("value", float), (RIDE_ID, int | str)]
    return msgspec.defstruct("Value", fields, rename={"value": field}, gc=False)


def encodable(text: str) -> str:
    """Return the text with lone surrogates replaced: JSON can bring them in, and UTF-8 cannot encode them."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _check_utf_8(data: bytes) -> None:
    """Check the data piece by piece, because the text of all of it may take four times its size."""
    start = 0
    while start < len(data):
        end = start + PIECE_BYTES
        try:
            _, read = codecs.utf_8_decode(data[start:end], "strict", end >= len(data))
        except UnicodeDecodeError as error:
            place = start + error.start
            raise InvalidRideError("utf-8", f"the data is not UTF-8: {error.reason} at byte {place}") from error
        start += read


def _explain_non_finite(data: bytes, expected: type) -> str:
    """Name the field that holds NaN or Infinity, which Python's own writer puts into JSON. Else return empty text."""
    if len(data) > MAX_EXPLAINED_BYTES:
        return ""
    try:
        msgspec.convert(json.loads(data.decode()), expected)
    except msgspec.ValidationError as error:
        return f"; read as Python's JSON: {error}"
    except (ValueError, RecursionError):
        pass
    return ""
