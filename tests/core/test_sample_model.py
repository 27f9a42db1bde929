"""The sample model fits the locked packages, and its card tells the truth."""

import json
import os
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pytest
import yaml

from features import prepare_features
from model import load_model
from rides import MAX_TRIP_DISTANCE, Ride
from scripts.models import training
from scripts.models.evaluation import measure_errors
from trips import Trips, training_trips

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "scripts" / "sample_model"
MODEL = SAMPLE / "model"
REMAKE = (
    "./scripts/environment training stack -- python scripts/sample_model/make.py"
    " green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet"
)
TLC_DATA = Path(os.environ.get("TLC_DATA", ROOT / "data"))


def card() -> str:
    """Return the text of the model's card."""
    return (SAMPLE / "README.md").read_text()


def description() -> dict[str, Any]:
    """Return what the MLmodel file says."""
    content: dict[str, Any] = yaml.safe_load((MODEL / "MLmodel").read_text())
    return content


def texts() -> dict[str, str]:
    """Return the texts in the model's folder, and the schema inside the skops file, by file."""
    with zipfile.ZipFile(MODEL / "model.skops") as skops_file:
        schema = skops_file.read("schema.json").decode()
    read = {path.name: path.read_text(errors="replace") for path in MODEL.iterdir() if path.suffix != ".skops"}
    return read | {"schema": schema}


def known_pairs() -> set[str]:
    """Return the pairs of zones that the model knows."""
    vectorizer = mlflow.sklearn.load_model(str(MODEL))[0]
    return {name.removeprefix("PU_DO=") for name in vectorizer.feature_names_ if name.startswith("PU_DO=")}


def test_the_model_was_made_with_the_locked_scikit_learn() -> None:
    """The function refuses a model of another minor version, so a newer one needs a new sample model."""
    made_with = description()["flavors"]["sklearn"]["sklearn_version"]
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    locked = lock["sklearn"]["scikit-learn"]["version"].removeprefix("==")
    assert made_with.split(".")[:2] == locked.split(".")[:2], (
        f"the sample model was made with scikit-learn {made_with}, and {locked} is locked: make it again with {REMAKE}"
    )


def test_the_card_has_the_command_and_the_versions_that_made_the_model() -> None:
    """The command is the one that the test above prints if it fails."""
    flavor = description()["flavors"]["sklearn"]
    assert REMAKE in card()
    assert f"scikit-learn {flavor['sklearn_version']}" in card()
    assert f"mlflow {description()['mlflow_version']}" in card()


def test_the_model_is_small() -> None:
    """Every clone has the model, so it stays under 2 MB, and the card says its size."""
    size = sum(path.stat().st_size for path in MODEL.rglob("*"))
    assert size < 2_000_000
    assert f"The folder takes {size / 1e6:.2f} MB" in card()


def test_the_model_names_its_run() -> None:
    """Predictions are tagged with this run if RUN_ID is not set."""
    assert re.fullmatch(r"[0-9a-f]{32}", load_model(str(MODEL)).version)


@pytest.mark.parametrize("file", texts())
def test_the_model_has_no_path_of_the_machine_that_made_it(file: str) -> None:
    """No text in the model has a path that begins at the root of a file system."""
    assert re.findall(r"(?:^|[\s\"'=])(?:file:/*)?/\w+", texts()[file]) == []


def test_a_well_known_ride_takes_a_plausible_time() -> None:
    """From zone 130 to 205 in Queens, 3.66 miles take about a quarter of an hour."""
    assert load_model(str(MODEL)).predict([Ride(130, 205, 3.66)]) == [pytest.approx(15, abs=10)]


def test_our_loader_and_mlflows_predict_the_same() -> None:
    """Both agree to 1e-9, for known and unknown pairs, over the whole range of distances."""
    draw = random.Random(2023)  # noqa: S311  the same rides every time, no secret
    random_pairs = {f"{draw.randint(1, 265)}_{draw.randint(1, 265)}" for _ in range(2000)}
    known = known_pairs()
    assert random_pairs - known
    zones = [tuple(map(int, pair.split("_"))) for pair in sorted(random_pairs | known)]
    rides = [Ride(pickup, dropoff, draw.uniform(0, MAX_TRIP_DISTANCE)) for pickup, dropoff in zones]
    predicted = load_model(str(MODEL)).predict(rides)
    by_mlflow = mlflow.sklearn.load_model(str(MODEL)).predict([prepare_features(ride) for ride in rides])
    assert predicted == pytest.approx(by_mlflow.tolist(), abs=1e-9, rel=0)


@pytest.fixture(scope="module")
def months() -> list[Trips]:
    """Give the rides that the model was trained on, and those that it was measured on; skip if a file is missing."""
    paths = [TLC_DATA / f"green_tripdata_2023-{month}.parquet" for month in ("01", "02")]
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path.name} is not in {TLC_DATA}: download it there, or set TLC_DATA to its folder")
    return list(map(training_trips, paths))


def test_the_card_counts_the_rides_right(months: list[Trips]) -> None:
    """It has the rides used and left out in each month, and the pairs that the model knows."""
    words = " ".join(card().split())
    january, february = months
    assert f"the {len(january.rides):,} rides of 1 to 60 minutes" in words
    assert f"The other {january.left_out:,} rows were left out" in words
    assert f"{len(february.rides):,} rides, {february.left_out:,} rows left out" in words
    assert f"The model knows the {len(known_pairs())} pairs" in words


@pytest.mark.parametrize(
    ("row", "wanted"),
    [("all", {True, False}), ("of known pairs", {True}), ("of other pairs", {False})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_cards_errors_are_those_on_the_real_february(months: list[Trips], row: str, wanted: set[bool]) -> None:
    """RMSE and MAE of the model and of January's mean agree to the digits on the card."""
    known = known_pairs()
    january, february = months
    chosen = [
        (ride, duration)
        for ride, duration in zip(february.rides, february.values, strict=True)
        if (prepare_features(ride)["PU_DO"] in known) in wanted
    ]
    rides, durations = [ride for ride, _ in chosen], [duration for _, duration in chosen]
    actual, mean = np.array(durations), np.full(len(rides), np.mean(january.values))
    predicted = training.predict_rides(mlflow.sklearn.load_model(str(MODEL)), rides)
    errors = [measure_errors(actual, predicted), measure_errors(actual, mean)]
    figures = [f"{figure:.3f}" for one in errors for figure in (one.rmse, one.mae)]
    assert f"| {row} | {len(rides):,} | {' | '.join(figures)} |" in card()
