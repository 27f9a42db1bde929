"""The JSON that ``POST /predict`` takes and answers: one ride, or a list of rides, each bare or in a ride event."""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from rides import RIDE, RIDE_ID, InvalidRideError, Ride, RideId, check_id, check_time, decode_json, decode_ride
from web.problems import problem_of

MAX_RIDES = 1000
"""The largest number of rides in a list."""


class BareRide(Ride, frozen=True, gc=False):
    """A ride that is not in a ride event; it may have the id beside its other fields."""

    ride_id: RideId | UnsetType = msgspec.field(name=RIDE_ID, default=UNSET)


class RequestedRide(Struct, frozen=True, gc=False):
    """A valid ride of a request, with the id that its answer will carry; None if the client gave no id."""

    ride: Ride
    ride_id: int | str | None


class _Shape(Struct, frozen=True, gc=False):
    """The field that only a ride event has, not a bare ride."""

    ride: msgspec.Raw = msgspec.field(name=RIDE, default=msgspec.Raw())


class TooManyRidesError(ValueError):
    """A list has more than ``MAX_RIDES`` rides."""


_shapes = msgspec.json.Decoder(_Shape)
_bare_rides = msgspec.json.Decoder(BareRide)
_lists = msgspec.json.Decoder(list[msgspec.Raw])
_IN_ANY_FORM: Any = msgspec.defstruct(
    "InAnyForm",
    [
        (one.name, one.type | UnsetType, UNSET)
        for one in msgspec.structs.fields(BareRide)
        if msgspec.json.schema(one.type).get("type") == "number"
    ]
    + [("ride", Ride | UnsetType, UNSET)],
    rename={"ride": RIDE},
)
"""An element of a list, in either form: the fields that may hold NaN. A list is decoded without its elements' fields,
so errors look here."""


def is_list(body: bytes) -> bool:
    """Return whether a body is a list of rides, or broken JSON that begins like one."""
    return body.lstrip(b" \t\r\n")[:1] == b"["


def decode_one(body: bytes) -> RequestedRide:
    """Return the ride in JSON. Raises InvalidRideError with the reason that the stream would give."""
    if _is_event(body):
        event = decode_ride(body)
        return RequestedRide(event.ride, event.ride_id)
    ride = decode_json(_bare_rides, body)
    ride_id = None if ride.ride_id is UNSET else ride.ride_id
    if ride_id is not None:
        check_id(ride_id)
    check_time(ride, "$")
    return RequestedRide(ride, ride_id)


def _is_event(body: bytes) -> bool:
    try:
        return bool(decode_json(_shapes, body).ride)
    except InvalidRideError:
        # The caller's decoder gives the reason. It names the field that holds NaN, for example.
        return f'"{RIDE}"'.encode() in body


def decode_list(body: bytes) -> list[RequestedRide | InvalidRideError]:
    """Return the rides in a JSON list, in order, or an error in the place of an element that is not a ride.

    Raises InvalidRideError if the body is not a JSON list, and TooManyRidesError.
    """
    elements = decode_json(_lists, body, explained=list[_IN_ANY_FORM])
    if len(elements) > MAX_RIDES:
        raise TooManyRidesError(f"a list has at most {MAX_RIDES:,} rides, and this one has {len(elements):,}")
    rides: list[RequestedRide | InvalidRideError] = []
    for element in elements:
        try:
            rides.append(decode_one(bytes(element)))
        except InvalidRideError as error:
            rides.append(error)
    return rides


def make_answer(
    requested: RequestedRide | InvalidRideError, outcome: float | InvalidRideError, field: str, version: str
) -> dict[str, Any]:
    """Return a ride's answer: its value under the name ``field``, or the problem in its place."""
    ride_id = requested.ride_id if isinstance(requested, RequestedRide) else None
    given = {} if ride_id is None else {RIDE_ID: ride_id}
    if isinstance(outcome, InvalidRideError):
        return {"error": problem_of(outcome), **given}
    return {field: outcome, "model_version": version, **given}
