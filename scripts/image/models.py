"""The models of the scenarios, in MLflow's format: for each choice of packages, and two heavy models.

The heavy models are nearest-neighbour regressors over many remembered rides. One model is slow, and the other takes
much memory, both in proportion to the rides.
"""

import functools
from typing import Any

import msgspec
import numpy as np
import yaml

from artifacts import open_artifact
from digests import digest_of, digest_of_files
from model_metadata import KEY, ModelMetadata
from scripts.cli import SAMPLE_MODEL
from served.columns import Number
from served.forms import FLAVOR, write_form
from served.linear import Linear

SAMPLE = "sample"
"""The sample model, which has a served form."""
PIPELINE = "pipeline"
"""The sample model without its served form, so that scikit-learn has to evaluate it."""
OTHER = "other"
"""A model of another flavor than sklearn, which needs mlflow."""
TIMED = "timed"
"""A model that predicts the hour of the pickup. It has a served form alone."""
SLOW = "manhattan"
"""With this metric, a ride takes some milliseconds on one vCPU and almost no memory."""
GREEDY = "cosine"
"""With this metric, a ride takes 8 MB for its distances to all remembered rides."""

REMEMBERED = 1_000_000
"""The number of rides with which a heavy model compares each ride."""
MODULE = "five_minutes_a_mile"
CODE = """\
class Model:
    def predict(self, features, params=None):
        return 5 * features["trip_distance"].to_numpy()


def _load_pyfunc(path):
    return Model()
"""
"""The module that loads ``OTHER``."""


@functools.cache
def stage_models() -> dict[str, dict[str, bytes]]:
    """Return the files of every model by its name, the same files at each call, so that their digests stay the same."""
    sample = open_artifact(str(SAMPLE_MODEL))
    files = {name: sample.read(name) for name in sample.names()}
    flavor = {"loader_module": MODULE, "code": "code"}
    other = {"MLmodel": _mlmodel(OTHER, "python_function", flavor), f"code/{MODULE}.py": CODE.encode()}
    return {
        SAMPLE: files,
        PIPELINE: _without_served_form(files),
        OTHER: other,
        TIMED: _timed_model(),
        **{metric: _heavy_model(metric) for metric in (SLOW, GREEDY)},
    }


def pinned(name: str) -> dict[str, str]:
    """Return the variable that pins a model of this name. It is missing if the model is loaded without a digest."""
    if name in (OTHER, TIMED):
        return {"MODEL_SHA256": digest_of_files(stage_models()[name])}
    return {"MODEL_SHA256": digest_of(stage_models()[name]["model.skops"])} if name in (SLOW, GREEDY) else {}


def _without_served_form(files: dict[str, bytes]) -> dict[str, bytes]:
    description = yaml.safe_load(files["MLmodel"])
    form = description["flavors"].pop(FLAVOR)
    others = {name: content for name, content in files.items() if name != form["data"]}
    return others | {"MLmodel": yaml.safe_dump(description).encode()}


def _timed_model() -> dict[str, bytes]:
    form = write_form(Linear([Number("hour", single=False)], np.array([1.0, 0.0])))
    metadata = {KEY: msgspec.to_builtins(ModelMetadata(features=("hour",)))}
    flavor = {"data": "form", "sha256": digest_of(form)}
    return {"MLmodel": _mlmodel(TIMED, FLAVOR, flavor, metadata=metadata), "form": form}


def _heavy_model(metric: str) -> dict[str, bytes]:
    # Imported late, because scikit-learn takes a second, and few commands need a heavy model.
    import skops.io
    from sklearn import __version__
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import Pipeline

    miles = np.linspace(0.1, 100, REMEMBERED)
    vectorizer = DictVectorizer(sparse=False).fit([{"trip_distance": 1.0}])
    regressor = KNeighborsRegressor(n_neighbors=1, algorithm="brute", metric=metric)
    pipeline = Pipeline([("vectorizer", vectorizer), ("regressor", regressor.fit(miles.reshape(-1, 1), 5 * miles))])
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops", "sklearn_version": __version__}
    return {"MLmodel": _mlmodel(f"heavy-{metric}", "sklearn", flavor), "model.skops": skops.io.dumps(pipeline)}


def _mlmodel(run_id: str, name: str, flavor: dict[str, Any], **others: Any) -> bytes:
    return yaml.safe_dump({"run_id": run_id, "flavors": {name: flavor}, **others}).encode()
