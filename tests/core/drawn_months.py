"""Rides of a city that does not exist, drawn quickly: two weeks with busy zones and hours, and rare pairs of zones."""

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from baselines import Baseline, Bins
from features import KNOWN, prepare_features
from ride_counts import Counter, RideCounts
from rides import Ride
from scripts.models import baseline
from scripts.models.actual_errors import ActualRides
from scripts.models.months import RideSet
from served.arrays import Floats
from targets import DURATION

FIRST = datetime.datetime(2023, 1, 2)
ZONES = 30
MINUTES_A_MILE = 4.0


def draw_month(number: int, seed: int = 0) -> RideSet:
    """Draw rides in the order of their pickups. Of the others, half have no distance, and half take too long."""
    usual, others = _draw(number, seed), _draw(number // 20, seed + 1_000)
    values = np.full(len(others), 70.0)
    others = [
        msgspec.structs.replace(ride, trip_distance=0.0) if place % 2 else ride for place, ride in enumerate(others)
    ]
    draw = np.random.default_rng(seed + 2_000)
    minutes = (predict(usual) * draw.lognormal(0, 0.2, number)).clip(1, 60)
    return RideSet(("a",), usual, minutes, len(others), RideSet(("a",), others, values, 0))


def predict(rides: Sequence[Ride]) -> Floats:
    """Predict minutes from miles."""
    return np.array([MINUTES_A_MILE * ride.trip_distance for ride in rides])


def make_baseline(training: RideSet, validation: RideSet) -> Baseline:
    """Make a baseline and read it as the services do."""
    content = baseline.make_baseline(training, validation, predict(validation.rides), DURATION, predict)
    return msgspec.json.decode(baseline.encode(content), type=Baseline)


def count(baseline: Baseline, rides: Sequence[Ride], values: Floats | None = None, rejected: int = 0) -> RideCounts:
    """Count rides as the services do."""
    counter = Counter(Bins(baseline, "0" * 64))
    found = predict(rides) if values is None else values
    counter.add(rides, found.tolist(), [prepare_features(ride, KNOWN)["hour"] for ride in rides])
    counter.rejected = rejected
    return counter.total()


def change(rides: Sequence[Ride], **changes: Any) -> list[Ride]:
    """Return the rides with these attributes changed; a function takes the ride, and returns its new attribute."""
    return [
        msgspec.structs.replace(
            ride, **{name: made(ride) if callable(made) else made for name, made in changes.items()}
        )
        for ride in rides
    ]


def with_actual(rides: Sequence[Ride], actual: Floats) -> ActualRides:
    """Return rides with their actual values."""
    return ActualRides.of(rides, predict(rides), actual)


def _draw(number: int, seed: int) -> list[Ride]:
    draw = np.random.default_rng(seed)
    shares = 1 / np.arange(1, ZONES + 1)
    zones = draw.choice(np.arange(1, ZONES + 1), (number, 2), p=shares / shares.sum())
    miles = (1 + abs(zones[:, 0] - zones[:, 1]) * 0.3) * draw.lognormal(0, 0.15, number)
    busy = 2 + np.sin(np.arange(24) / 24 * 2 * np.pi)
    hours = np.sort(draw.integers(0, 14, number) * 24 + draw.choice(24, number, p=busy / busy.sum()))
    minutes = draw.integers(0, 60, number)
    pickups = [
        FIRST + datetime.timedelta(hours=int(hour), minutes=int(minute))
        for hour, minute in zip(hours, minutes, strict=True)
    ]
    rides = map(Ride, zones[:, 0].tolist(), zones[:, 1].tolist(), miles.round(2).tolist(), pickups)
    return sorted(rides, key=lambda ride: ride.pickup_datetime or FIRST)
