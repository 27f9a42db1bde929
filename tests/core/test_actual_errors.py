"""Actual values against predictions: which zones differ, and whether the estimate of the errors holds."""

import dataclasses
import re

import numpy as np
import pytest
from msgspec.structs import replace

from baselines import Baseline
from rides import Ride
from scripts.models.actual_errors import ALL, ActualRides, explain_no_error_verdict, judge_actuals
from scripts.models.drift_sizes import describe_error
from scripts.models.error_estimates import check_estimate, estimate_errors
from tests.core.drawn_months import FIRST, count, draw_month, make_baseline, predict, with_actual

BASELINE = make_baseline(draw_month(8_000), draw_month(6_000, 1))
WINDOW = draw_month(2_000, 3)
ACTUAL = with_actual(WINDOW.rides, WINDOW.values)
SMALL_ZONE = 28
"""A zone where about 20 rides of the window begin."""


def drift(rides: ActualRides) -> set[tuple[str, int | None]]:
    """Return what has drifted."""
    return {(one.name, one.zone) for one in judge_actuals(BASELINE, rides) if one.excess > 1}


def change(factor: float, zone: int | None = None, end: int = 0) -> ActualRides:
    """Return the window with actual values multiplied: those of one zone, or all."""
    is_changed = ACTUAL.zones[:, end] == zone if zone else np.full(len(ACTUAL.actual), True)
    return with_actual(WINDOW.rides, np.where(is_changed, factor * ACTUAL.actual, ACTUAL.actual))


@pytest.mark.parametrize(
    ("rides", "expected"),
    [
        (ACTUAL, set()),
        (change(2, SMALL_ZONE), {("pickup_zone", SMALL_ZONE)}),
        (change(0.4, SMALL_ZONE, 1), {("dropoff_zone", SMALL_ZONE)}),
        (change(1.4), {(ALL, None)}),
    ],
    ids=["as it was", "rides from a small zone take twice as long", "rides to it take less", "all rides take longer"],
)
def test_only_what_changed_has_drifted(rides: ActualRides, expected: set[tuple[str, int | None]]) -> None:
    """If all rides change, no zone stands out; if one small zone changes, nothing else does."""
    assert drift(rides) == expected


def test_a_finding_says_how_much_longer_and_of_how_many_rides() -> None:
    """The interval has the difference."""
    worst = judge_actuals(BASELINE, change(2, SMALL_ZONE))[0]
    assert 15 <= worst.rides <= 25
    assert worst.low < worst.difference < worst.high
    text = describe_error(worst, BASELINE)
    assert re.match(rf"rides from zone {SMALL_ZONE} take \d+\.\d% longer than predicted: \+\d+\.\d minutes on", text), (
        text
    )
    assert float(re.findall(r"[\d.]+(?=%)", text)[0]) == pytest.approx(100, abs=25)


def test_a_rare_zone_that_was_always_odd_has_not_drifted() -> None:
    """In each small window of the validation rides it has too few rides to be judged, but not in all of them."""
    validation, is_odd = draw_month(6_000, 1), np.arange(6_000) % 200 == 0
    rides = [
        replace(ride, PULocationID=99) if odd else ride for ride, odd in zip(validation.rides, is_odd, strict=True)
    ]
    odd_values = np.where(is_odd, 3 * predict(rides), validation.values)
    odd_month = dataclasses.replace(validation, rides=rides, values=odd_values)
    found = judge_actuals(make_baseline(draw_month(8_000), odd_month), with_actual(rides, odd_values))
    (of_zone,) = [one for one in found if one.zone == 99]
    assert of_zone.rides == is_odd.sum()
    assert of_zone.difference > of_zone.predicted
    assert [one for one in found if one.excess > 1] == []


def test_rides_that_tell_nothing_are_left_out() -> None:
    """Rides are left out if they have no actual value, were cancelled, or have no distance."""
    odd = [Ride(SMALL_ZONE, 1, miles, FIRST) for miles in (3.0, 3.0, 0.0)] * 50
    values = np.array([np.nan, 0.1, 20.0] * 50)
    every = with_actual([*WINDOW.rides, *odd], np.concatenate([WINDOW.values, values]))
    assert judge_actuals(BASELINE, every) == judge_actuals(BASELINE, ACTUAL)


@pytest.mark.parametrize(
    ("baseline", "rides", "reason"),
    [
        (BASELINE, ACTUAL.choose(np.arange(9)), "9 of 9 rides have an actual value that is known and not below"),
        (make_baseline(draw_month(900), draw_month(900, 1)), ACTUAL, "the model was measured on too few rides"),
    ],
    ids=["few rides", "few validation rides"],
)
def test_too_few_rides_have_no_verdict_on_errors_and_a_reason(
    baseline: Baseline, rides: ActualRides, reason: str
) -> None:
    """The list of findings is empty."""
    assert judge_actuals(baseline, rides) == []
    assert (explain_no_error_verdict(baseline, rides) or "").startswith(reason)


def test_the_estimate_is_the_same_from_counts_as_from_rides() -> None:
    """Counts are all that is known before the actual values."""
    estimate, check = estimate_errors(BASELINE, count(BASELINE, WINDOW.rides)), check_estimate(BASELINE, ACTUAL)
    assert estimate
    assert check
    assert (estimate.rides, estimate.mae, estimate.rmse) == pytest.approx(
        (check.estimate.rides, check.estimate.mae, check.estimate.rmse)
    )


@pytest.mark.parametrize(
    ("factor", "long_only", "holds"),
    [(1.0, False, True), (1.0, True, True), (1.5, False, False)],
    ids=["as it was", "only long rides", "the model has become worse"],
)
def test_the_check_says_whether_the_estimate_holds(factor: float, long_only: bool, holds: bool) -> None:
    """The estimate knows that long rides have larger errors, and not that all rides take longer."""
    rides = change(factor)
    rides = rides.choose(rides.miles > 3) if long_only else rides
    check = check_estimate(BASELINE, rides)
    assert check
    assert check.holds is holds
    assert check.low < check.estimate.mae < check.high
    usual = check_estimate(BASELINE, ACTUAL)
    assert usual
    assert (check.estimate.mae > 1.3 * usual.estimate.mae) is long_only


def test_there_is_no_estimate_without_rides() -> None:
    """Without rides, neither counts nor actual values give an estimate."""
    assert estimate_errors(BASELINE, count(BASELINE, [], predict([]))) is None
    assert check_estimate(BASELINE, ACTUAL.choose(np.arange(0))) is None
