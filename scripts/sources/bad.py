"""Bad rides: what a real stream carries beside good ones, and what the consumer has to reject."""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from rides import MAX_ID_LENGTH, RideEvent
from scripts.sources.record import RideRecord

Event = dict[str, Any]
"""A good ride event as Python reads its JSON."""


def _json(event: object) -> bytes:
    # Python's own writer: the one that puts NaN into JSON.
    return json.dumps(event).encode()


def _all_but(name: str, fields: Event) -> Event:
    return {other: value for other, value in fields.items() if other != name}


def _without(name: str) -> Callable[[Event], bytes]:
    return lambda event: _json(_all_but(name, event))


def _ride_without(name: str) -> Callable[[Event], bytes]:
    return lambda event: _json({**event, "ride": _all_but(name, event["ride"])})


def _with_id(ride_id: object) -> Callable[[Event], bytes]:
    return lambda event: _json({**event, "ride_id": ride_id})


def _ride_with(name: str, value: object) -> Callable[[Event], bytes]:
    return lambda event: _json({**event, "ride": {**event["ride"], name: value}})


FAULTS: dict[str, Callable[[Event], bytes]] = {
    "nothing at all": lambda _: b"",
    "cut off": lambda event: _json(event)[:-9],
    "not UTF-8": lambda event: _json(event).replace(b'"ride"', b'"ride\xff"', 1),
    "plain text": lambda event: f"ride {event['ride_id']}".encode(),
    "a list": lambda event: _json([event]),
    "no ride": _without("ride"),
    "no ride_id": _without("ride_id"),
    "no pickup": _ride_without("PULocationID"),
    "no distance": _ride_without("trip_distance"),
    "pickup as text": _ride_with("PULocationID", "74"),
    "pickup with a fraction": _ride_with("PULocationID", 74.5),
    "dropoff null": _ride_with("DOLocationID", None),
    "distance as text": _ride_with("trip_distance", "3.66 miles"),
    # The longest trip of green_tripdata_2023-02.parquet.
    "a stuck meter": _ride_with("trip_distance", 120098.8),
    "a negative distance": _ride_with("trip_distance", -1.5),
    "NaN miles": _ride_with("trip_distance", math.nan),
    "infinite miles": _ride_with("trip_distance", math.inf),
    "ride_id null": _with_id(None),
    "ride_id true": _with_id(True),
    "ride_id empty": _with_id(""),
    "ride_id too long": _with_id("x" * (MAX_ID_LENGTH + 1)),
}
"""The ways in which a ride goes bad, each of which makes its data from that of a good one."""


def spoiled(records: Sequence[RideRecord], percent: float, seed: int) -> list[RideRecord]:
    """Return the records with so many percent of them, rounded up, turned bad; always the same for a seed.

    All faults take their turn. A spoiled record keeps its partition key. Records that are bad already are left alone,
    and where too few are good, fewer are spoiled.
    """
    draw = random.Random(seed)
    events = {place: event for place, record in enumerate(records) if (event := _good_event(record.data))}
    wanted = math.ceil(len(records) * percent / 100)
    chosen = draw.sample(list(events), min(wanted, len(events)))
    faults = draw.sample(list(FAULTS.values()), len(FAULTS))
    result = list(records)
    for turn, place in enumerate(chosen):
        result[place] = replace(records[place], data=faults[turn % len(faults)](events[place]))
    return result


def _good_event(data: bytes) -> Event | None:
    try:
        msgspec.json.decode(data, type=RideEvent)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    event: Event = json.loads(data)
    return event
