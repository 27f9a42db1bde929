"""Synthetic rides whose zones, distances and hours look like those of New York's green taxis.

The numbers below and those in pairs.csv were measured on the 64,824 trips of green_tripdata_2023-01.parquet (NYC Taxi &
Limousine Commission) that are above 0 and at most 100 miles long.
"""

import csv
import datetime
import random
from collections.abc import Iterator
from pathlib import Path

from rides import MAX_TRIP_DISTANCE, Ride, RideEvent
from scripts.sources.records import RideRecord, encode_ride

_ROWS = list(csv.DictReader(Path(__file__).with_name("pairs.csv").read_text().splitlines()))
PAIRS = {(int(row["pickup"]), int(row["dropoff"])): (int(row["times"]), float(row["miles"])) for row in _ROWS}
"""Pickup and dropoff zones of 200 trips drawn at random: how often they were drawn, and the pair's median miles."""
SPREAD = 0.45
"""Standard deviation of the logarithm of the distance within a pair (over the pairs of 20 trips or more)."""
HOURS = (16, 13, 9, 8, 6, 6, 14, 39, 47, 52, 53, 54, 55, 58, 64, 75, 77, 77, 78, 62, 48, 36, 28, 22)
"""Pickups in each hour of the day, of a thousand."""
MONTH, DAYS = datetime.datetime(2023, 1, 1), 31
"""The month of the measured file, in New York's time."""
IDS_A_SEED = 1_000_000_000
"""Two seeds never share an integer id, and with seeds below nine million the ids are exact in JavaScript and jq too."""


def generate_rides(number: int, seed: int) -> list[RideRecord]:
    """Return the records of ``number`` synthetic rides; a seed always gives the same."""
    return list(map(encode_ride, generate_events(number, seed)))


def generate_events(number: int, seed: int) -> Iterator[RideEvent]:
    """Yield ``number`` synthetic rides; a seed always gives the same.

    Half of the ids are integers, ``seed * IDS_A_SEED + n``, and half are strings, ``ride-<seed>-<n>``: no two rides
    share an id, even if their seeds differ.
    """
    draw = random.Random(seed)
    pairs, weights = list(PAIRS), [times for times, _ in PAIRS.values()]
    for n in range(1, number + 1):
        pickup, dropoff = pair = draw.choices(pairs, weights)[0]
        miles = round(PAIRS[pair][1] * draw.lognormvariate(0, SPREAD), 2)
        distance = min(max(miles, 0.01), MAX_TRIP_DISTANCE)
        hour = draw.choices(range(24), HOURS)[0]
        since_midnight = datetime.timedelta(days=draw.randrange(DAYS), hours=hour, seconds=draw.randrange(3600))
        ride = Ride(pickup, dropoff, distance, MONTH + since_midnight)
        yield RideEvent(ride, seed * IDS_A_SEED + n if n % 2 else f"ride-{seed}-{n}")
