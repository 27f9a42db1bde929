"""The models that train offers, beside the simple predictions that they are compared with."""

import datetime
import os
import random

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from features import KNOWN, SAMPLE_FEATURES, SAMPLE_RIDE, prepare_features
from rides import Ride
from scripts.models import candidates, training
from scripts.models.months import RideSet
from targets import DURATION
from tests.trip_records import linear_duration

MONDAY = datetime.datetime(2023, 1, 30)


def ride_set(rides: list[Ride], values: list[float]) -> RideSet:
    """Build the rides of a file."""
    return RideSet(("a",), rides, np.array(values), 0)


def rush_hours(number: int, first_day: datetime.datetime) -> RideSet:
    """Build rides that take 5 minutes and 3 a mile, and 10 more if they begin from 7:00 to 8:59."""
    draw = random.Random(number)  # noqa: S311  the same rides every time, no secret
    rides, values = [], []
    for _ in range(number):
        pickup = first_day + datetime.timedelta(minutes=draw.randrange(5 * 24 * 60))
        rides.append(Ride(draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 500) / 100, pickup))
        values.append(5 + 3 * rides[-1].trip_distance + (10 if pickup.hour in (7, 8) else 0))
    return ride_set(rides, values)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [((1, 2), 4.0), ((1, 9), 5.0), ((9, 1), 6.0)],
    ids=["known pair", "known pickup zone", "unknown zone"],
)
def test_the_median_of_a_pair_falls_back_to_its_zone_and_to_all_rides(pair: tuple[int, int], expected: float) -> None:
    """The pair (1, 2) has the durations 3, 4 and 5; zone 1 has 6 and 7 too; and zone 3 has others."""
    zones = [(1, 2), (1, 2), (1, 2), (1, 3), (1, 3), (3, 1), (3, 1), (3, 1)]
    rides = ride_set([Ride(*each, 1.0) for each in zones], [3, 4, 5, 6, 7, 8, 9, 10])
    # In between two others, because a table that is joined may change the order of its rows.
    asked = [Ride(3, 1, 2.0), Ride(*pair, 2.0), Ride(1, 3, 2.0)]
    expected = 6.5 if pair == (9, 1) else expected
    assert candidates.predict_pair_medians(rides, asked).tolist() == [9.0, expected, 6.5]


@pytest.mark.slow
def test_all_models_are_measured_and_the_chosen_one_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boosted model alone learns that the time matters. A forest beside it learns from a part of the rides."""
    monkeypatch.setattr(candidates, "MOST_FOREST_RIDES", 500)
    rides, later = rush_hours(2_000, MONDAY), rush_hours(400, MONDAY + datetime.timedelta(days=7))
    found = candidates.compare("boosted", candidates.MODELS, rides, later, DURATION, 1)
    table = found.evaluation.table
    assert list(table) == [
        *("mean", "pair median", "linear", "ridge", "forest of 500 rides", "boosted without time", "boosted")
    ]
    assert table["boosted"].rmse < 1 < min(errors.rmse for name, errors in table.items() if name != "boosted")
    assert table["mean"].rmse == pytest.approx(np.sqrt(np.mean((later.values - rides.values.mean()) ** 2)))
    again = training.predict_rides(found.chosen.pipeline, later.rides, found.chosen.features)
    assert np.array_equal(again, found.evaluation.predicted)
    assert (found.chosen.name, found.evaluation.model) == ("boosted", "boosted")


def test_a_rare_pair_is_predicted_like_an_unknown_pair() -> None:
    """The model learns nothing about a pair that fewer rides have than ``min_pair_count``."""
    rides = [Ride(zone, zone, miles / 10) for zone in (1, 2, 3) for miles in range(1, 50)]
    durations = [linear_duration(ride.PULocationID, ride.trip_distance) for ride in rides] + [59.0]
    features = list(training.features([*rides, Ride(7, 8, 2.0)], 2))
    assert features[0] == {"PU_DO": "1_1", "trip_distance": 0.1}
    assert features[-1] == {"trip_distance": 2.0}
    pipeline = training.fit(training.MODELS["ridge"](), features, durations)
    unknown = [prepare_features(Ride(7, 8, 2.0)), prepare_features(Ride(264, 265, 2.0))]
    assert len(set(pipeline.predict(unknown))) == 1


def test_a_forest_grown_in_steps_is_the_forest_of_one_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Showing progress changes no tree; the last step is smaller if necessary."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    draw = np.random.default_rng(0)
    matrix, durations = draw.random((200, 3)), draw.random(200).tolist()
    shown: list[tuple[int, int]] = []
    grown = RandomForestRegressor(n_estimators=10, random_state=0)
    training.grow(grown, matrix, durations, lambda done, total: shown.append((done, total)))
    at_once = RandomForestRegressor(n_estimators=10, random_state=0).fit(matrix, durations)
    assert np.array_equal(grown.predict(matrix), at_once.predict(matrix))
    assert grown.get_params() == at_once.get_params()
    assert shown == [(4, 10), (8, 10), (10, 10)]


def test_the_features_of_the_sample_ride_are_true() -> None:
    """The features that are written down equal those that ``prepare_features`` returns."""
    assert prepare_features(SAMPLE_RIDE, KNOWN) == SAMPLE_FEATURES
