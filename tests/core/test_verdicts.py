"""Verdicts on two models: how often they are false, and whether they find what is true."""

import math

import numpy as np
import pytest

from scripts.models.verdicts import LEAST_RIDES, judge
from served.arrays import Floats


def draw_errors(draw: np.random.Generator, rides: int, better: float = 0.0) -> tuple[Floats, Floats]:
    """Draw the errors of two models, in minutes, with heavy tails; those of the second are smaller by this share."""
    ride = 4 * draw.standard_t(3, rides)
    live, challenger = (ride + 2 * draw.standard_t(3, rides) for _ in range(2))
    return live, challenger * (1 - better)


@pytest.mark.parametrize(("rides", "windows", "most"), [(200, 200, 10), (500, 60, 3), (2_000, 40, 2)])
def test_windows_of_two_equal_models_give_a_false_verdict_at_most_once_in_twenty(
    rides: int, windows: int, most: int
) -> None:
    """The errors of each ride are exchanged by chance, so no model is better, and no error is the same."""
    draw = np.random.default_rng(15)
    false = 0
    for _ in range(windows):
        one, other = draw_errors(draw, rides, better=0.3)
        is_exchanged = draw.random(rides) < 0.5
        pair = np.where(is_exchanged, other, one), np.where(is_exchanged, one, other)
        false += judge(*pair).verdict != "not yet known"
    assert false <= most


def test_a_difference_is_found_and_its_interval_holds_it() -> None:
    """The same errors the other way round give the opposite verdict."""
    live, challenger = draw_errors(np.random.default_rng(1), 5_000, better=0.2)
    found, opposite = judge(live, challenger), judge(challenger, live)
    assert (found.verdict, opposite.verdict) == ("better", "worse")
    assert found.difference == pytest.approx(np.abs(challenger).mean() - np.abs(live).mean())
    assert found.low < found.difference < found.high < 0
    assert (opposite.low, opposite.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(
    ("live", "challenger"),
    [
        (np.ones(LEAST_RIDES - 1), np.zeros(LEAST_RIDES - 1)),
        (np.arange(1_000.0), -np.arange(1_000.0)),
        (np.zeros(LEAST_RIDES), np.r_[np.ones(2), np.zeros(LEAST_RIDES - 2)]),
    ],
    ids=["too few rides", "errors of the same size", "two errors differ"],
)
def test_nothing_is_known(live: Floats, challenger: Floats) -> None:
    """Too few rides, or too few errors that differ, give no verdict: the interval is infinite, and not NaN."""
    found = judge(live, challenger)
    assert (found.verdict, found.low, found.high) == ("not yet known", -math.inf, math.inf)
    assert math.isfinite(found.difference)


def test_errors_that_always_differ_by_the_same_are_certain() -> None:
    """If all errors differ by the same, no draw has a variance, and the interval is the difference itself."""
    found = judge(np.full(LEAST_RIDES, 1.0), np.full(LEAST_RIDES, 0.5))
    assert (found.verdict, found.low, found.high) == ("better", -0.5, -0.5)


def test_many_rides_have_the_interval_of_all_of_them() -> None:
    """Drawing many rides in parts does not change the standard error of the difference."""
    live, challenger = draw_errors(np.random.default_rng(2), 300_500, better=0.01)
    differences = np.abs(challenger) - np.abs(live)
    found = judge(live, challenger)
    normal = 2.576 * differences.std() / math.sqrt(len(differences))
    assert found.high - found.difference == pytest.approx(normal, rel=0.15)


@pytest.mark.parametrize("rides", [200, 500])
def test_a_model_that_is_worse_by_the_same_minute_on_each_ride_is_found(rides: int) -> None:
    """Its errors differ by a minute, and on a few rides by rounding, which is not chance."""
    draw = np.random.default_rng(1)
    live = np.floor(draw.uniform(0, 8, rides) * 256) / 256 + (draw.random(rides) < 0.01) * 0.1 + 0.125
    assert judge(live, live + 1).verdict == "worse"
