"""Verdicts: windows like the training rides are not drift, and each kind of change is seen and put into words."""

import datetime
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from baselines import DISTANCE, HOUR, PICKUP, PREDICTION, RATIO, Baseline
from drift import REJECTED, UNSEEN_PAIRS, WITHOUT_DISTANCE, explain_no_verdict, judge
from rides import Ride
from scripts.models.drift_sizes import describe
from tests.core.drawn_months import change, count, draw_month, make_baseline, predict

MONTH = draw_month(20_000)
BASELINE = make_baseline(MONTH, draw_month(3_000, 1))
EVERY = sorted(
    [*MONTH.rides, *(MONTH.others.rides if MONTH.others else [])], key=lambda ride: str(ride.pickup_datetime)
)
WINDOW = draw_month(2_000, 3).rides


def move(zone: int) -> Callable[[Ride], int]:
    """Return a function that lets every twentieth ride begin in a zone."""
    return lambda ride: zone if hash(ride.trip_distance) % 20 == 0 else ride.PULocationID


def delay(ride: Ride) -> datetime.datetime | None:
    """Return a pickup that is at 17:00 for nine in ten rides."""
    is_moved = ride.pickup_datetime and ride.pickup_datetime.minute % 10
    return ride.pickup_datetime.replace(hour=17) if ride.pickup_datetime and is_moved else ride.pickup_datetime


@pytest.mark.parametrize("size", [250, 700, 2_000])
@pytest.mark.parametrize("rides", [EVERY, MONTH.rides], ids=["all rides", "usual rides"])
def test_windows_of_the_training_rides_are_no_drift(size: int, rides: Sequence[Ride]) -> None:
    """Windows are consecutive rides, and rides drawn at random."""
    draw = np.random.default_rng(0)
    for _ in range(12):
        start = int(draw.integers(0, len(rides) - size + 1))
        chosen = [rides[place] for place in draw.choice(len(rides), size, replace=False)]
        for window in (rides[start : start + size], chosen):
            findings = judge(BASELINE, count(BASELINE, window))
            assert findings
            assert [one for one in findings if one.excess > 1] == []


@pytest.mark.parametrize("rides", [EVERY, MONTH.rides], ids=["all rides", "usual rides"])
def test_the_training_rides_together_are_no_drift(rides: Sequence[Ride]) -> None:
    """The window is much larger than those that the limits come from."""
    assert [one for one in judge(BASELINE, count(BASELINE, rides)) if one.excess > 1] == []


CHANGES = {
    RATIO: (
        change(WINDOW, trip_distance=lambda ride: ride.trip_distance * 1.1),
        r"distances of the same pairs are (9\.\d|10\.\d)% longer, and",
    ),
    DISTANCE: (
        change(WINDOW[:1_000], trip_distance=lambda ride: ride.trip_distance * 3),
        r"distances are \d+\.\d% longer",
    ),
    PICKUP: (
        change(WINDOW, PULocationID=move(25)),
        r"\d\.\d times as many rides begin in zone 25: \d\.\d% \(usual: 1\.\d%\)",
    ),
    HOUR: (
        change(WINDOW, pickup_datetime=delay),
        r"more rides begin at 17:00 to 17:59: (8|9)\d\.\d% \(usual: [1-3]\.\d%\)",
    ),
    UNSEEN_PAIRS: (
        [*WINDOW, *change(WINDOW[:200], DOLocationID=99)],
        r"the share of rides of pairs that training rides do not have is (9|10)\.\d% \(usual: \d\.\d%\)",
    ),
    WITHOUT_DISTANCE: (
        [*WINDOW, *change(WINDOW[:500], trip_distance=0.0)],
        r"the share of rides of 0 miles is 20\.0% \(usual: 2\.4%\)",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_and_put_into_words(name: str) -> None:
    """The test that the change is meant for finds it, and says how large it is."""
    rides, pattern = CHANGES[name]
    counts = count(BASELINE, rides)
    finding = next(one for one in judge(BASELINE, counts) if one.name == name)
    assert finding.excess > 1
    assert re.match(pattern, describe(finding, BASELINE, counts)), describe(finding, BASELINE, counts)


@pytest.mark.parametrize(
    ("factor", "rejected", "name", "pattern"),
    [
        (1.3, 0, PREDICTION, r"the median prediction is \d+\.\d+ minutes \(usual: \d+\.\d+\)"),
        (1.0, 100, REJECTED, r"4\.8% of the rides are rejected \(up to 1\.0% is not drift\)"),
    ],
)
def test_larger_predictions_and_rejections_are_seen(factor: float, rejected: int, name: str, pattern: str) -> None:
    """The changed share is the worst finding, because nothing else changed."""
    counts = count(BASELINE, WINDOW, predict(WINDOW) * factor, rejected)
    worst, *others = judge(BASELINE, counts)
    assert (worst.name, worst.excess > 1, others[0].excess > 1) == (name, True, False)
    assert re.match(pattern, describe(worst, BASELINE, counts))


def test_fewer_unseen_pairs_or_rides_of_0_miles_are_no_drift() -> None:
    """Usual rides of known pairs have neither."""
    rides = [ride for ride in WINDOW if f"{ride.PULocationID}_{ride.DOLocationID}" in BASELINE.pairs]
    sizes = {one.name: one.deviation for one in judge(BASELINE, count(BASELINE, rides))}
    assert sizes[UNSEEN_PAIRS] < 0
    assert sizes[WITHOUT_DISTANCE] < 0


@pytest.mark.parametrize(
    ("baseline", "rides", "reason"),
    [
        (BASELINE, WINDOW[:249], "249 rides are too few: a verdict needs 250"),
        (
            make_baseline(draw_month(2_000), draw_month(500, 1)),
            WINDOW,
            "the model's baseline has 2,050 rides, which are too few to know how much windows of them differ:"
            " train the model on more rides",
        ),
    ],
    ids=["small window", "small training set"],
)
def test_too_few_rides_have_no_verdict_and_a_reason(baseline: Baseline, rides: Sequence[Ride], reason: str) -> None:
    """The list of findings is empty, even if rides were rejected."""
    counts = count(baseline, rides, rejected=0)
    assert explain_no_verdict(baseline, counts) == reason
    assert judge(baseline, counts) == []
