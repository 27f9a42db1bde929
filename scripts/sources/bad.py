"""Bad rides, as they occur on a real stream; the consumer has to reject each of them."""

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec.inspect
from msgspec.inspect import FloatType, IntType
from msgspec.structs import FieldInfo

from rides import MAX_ID_LENGTH, RIDE, RIDE_ID, Ride
from scripts.sources.records import RideRecord

Fault: TypeAlias = Callable[[dict[str, Any]], bytes]
"""Makes the data of a bad ride from the JSON of a good one."""


def _json(event: object) -> bytes:
    # Python's own encoder, because it writes NaN and Infinity, which other encoders refuse.
    return json.dumps(event).encode()


def _without(name: str) -> Fault:
    return lambda event: _json(event).replace(f'"{name}":'.encode(), f'"no {name}":'.encode())


def _with_id(ride_id: object) -> Fault:
    return lambda event: _json({**event, RIDE_ID: ride_id})


def _ride_with(name: str, value: object) -> Fault:
    return lambda event: _json({**event, RIDE: {**event[RIDE], name: value}})


def _wrong_values(field: FieldInfo) -> dict[str, object]:
    """Return values that the contract refuses in a field, with what is wrong with them."""
    kind = msgspec.inspect.type_info(field.type)
    if not isinstance(kind, IntType | FloatType):
        return {"null": None, "as a list": []}
    wrong: dict[str, object] = {"as text": "74", "null": None}
    if isinstance(kind, IntType):
        wrong["with a fraction"] = 74.5
    else:
        wrong |= {"NaN": math.nan, "infinite": math.inf}
    if kind.ge is not None:
        wrong["too small"] = kind.ge - 1
    if kind.le is not None:
        wrong["too large"] = kind.le + 1
    return wrong


FIELDS = [field for field in msgspec.structs.fields(Ride) if field.required]
FAULTS: dict[str, Fault] = {
    "nothing at all": lambda _: b"",
    "cut off": lambda event: _json(event)[:-9],
    "not UTF-8": lambda event: _json(event).replace(f'"{RIDE}'.encode(), f'"{RIDE}'.encode() + b"\xff", 1),
    "plain text": lambda event: f"{RIDE} {event[RIDE_ID]}".encode(),
    "a list": lambda event: _json([event]),
    f"no {RIDE}": _without(RIDE),
    f"no {RIDE_ID}": _without(RIDE_ID),
    **{f"no {field.encode_name}": _without(field.encode_name) for field in FIELDS},
    **{
        f"{field.encode_name} {fault}": _ride_with(field.encode_name, value)
        for field in FIELDS
        for fault, value in _wrong_values(field).items()
    },
    f"{RIDE_ID} null": _with_id(None),
    f"{RIDE_ID} true": _with_id(True),
    f"{RIDE_ID} empty": _with_id(""),
    f"{RIDE_ID} too long": _with_id("x" * (MAX_ID_LENGTH + 1)),
}
"""The ways in which a ride goes bad."""


def with_bad_rides(records: Sequence[RideRecord], percent: float, seed: int) -> list[RideRecord]:
    """Return the records with ``percent`` of them, rounded up, replaced by bad rides; a seed always gives the same.

    All faults take turns. A bad ride keeps the partition key of the good one. A record whose ``event`` is None stays as
    it is, so there are fewer bad rides than asked for if not enough records are good.
    """
    draw = random.Random(seed)
    good = [place for place, record in enumerate(records) if record.event]
    wanted = math.ceil(len(records) * percent / 100)
    chosen = draw.sample(good, min(wanted, len(good)))
    faults = draw.sample(list(FAULTS.values()), len(FAULTS))
    result = list(records)
    for turn, place in enumerate(chosen):
        event = json.loads(records[place].data)
        result[place] = RideRecord(records[place].partition_key, faults[turn % len(faults)](event))
    return result
