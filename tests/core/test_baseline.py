"""The baseline of a model: what its training rides and predictions were like, and how much their windows differ."""

import datetime
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from rides import Ride
from scripts.models import baseline
from scripts.models.months import RideSet
from served.arrays import Floats
from targets import DURATION

SUNDAY = datetime.datetime(2023, 1, 1, 12)


def draw_rides(number: int, seed: int = 0) -> RideSet:
    """Draw rides of two weeks between some zones."""
    draw = np.random.default_rng(seed)
    zones, miles = draw.integers(1, 40, (number, 2)).tolist(), draw.lognormal(0.7, 0.9, number).clip(0.01, 100).tolist()
    pickups = [SUNDAY + datetime.timedelta(minutes=minutes) for minutes in draw.integers(0, 14 * 1440, number).tolist()]
    rides = [Ride(*pair, *rest) for pair, *rest in zip(zones, miles, pickups, strict=True)]
    return RideSet(("a",), rides, draw.uniform(1, 60, number), 0)


def predict(rides: Sequence[Ride]) -> Floats:
    """Predict minutes from miles."""
    return np.array([4 * ride.trip_distance for ride in rides])


def test_each_bin_of_predictions_has_its_share_of_the_training_rides() -> None:
    """If many predictions are the same, there are fewer bins. No edge is equal to a prediction."""
    values = np.arange(1.0, 1001.0)
    bins = Counter(np.searchsorted(baseline.make_edges(values)["prediction"], values, side="right").tolist())
    assert set(bins.values()) == {50}
    assert baseline.make_edges(np.array([0.0] * 90 + [5.0] * 10))["prediction"] == [2.5]
    assert baseline.make_edges(np.array([5.0] * 10))["prediction"] == []


@pytest.mark.parametrize("number", [10, 3_000])
def test_the_same_rides_give_the_same_file(number: int) -> None:
    """The file's bytes depend on nothing but the rides and the model."""
    rides, later = draw_rides(number), draw_rides(number, 1)
    one, other = (
        baseline.encode(baseline.make_baseline(rides, later, predict(later.rides), DURATION, predict)) for _ in "12"
    )
    assert one == other
