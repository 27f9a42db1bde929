"""The sample models fit the locked packages, and their card tells the truth."""

import functools
import json
import os
import random
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pytest
import yaml

from artifacts import open_artifact
from baselines import read_baseline
from digests import digest_of
from features import prepare_features
from model import load_model
from model_metadata import read_metadata
from rides import MAX_TRIP_DISTANCE, Ride
from scripts.cli import SAMPLE_MODELS
from scripts.models.evaluation import measure_errors
from targets import TARGETS
from trips import Trips, training_trips

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "scripts" / "sample_model"
MODEL = SAMPLE_MODELS["duration"]
NAMES = pytest.mark.parametrize("name", SAMPLE_MODELS)
REMAKE = (
    "./scripts/environment training stack -- python scripts/sample_model/make.py"
    " green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet"
)
TLC_DATA = Path(os.environ.get("TLC_DATA", ROOT / "data"))


def card() -> str:
    """Return the text of the model's card."""
    return (SAMPLE / "README.md").read_text()


def description(folder: Path = MODEL) -> dict[str, Any]:
    """Return what the MLmodel file says."""
    content: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())
    return content


def texts() -> dict[str, str]:
    """Return the texts in the models' folders, by folder and file, and those inside the binary files."""
    with zipfile.ZipFile(MODEL / "model.skops") as skops_file:
        schema = skops_file.read("schema.json").decode()
    files = [path for folder in SAMPLE_MODELS.values() for path in sorted(folder.iterdir()) if path.suffix != ".skops"]
    return {"schema": schema} | {str(path.relative_to(SAMPLE)): read_header(path) for path in files}


def read_header(path: Path) -> str:
    """Return a file's text; of a safetensors file, its header, which is JSON. Numbers follow it."""
    content = path.read_bytes()
    return (
        content[8 : 8 + int.from_bytes(content[:8], "little")] if path.suffix == ".safetensors" else content
    ).decode()


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


@NAMES
def test_a_model_is_small(name: str) -> None:
    """Every clone has the models, and the card says their sizes. Only the first one has scikit-learn's own form."""
    folder = SAMPLE_MODELS[name]
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    assert size < (2_000_000 if folder == MODEL else 200_000)
    assert re.search(rf"^\| `{folder.name}/` \| {name} \| .+ \| {size:,} \|$", card(), re.MULTILINE)


@NAMES
def test_a_model_says_what_it_predicts_and_has_a_baseline(name: str) -> None:
    """Predictions are tagged with its run. The baseline is of a format that shows drift, and names the target."""
    target, model = TARGETS[name], load_model(str(SAMPLE_MODELS[name]))
    assert re.fullmatch(r"[0-9a-f]{32}", model.version)
    said = read_metadata(description(SAMPLE_MODELS[name]), name)
    assert (said.target, said.field, said.unit) == (target.name, target.field, target.unit)
    assert said.baseline
    assert said.trained_on
    artifact = open_artifact(str(SAMPLE_MODELS[name]))
    found = read_baseline(artifact, said)
    assert found
    baseline, digest = found
    assert digest == said.baseline.sha256 == digest_of(artifact.read(said.baseline.file))
    assert (baseline.target, baseline.unit) == (target.name, target.unit)
    assert model.bins
    assert model.bins.name == digest[:16]


@pytest.mark.parametrize("file", texts())
def test_the_model_has_no_path_of_the_machine_that_made_it(file: str) -> None:
    """No text in the model has a path that begins at the root of a file system."""
    assert re.findall(r"(?:^|[\s\"'=])(?:file:/*)?/\w+", texts()[file]) == []


@pytest.mark.parametrize(("name", "value", "margin"), [("duration", 15, 10), ("tip", 3.5, 2), ("fare", 18, 6)])
def test_a_well_known_ride_has_a_plausible_value(name: str, value: float, margin: float) -> None:
    """From zone 130 to 205 in Queens, 3.66 miles take about a quarter of an hour, and cost about 18 dollars."""
    assert load_model(str(SAMPLE_MODELS[name])).predict([Ride(130, 205, 3.66)]) == [pytest.approx(value, abs=margin)]


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
def months() -> Callable[[str], list[Trips]]:
    """Give a function that reads the rides that a model was trained on, and those that it was measured on.

    The test is skipped if a file is missing.
    """
    paths = [TLC_DATA / f"green_tripdata_2023-{month}.parquet" for month in ("01", "02")]
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path.name} is not in {TLC_DATA}: download it there, or set TLC_DATA to its folder")
    return functools.cache(lambda name: [training_trips(path, TARGETS[name]) for path in paths])


def learned_pairs(january: Trips) -> dict[str, int]:
    """Return the pairs of zones that a model knows, and the number of training rides that have each."""
    times = Counter(prepare_features(ride)["PU_DO"] for ride in january.rides)
    return {pair: count for pair, count in times.items() if count >= 8}


@NAMES
def test_the_card_counts_the_rides_right(months: Callable[[str], list[Trips]], name: str) -> None:
    """The card has each month's rides used and left out, the known pairs, and the values for other pairs."""
    january, february = months(name)
    counts = [number for month in (january, february) for number in (len(month.rides), month.left_out)]
    assert f"| {name} | {' | '.join(f'{number:,}' for number in counts)} |" in card()
    pairs, unit = learned_pairs(january), TARGETS[name].unit
    assert name != "duration" or pairs.keys() == known_pairs()
    base, mile = load_model(str(SAMPLE_MODELS[name])).predict([Ride(1, 1, 0.0), Ride(1, 1, 1.0)])
    assert isinstance(base, float)
    assert isinstance(mile, float)
    share = sum(pairs.values()) / len(january.rides)
    row = f"| {name} | {len(pairs)} | {100 * share:.0f} % | {base:.2f} {unit} | {mile - base:.2f} {unit} |"
    assert row in card()


@NAMES
@pytest.mark.parametrize(
    ("row", "wanted"),
    [("", {True, False}), (" of known pairs", {True}), (" of other pairs", {False})],
    ids=["all", "known", "other"],
)
def test_the_cards_errors_are_those_on_the_real_february(
    months: Callable[[str], list[Trips]], name: str, row: str, wanted: set[bool]
) -> None:
    """RMSE and MAE of the model and of January's mean agree to the digits on the card."""
    january, february = months(name)
    known = learned_pairs(january)
    chosen = [
        (ride, value)
        for ride, value in zip(february.rides, february.values, strict=True)
        if (prepare_features(ride)["PU_DO"] in known) in wanted
    ]
    rides, values = [ride for ride, _ in chosen], [value for _, value in chosen]
    actual, mean = np.array(values), np.full(len(rides), np.mean(january.values))
    predicted = np.array(load_model(str(SAMPLE_MODELS[name])).predict(rides), np.float64)
    errors = [measure_errors(actual, predicted), measure_errors(actual, mean)]
    figures = [f"{figure:.3f}" for one in errors for figure in (one.rmse, one.mae)]
    assert f"| {name}{row} | {len(rides):,} | {' | '.join(figures)} |" in card()
