"""The baseline of a model: what its training rides and predictions were like, and how much their windows differ."""

import datetime
from collections import Counter

import numpy as np
import pytest

from baselines import DISTANCE, HOUR, PICKUP, PREDICTION, RATIO, UNSEEN
from rides import Ride
from scripts.models import baseline
from scripts.models.calibration import LEAST_WINDOWS
from scripts.models.months import RideSet
from targets import DURATION
from tests.core.drawn_months import FIRST, change, count, draw_month, make_baseline, predict

MONTH, LATER = draw_month(6_000), draw_month(3_000, 1)


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
    rides, later = draw_month(number), draw_month(number, 1)
    one, other = (
        baseline.encode(baseline.make_baseline(rides, later, predict(later.rides), DURATION, predict)) for _ in "12"
    )
    assert one == other


def test_the_histograms_are_those_that_services_count_for_the_same_rides() -> None:
    """Histograms also have rides that models are not trained on. A ride is compared with other rides of its pair."""
    found, others = make_baseline(MONTH, LATER), MONTH.others
    assert others
    counts = count(found, [*MONTH.rides, *others.rides])
    assert (counts.rides, counts.without_distance) == (found.rides, found.without_distance)
    assert found.without_distance == len(others.rides) // 2
    for name in (DISTANCE, HOUR, PICKUP):
        assert counts.counts[name] == found.counts[name]
    parts = [np.array(found.counts[name]) + counts.counts.get(name, 0) for name in (PREDICTION, UNSEEN)]
    assert (parts[0] + parts[1]).tolist() == (2 * (np.array(found.counts[PREDICTION]) + found.counts[UNSEEN])).tolist()
    known, expected = (np.array(one.counts[RATIO]) for one in (counts, found))
    assert known[-1] == expected[-1], "rides of pairs without a usual distance"
    assert abs(known - expected).sum() < 0.06 * known.sum()


def test_the_share_of_unseen_pairs_is_what_later_rides_have() -> None:
    """The share is estimated from the training rides alone, although all of their pairs were seen."""
    found = make_baseline(MONTH, LATER)
    later = count(found, LATER.rides)
    expected, share = (sum(one.counts[UNSEEN]) / one.rides for one in (found, later))
    assert share == pytest.approx(expected, rel=0.3)
    assert 0.005 < expected < 0.05


def test_a_pair_has_a_usual_distance_if_enough_rides_have_it() -> None:
    """The usual distance is the mean of the training rides, and later rides do not change it."""
    rides = [Ride(1, 2, miles, FIRST) for miles in (1.0, 3.0) * 5] + [Ride(1, 3, 9.0, FIRST)] * 9
    found = make_baseline(RideSet(("a",), rides, np.full(19, 5.0), 0), LATER)
    assert found.pairs == {"1_2": 2.0, "1_3": 0.0}
    assert count(found, [Ride(1, 2, 2.1, FIRST), Ride(1, 3, 9.0, FIRST)]).counts[RATIO] == [0] * 7 + [1] + [0] * 6 + [1]


def test_rides_of_wrong_clocks_are_left_out() -> None:
    """A ride whose clock was wrong is in no histogram, and the week of its pickup is not among the weeks."""
    odd = Ride(1, 1, 1.0, datetime.datetime(2008, 12, 31))
    later = RideSet(("a",), [odd, *LATER.rides], np.array([5.0, *LATER.values]), 0, LATER.others)
    month = RideSet(("a",), [odd, *MONTH.rides], np.array([5.0, *MONTH.values]), 0, MONTH.others)
    one, other = make_baseline(month, later), make_baseline(MONTH, LATER)
    assert (one.counts[HOUR], one.without_distance) == (other.counts[HOUR], other.without_distance)
    weeks = baseline.list_weeks(later, predict(later.rides), set(one.pairs))
    assert [week["week"] for week in weeks] == ["2023-W01", "2023-W02"]
    assert sum(week["rides"] for week in weeks) == 3_000


def test_expected_errors_are_those_of_the_validation_rides() -> None:
    """The bins together have the MAE and the RMSE of all rides. A bin without a ride of its own has errors too."""
    found = make_baseline(MONTH, LATER)
    seen, unseen = found.errors[PREDICTION], found.errors[UNSEEN]
    errors, rides = predict(LATER.rides) - LATER.values, np.array(seen.rides) + unseen.rides
    assert rides.sum() == 3_000
    sums = [np.dot(one.rides, one.mae) for one in (seen, unseen)]
    assert sum(sums) / 3_000 == pytest.approx(np.abs(errors).mean(), rel=0.05)
    squares = [np.dot(one.rides, np.square(one.rmse)) for one in (seen, unseen)]
    assert sum(squares) / 3_000 == pytest.approx(np.square(errors).mean(), rel=0.1)
    assert min(*seen.mae, *unseen.mae) > 0


def test_sizes_of_windows_double_as_long_as_there_are_enough_windows() -> None:
    """6,000 training rides and 300 others are 25 windows of 250 rides, and too few of 500."""
    (scale,) = make_baseline(MONTH, LATER).scales
    assert (scale.rides, scale.windows) == (250, 25)
    assert make_baseline(draw_month(250 * (LEAST_WINDOWS - 2)), LATER).scales == []


def test_a_prediction_that_is_rounded_in_another_way_is_in_the_same_bin() -> None:
    """Loaders of a model may differ in the last bit, and a whole bin of equal predictions must not move for that."""
    found = make_baseline(RideSet(("a",), change(MONTH.rides, trip_distance=2.5), MONTH.values, 0), LATER)
    values = np.full(len(MONTH.rides), np.nextafter(10.0, 0))
    assert (
        count(found, MONTH.rides, values).counts[PREDICTION]
        == count(found, MONTH.rides, values + 1e-9).counts[PREDICTION]
    )
