"""Bad rides, as they occur on a real stream; the consumer has to reject each of them."""

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from rides import MAX_ID_LENGTH
from scripts.sources.records import RideRecord

Fault: TypeAlias = Callable[[dict[str, Any]], bytes]
"""Makes the data of a bad ride from the JSON of a good one."""


def _json(event: object) -> bytes:
    # Python's own encoder, because it writes NaN and Infinity, which other encoders refuse.
    return json.dumps(event).encode()


def _without(name: str) -> Fault:
    return lambda event: _json(event).replace(f'"{name}":'.encode(), f'"no {name}":'.encode())


def _with_id(ride_id: object) -> Fault:
    return lambda event: _json({**event, "ride_id": ride_id})


def _ride_with(name: str, value: object) -> Fault:
    return lambda event: _json({**event, "ride": {**event["ride"], name: value}})


FAULTS: dict[str, Fault] = {
    "nothing at all": lambda _: b"",
    "cut off": lambda event: _json(event)[:-9],
    "not UTF-8": lambda event: _json(event).replace(b'"ride"', b'"ride\xff"', 1),
    "plain text": lambda event: f"ride {event['ride_id']}".encode(),
    "a list": lambda event: _json([event]),
    "no ride": _without("ride"),
    "no ride_id": _without("ride_id"),
    "no pickup": _without("PULocationID"),
    "no distance": _without("trip_distance"),
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
