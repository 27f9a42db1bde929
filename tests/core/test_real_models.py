"""Every model that train offers, trained on a real month: its served form predicts this month and the next month."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import mlflow
import msgspec
import pytest

from features import DEFAULT_FEATURES, prepare_features
from model import load_model
from model_metadata import KEY, ModelMetadata
from scripts.models import proof_rides, served_flavor, training
from scripts.models.boosting import WITH_TIME, WITHOUT_TIME, fit_boosted
from scripts.models.compiling import compile_pipeline
from scripts.sources.synthetic import generate_events
from served.forms import read_form
from sklearn_flavor import TRUSTED_TYPES
from tests.core.saved_models import copy_without_served_form
from trips import Trips, training_trips

TREES = 10
"""The number of trees. The forest of train has 100, which take minutes to fit."""


def read_months() -> list[Trips]:
    """Return January's and February's rides with their durations, or synthetic ones without TLC_DATA."""
    if "TLC_DATA" not in os.environ:
        rides = [[event.ride for event in generate_events(3_000, seed)] for seed in (1, 2)]
        return [Trips(part, [5 + 3 * ride.trip_distance for ride in part], 0) for part in rides]
    folder = Path(os.environ["TLC_DATA"])
    return [training_trips(folder / f"green_tripdata_2023-{month}.parquet") for month in ("01", "02")]


def prepare(trips: Trips, names: Sequence[str] = DEFAULT_FEATURES) -> list[Any]:
    """Return the features of trips."""
    return [prepare_features(ride, names) for ride in trips.rides]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(training.MODELS.keys() - {"boosted"}))
def test_each_trained_model_has_a_served_form_that_is_equal_on_both_months(name: str) -> None:
    """All doubles are the same to the last bit."""
    months = read_months()
    estimator = training.MODELS[name]()
    if name == "forest":
        estimator.set_params(n_estimators=TREES)
    pipeline = training.fit(estimator, prepare(months[0]), list(months[0].values))
    served = compile_pipeline(pipeline, pipeline.predict)
    form = read_form(served.content)
    assert served.proof.largest_relative_difference == 0.0
    for features in map(prepare, months):
        # One thread adds the trees of a forest in their order.
        with joblib.parallel_config("sequential"):
            assert form(features).tobytes() == pipeline.predict(features).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("names", [WITHOUT_TIME, WITH_TIME], ids=["without time", "with time"])
def test_a_boosted_model_predicts_the_same_doubles_in_both_of_its_forms(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its served form, the pipeline is loaded from skops without a digest, and gets DataFrames."""
    monkeypatch.setattr(proof_rides, "RANDOM_RIDES", 10_000)  # the months have many more
    months = read_months()
    pipeline = fit_boosted(prepare(months[0], names), months[0].values, names, 0)
    predict = training.predict_with(pipeline, names)
    served = compile_pipeline(pipeline, predict, names=names)
    assert (served.kind, served.proof.largest_relative_difference) == ("trees", 0.0)
    metadata = {KEY: msgspec.to_builtins(ModelMetadata(features=names))}
    options: dict[str, Any] = {
        "serialization_format": "skops",
        "skops_trusted_types": TRUSTED_TYPES,
        "pip_requirements": [],
    }
    folder, description = str(tmp_path / "model"), mlflow.models.Model(run_id="a-run", metadata=metadata)
    served_flavor.save_model(pipeline, folder, description, served, **options)
    models = [load_model(folder), load_model(copy_without_served_form(folder, tmp_path / "pipeline"))]
    for month in months:
        expected = predict(prepare(month, names)).tolist()
        assert [model.predict(month.rides) == expected for model in models] == [True, True]
