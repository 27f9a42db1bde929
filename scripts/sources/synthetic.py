"""Synthetic rides whose zones, distances and hours look like those of New York's green taxis.

The numbers below were measured on the 64,824 trips of green_tripdata_2023-01.parquet (NYC Taxi & Limousine Commission)
that are above 0 and at most 100 miles long.
"""

import datetime
import random
from collections.abc import Iterator

from rides import MAX_TRIP_DISTANCE, Ride, RideEvent
from scripts.sources.records import RideRecord, encode_ride

PAIRS = {
    (74, 75): (5, 1.38), (75, 74): (5, 1.33), (95, 95): (5, 0.96), (43, 238): (4, 1.19), (74, 166): (4, 1.77),
    (75, 75): (4, 0.66), (41, 166): (3, 1.01), (65, 49): (3, 1.40), (74, 43): (3, 1.52), (74, 151): (3, 2.27),
    (75, 41): (3, 1.36), (75, 238): (3, 1.32), (134, 216): (3, 3.31), (244, 244): (3, 0.59), (7, 7): (2, 0.80),
    (41, 151): (2, 1.29), (42, 244): (2, 2.04), (74, 41): (2, 1.02), (74, 74): (2, 0.80), (74, 116): (2, 2.20),
    (74, 152): (2, 1.53), (74, 236): (2, 1.98), (74, 262): (2, 2.65), (74, 263): (2, 2.24), (75, 142): (2, 2.59),
    (75, 163): (2, 2.45), (75, 263): (2, 1.17), (82, 138): (2, 3.79), (97, 17): (2, 2.10), (260, 129): (2, 1.37),
    (7, 193): (1, 1.19), (24, 48): (1, 4.23), (24, 166): (1, 0.80), (25, 112): (1, 4.80), (29, 210): (1, 1.10),
    (41, 41): (1, 0.60), (41, 42): (1, 1.10), (41, 43): (1, 1.55), (41, 48): (1, 4.59), (41, 74): (1, 1.01),
    (41, 75): (1, 1.43), (41, 116): (1, 1.81), (41, 239): (1, 2.46), (42, 42): (1, 0.68), (42, 114): (1, 9.18),
    (42, 263): (1, 3.15), (43, 50): (1, 4.11), (43, 143): (1, 2.68), (43, 234): (1, 4.09), (43, 236): (1, 0.98),
    (43, 239): (1, 1.89), (52, 256): (1, 5.22), (56, 130): (1, 5.29), (61, 61): (1, 1.00), (62, 36): (1, 4.41),
    (65, 33): (1, 1.14), (65, 40): (1, 1.24), (66, 33): (1, 0.94), (66, 181): (1, 3.04), (66, 231): (1, 2.50),
    (69, 186): (1, 10.45), (74, 42): (1, 1.24), (74, 138): (1, 6.72), (74, 143): (1, 4.21), (74, 238): (1, 2.66),
    (74, 244): (1, 3.36), (75, 24): (1, 1.64), (75, 42): (1, 2.16), (75, 68): (1, 5.47), (75, 107): (1, 5.25),
    (75, 140): (1, 2.20), (75, 141): (1, 1.99), (75, 151): (1, 1.42), (75, 166): (1, 1.85), (75, 231): (1, 8.37),
    (75, 234): (1, 4.76), (75, 237): (1, 1.86), (75, 239): (1, 2.01), (75, 246): (1, 5.55), (76, 76): (1, 0.97),
    (82, 56): (1, 1.28), (82, 70): (1, 3.01), (82, 82): (1, 1.02), (82, 129): (1, 1.47), (82, 173): (1, 1.63),
    (83, 95): (1, 3.03), (83, 157): (1, 1.62), (83, 196): (1, 2.28), (92, 53): (1, 2.42), (95, 56): (1, 2.12),
    (95, 102): (1, 1.82), (95, 124): (1, 5.14), (95, 134): (1, 1.31), (95, 244): (1, 13.84), (97, 40): (1, 1.69),
    (97, 148): (1, 2.96), (97, 181): (1, 1.62), (97, 225): (1, 2.83), (112, 7): (1, 4.04), (116, 200): (1, 6.06),
    (129, 18): (1, 11.47), (129, 83): (1, 1.14), (129, 129): (1, 1.09), (129, 141): (1, 4.27), (129, 146): (1, 2.94),
    (129, 157): (1, 1.86), (129, 226): (1, 1.97), (130, 10): (1, 1.97), (130, 28): (1, 1.28), (130, 121): (1, 2.93),
    (130, 130): (1, 1.19), (130, 145): (1, 10.77), (130, 191): (1, 4.14), (130, 197): (1, 1.70), (130, 265): (1, 8.83),
    (146, 231): (1, 8.06), (152, 43): (1, 2.39), (166, 43): (1, 2.07), (166, 48): (1, 4.30), (166, 75): (1, 1.89),
    (166, 142): (1, 2.71), (166, 151): (1, 0.95), (166, 166): (1, 0.67), (166, 167): (1, 5.17), (166, 220): (1, 6.69),
    (169, 247): (1, 0.62), (179, 7): (1, 0.78), (196, 56): (1, 1.29), (196, 95): (1, 1.16), (196, 258): (1, 3.68),
    (197, 132): (1, 5.32), (210, 210): (1, 1.20), (223, 223): (1, 0.88), (225, 225): (1, 0.80), (226, 129): (1, 2.00),
    (226, 226): (1, 1.06), (236, 142): (1, 2.27), (236, 151): (1, 1.29), (243, 169): (1, 2.90), (244, 168): (1, 3.82),
    (244, 169): (1, 2.96), (244, 236): (1, 6.31), (244, 238): (1, 4.76), (244, 243): (1, 1.40), (256, 125): (1, 5.93),
    (260, 7): (1, 1.80), (260, 56): (1, 2.95),
}  # fmt: skip
"""Pickup and dropoff zones of 200 trips drawn at random: how often they were drawn, and the pair's median miles."""

SPREAD = 0.45
"""Standard deviation of the logarithm of the distance within a pair (over the pairs of 20 trips or more)."""

HOURS = (16, 13, 9, 8, 6, 6, 14, 39, 47, 52, 53, 54, 55, 58, 64, 75, 77, 77, 78, 62, 48, 36, 28, 22)
"""Pickups in each hour of the day, of a thousand."""

MONTH, DAYS = datetime.datetime(2023, 1, 1), 31
"""The month of the measured file, in New York's time."""

IDS_A_SEED = 1_000_000_000
"""Two seeds never share an integer id, and with seeds below nine million the ids are exact in JavaScript and jq too."""


class TimedRide(Ride, frozen=True):
    """A ride with a field that the contract does not know: real backends send such fields."""

    pickup_datetime: str


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
        ride = TimedRide(pickup, dropoff, distance, (MONTH + since_midnight).isoformat())
        yield RideEvent(ride, seed * IDS_A_SEED + n if n % 2 else f"ride-{seed}-{n}")
