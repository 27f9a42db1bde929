"""The baseline of a model: what its inputs and predictions were like, week by week."""

import datetime
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rides import Ride
from scripts.models import baseline
from scripts.models.months import RideSet
from targets import DURATION, TARGETS

SUNDAY = datetime.datetime(2023, 1, 1, 12)
PAIRS = ["1_1", "1_2", "2_1", "2_2"]


def draw_rides(number: int) -> tuple[RideSet, np.ndarray[Any, np.dtype[np.float64]]]:
    """Build rides of three weeks with some zones that the model does not know, and predictions for them."""
    draw = np.random.default_rng(0)
    zones, miles = draw.integers(1, 4, (number, 2)).tolist(), draw.lognormal(0.7, 0.9, number).clip(0, 100).tolist()
    pickups = [SUNDAY + datetime.timedelta(minutes=minutes) for minutes in draw.integers(0, 14 * 1440, number).tolist()]
    rides = [Ride(*pair, *rest) for pair, *rest in zip(zones, miles, pickups, strict=True)]
    values = draw.uniform(1, 60, number)
    return RideSet(("a",), rides, values, 0), values + draw.normal(0, 3, number)


def test_the_parts_of_the_rides_add_up_to_the_whole() -> None:
    """The counts of two parts add up to those of the whole, and so do the errors if the rides weight them."""
    rides, predicted = draw_rides(3_000)
    edges = baseline.make_edges(rides.values)
    rows = np.arange(3_000)
    whole, *halves = (
        baseline.make_baseline(rides.select(part), predicted[part], DURATION, edges, PAIRS)
        for part in (rows, rows[::2], rows[1::2])
    )
    assert [week["week"] for week in whole["weeks"]] == ["2022-W52", "2023-W01", "2023-W02"]
    assert sum(week["rides"] for week in whole["weeks"]) == 3_000
    for week, first, second in zip(whole["weeks"], *(half["weeks"] for half in halves), strict=True):
        for name, counts in week["counts"].items():
            assert counts == np.add(first["counts"][name], second["counts"][name]).tolist()
            assert len(counts) == len(edges[name]) + 1
            assert sum(counts) == week["rides"]
        for name in ("rides", "unseen_pairs"):
            assert week[name] == first[name] + second[name] > 0
        for name, power in (("rmse", 2), ("mae", 1)):
            total = sum(half[name] ** power * half["rides"] for half in (first, second))
            assert week[name] ** power * week["rides"] == pytest.approx(total)
    again = baseline.make_baseline(rides, predicted, DURATION, edges, PAIRS)
    assert baseline.encode(again) == baseline.encode(whole)


def test_a_ride_at_an_edge_is_above_it() -> None:
    """The first bin is below the first edge. The hour is that of the pickup."""
    rides = [Ride(1, 1, miles, SUNDAY.replace(hour=hour)) for miles, hour in ((0.09, 0), (0.1, 23), (99.0, 8))]
    edges = {**baseline.make_edges(np.arange(1.0, 61.0)), "prediction": [10.0, 20.0]}
    part, predicted = RideSet(("a",), rides, np.array([5.0, 10.0, 30.0]), 0), np.array([9.9, 10.0, 20.0])
    (week,) = baseline.make_baseline(part, predicted, TARGETS["tip"], edges, PAIRS)["weeks"]
    bins = {name: [place for place, count in enumerate(counts) if count] for name, counts in week["counts"].items()}
    assert bins == {"trip_distance": [0, 1, 20], "hour": [0, 8, 23], "prediction": [0, 1, 2]}


def test_rides_of_wrong_clocks_are_left_out() -> None:
    """A ride whose clock was wrong is left out, because it would be the only ride of its week."""
    rides, predicted = draw_rides(2_000)
    odd = Ride(1, 1, 1.0, datetime.datetime(2008, 12, 31))
    with_odd = RideSet(("a",), [odd, *rides.rides], np.array([5.0, *rides.values]), 0)
    edges = baseline.make_edges(rides.values)
    expected = baseline.make_baseline(rides, predicted, DURATION, edges, PAIRS)
    assert baseline.make_baseline(with_odd, np.array([5.0, *predicted]), DURATION, edges, PAIRS) == expected


def test_each_bin_of_predictions_has_its_share_of_the_training_rides() -> None:
    """If many values are the same, such as tips of nothing, there are fewer bins."""
    values = np.arange(1.0, 1001.0)
    bins = Counter(np.searchsorted(baseline.make_edges(values)["prediction"], values, side="right").tolist())
    assert set(bins.values()) == {50}
    assert baseline.make_edges(np.array([0.0] * 90 + [5.0] * 10))["prediction"] == [0.0, 5.0]
