"""What a model's artifact says about the model: the defaults, and what is refused."""

from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow.sklearn
import msgspec
import pytest
import yaml
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from artifacts import ModelError
from features import DEFAULT_FEATURES, SAMPLE_RIDE, ZONES, prepare_features
from model import describe_model, load_model
from model_metadata import KEY, NO_METADATA, BaselineFile, ModelMetadata, TrainedOn, read_metadata
from rides import Ride
from scripts.models.boosting import WITH_TIME
from tests.builders import copy_saying

LOCATION = "s3://models/1"
EVERYTHING = ModelMetadata(
    target="tip",
    field="tip_amount",
    unit="dollars",
    features=WITH_TIME,
    trained_on=TrainedOn(["green_tripdata_2023-01.parquet"], 2, "2023-01-01T00:00:00", "2023-01-31T23:59:59"),
    baseline=BaselineFile("baseline.json", "0" * 64),
)
NO_OBJECTS: list[object] = [None, [], "text", 5, 1.5, True]
BAD_NAMES = ("ride_id", "ride_id\n", "tip\n", "tip amount", "", "1", "<b>", "\u00fc", "x" * 10**6)


def read(said: object) -> ModelMetadata:
    """Return what an MLmodel file with this metadata of ours says."""
    return read_metadata({"metadata": {KEY: said}}, LOCATION)


@pytest.mark.parametrize(
    "description", [{}, {"metadata": None}, {"metadata": []}, {"metadata": "text"}, {"metadata": {"owner": {"a": 1}}}]
)
def test_an_artifact_that_says_nothing_has_a_duration_model(description: dict[str, Any]) -> None:
    """MLflow's users may have metadata of their own."""
    assert read_metadata(description, LOCATION) is NO_METADATA


def test_everything_that_training_writes_is_read() -> None:
    """A field that this version does not know is ignored, because a later version may add one."""
    written = yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(EVERYTHING) | {"colour": "green"}))
    assert read(written) == EVERYTHING
    assert EVERYTHING.wants_time


@pytest.mark.parametrize("features", [[*DEFAULT_FEATURES], None])
def test_the_usual_features_are_known_by_their_identity(features: list[str] | None) -> None:
    """``prepare_features`` then compares no names."""
    metadata = read({} if features is None else {"features": features})
    assert metadata.features is DEFAULT_FEATURES
    assert not metadata.wants_time


@pytest.mark.parametrize(
    ("said", "named"),
    [
        *((one, "Expected `object`, got") for one in NO_OBJECTS),
        ({5: 6}, "at `key` in `$`"),
        ({"target": 5}, "`$.target`"),
        ({"target": {"target": {"target": []}}}, "`$.target`"),
        ({"field": None}, "`$.field`"),
        *(({field: name}, f"`$.{field}`") for field in ("target", "field") for name in BAD_NAMES),
        *(({"unit": unit}, "`$.unit`") for unit in ("", "x" * 33, "<script>", "a\nb", "minutes\n", "\ud800", '"', 5)),
        ({"features": "PU_DO"}, "`$.features`"),
        ({"features": []}, "`$.features`"),
        ({"features": [["PU_DO"]]}, r"`$.features\[0]`"),
        ({"features": ["PU_DO"] * 101}, "`$.features`"),
        ({"features": ["PU_DO", "weather\x1b[31m"]}, r"`$.features\[1]`"),
        ({"features": ["PU_DO", "weather", "rain"]}, "wants the features rain, weather, which are not known here"),
        ({"trained_on": [1]}, "`$.trained_on`"),
        ({"trained_on": {"files": "a", "rides": 1, "first": "", "last": ""}}, "`$.trained_on.files`"),
        ({"trained_on": {"files": [], "rides": "1", "first": "", "last": ""}}, "`$.trained_on.rides`"),
        ({"trained_on": {"files": []}}, "required field `rides`"),
        *(
            ({"baseline": {"file": file, "sha256": "0" * 64}}, "`$.baseline.file`")
            for file in ("../a", "/etc/passwd", "a/b", "..", ".a", "", "a\n", "s3://a")
        ),
        *(({"baseline": {"file": "a", "sha256": one}}, "sha256`") for one in ("", "0" * 63, "A" * 64, "0" * 64 + "\n")),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:60],
)
def test_what_cannot_be_used_is_refused_in_one_line(said: object, named: str) -> None:
    """The line is short, whatever the artifact holds, and says where the artifact is and what is wrong in it."""
    with pytest.raises(ModelError, match=named.replace("$", r"\$")) as caught:
        read(said)
    assert LOCATION in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("said", [{"field": "ride_id"}, {"field": "x" * 1_000_000}, [[[[]]]], {"features": ["rain"]}])
def test_a_model_with_such_metadata_is_not_loaded(said: object, tmp_path: Path) -> None:
    """A model whose metadata cannot be used is neither loaded nor described."""
    folder = copy_saying(said, tmp_path / "model")
    for use in (load_model, describe_model):
        with pytest.raises(ModelError) as caught:
            use(folder)
        assert folder in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_model_says_what_its_artifact_says(boosted_model: str, tmp_path: Path) -> None:
    """A model has the same metadata when it is loaded and when it is only described."""
    found, model = describe_model(boosted_model), load_model(boosted_model)
    assert (
        (found.version, found.metadata)
        == (model.version, model.metadata)
        == ("a-run", ModelMetadata(features=WITH_TIME))
    )
    assert describe_model(copy_saying(None, tmp_path / "model")).metadata is NO_METADATA


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        (None, "DOLocationID, PULocationID, hour, weekday"),
        ({"features": [*DEFAULT_FEATURES]}, "DOLocationID, PULocationID, hour, weekday"),
        ({"features": [*DEFAULT_FEATURES, *ZONES]}, "hour, weekday"),
        ({"features": [*WITH_TIME]}, ""),
    ],
    ids=["no metadata", "the usual ones", "no time", "all"],
)
def test_a_pipeline_gets_all_features_that_it_was_fitted_on(tmp_path: Path, said: object, missing: str) -> None:
    """A DictVectorizer takes 0 for a missing one without an error, so such a pipeline would predict wrong values."""
    features = [prepare_features(Ride(1, 1, 5.0, datetime(2023, 2, 1, hour)), WITH_TIME) for hour in range(24)]
    pipeline = make_pipeline(DictVectorizer(), LinearRegression()).fit(features, [one["hour"] for one in features])
    folder, metadata = str(tmp_path / "model"), {KEY: said} if said else None
    mlflow.sklearn.save_model(pipeline, folder, serialization_format="skops", metadata=metadata)
    if missing:
        with pytest.raises(ModelError, match=f"{folder} was fitted on features that it does not get: {missing}; "):
            load_model(folder, version="1")
    else:
        assert load_model(folder, version="1").predict([SAMPLE_RIDE]) == [pytest.approx(8.5)]
