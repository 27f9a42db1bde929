"""The golden rides: a few hundred rides, always the same, for which two ways to predict must give the same values."""

import datetime
import itertools
from collections.abc import Iterator

from rides import Ride
from scripts.models.proof_rides import GOLDEN_DISTANCES
from scripts.sources.synthetic import generate_events

ORDINARY_RIDES = 200
EDGE_ZONES = ((130, 205), (0, 0), (130, 999_999), (-1, 205), (2**63 - 1, -(2**63)))
"""Pairs of zones: one that every model knows, and pairs that no model was trained on."""
WEEK = datetime.datetime(2023, 1, 9)
"""The midnight at which the week of the rides with times begins: a Monday."""
CLOCK_CHANGES = (datetime.date(2023, 3, 12), datetime.date(2023, 11, 5))
"""The days on which New York's clocks went forwards and backwards."""
FIRST_AND_LAST = (datetime.datetime(1970, 1, 1), datetime.datetime(2099, 12, 31, 23, 59, 59, 999_999))


def golden_rides() -> list[Ride]:
    """Return ordinary rides, the edges of the contract, unseen pairs, and times of a week and of both clock changes."""
    ordinary = [event.ride for event in generate_events(ORDINARY_RIDES, seed=0)]
    edges = [Ride(*zones, miles, WEEK) for zones in EDGE_ZONES for miles in GOLDEN_DISTANCES]
    timed = [
        Ride(ride.PULocationID, ride.DOLocationID, ride.trip_distance, moment)
        for ride, moment in zip(itertools.cycle(ordinary), _moments(), strict=False)
    ]
    return [*ordinary, *edges, *timed]


def _moments() -> Iterator[datetime.datetime]:
    """Yield each hour of a week, each half hour of both clock changes with a UTC offset, and the contract's limits."""
    yield from (WEEK + datetime.timedelta(hours=hour, minutes=hour % 60) for hour in range(7 * 24))
    for day in CLOCK_CHANGES:
        # In UTC, because the local clock shows an hour twice, or never.
        begin = datetime.datetime.combine(day, datetime.time(4), datetime.UTC)
        yield from (begin + datetime.timedelta(minutes=30 * number) for number in range(48))
    yield from FIRST_AND_LAST
