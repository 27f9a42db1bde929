"""Every model that train offers, trained on a real month: its served form predicts this month and the next month."""

import os
from pathlib import Path
from typing import Any

import joblib
import pytest

from features import prepare_features
from scripts.models import training
from scripts.models.compiling import compile_pipeline
from scripts.sources.synthetic import generate_events
from served.forms import read_form
from trips import training_trips

TREES = 10
"""The number of trees. The forest of train has 100, which take minutes to fit."""


def read_months() -> list[tuple[list[Any], list[float]]]:
    """Return the features and durations of January's and February's rides, or of synthetic ones without TLC_DATA."""
    if "TLC_DATA" not in os.environ:
        rides = [[event.ride for event in generate_events(3_000, seed)] for seed in (1, 2)]
        return [([prepare_features(r) for r in part], [5 + 3 * r.trip_distance for r in part]) for part in rides]
    paths = [Path(os.environ["TLC_DATA"]) / f"green_tripdata_2023-{month}.parquet" for month in ("01", "02")]
    months = [training_trips(path) for path in paths]
    return [([prepare_features(ride) for ride in month.rides], list(month.values)) for month in months]


@pytest.mark.slow
@pytest.mark.parametrize("name", training.MODELS)
def test_each_trained_model_has_a_served_form_that_is_equal_on_both_months(name: str) -> None:
    """All doubles are the same to the last bit."""
    (january, durations), (february, _) = read_months()
    estimator = training.MODELS[name]()
    if name == "forest":
        estimator.set_params(n_estimators=TREES)
    pipeline = training.fit(estimator, january, durations)
    served = compile_pipeline(pipeline, pipeline.predict)
    form = read_form(served.content)
    assert served.proof.largest_relative_difference == 0.0
    for month in (january, february):
        # One thread adds the trees of a forest in their order.
        with joblib.parallel_config("sequential"):
            assert form(month).tobytes() == pipeline.predict(month).tobytes()
