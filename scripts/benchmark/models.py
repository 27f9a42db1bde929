"""The models that are measured, trained and logged with MLflow as ``scripts/train`` does it."""

import copy
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.pipeline import make_pipeline

from scripts.benchmark.plan import FOREST, RIDGE, forest_of
from scripts.models import training as train
from trips import Trips


@dataclass(frozen=True)
class LoggedModel:
    """A model's folders, one for each serialization, and the run that logged it."""

    run_id: str
    skops: Path
    cloudpickle: Path

    @property
    def cloudpickle_sha256(self) -> str:
        """The digest to pin."""
        return hashlib.sha256((self.cloudpickle / "model.pkl").read_bytes()).hexdigest()


def logged_models(trips: Trips, folder: Path, trees: int, growth_trees: Collection[int]) -> dict[str, LoggedModel]:
    """Train on the trips, log into the folder, and return by name the ridge, the forest, and forests of other sizes."""
    import mlflow  # not before train, which tells it to be silent

    pipelines = _pipelines(trips, trees, growth_trees)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("bench", artifact_location=(folder / "models").as_uri())
    with train.stage("Logging to MLflow"):
        return {name: _logged(pipeline, experiment) for name, pipeline in pipelines.items()}


def _pipelines(trips: Trips, trees: int, growth_trees: Collection[int]) -> dict[str, Any]:
    largest = train.MODELS["forest"]().set_params(n_estimators=max([trees, *growth_trees]))
    vectorizer, forest = _fitted(trips, largest).named_steps.values()
    forests = {FOREST: trees, **{forest_of(number): number for number in growth_trees}}
    parts = {name: make_pipeline(vectorizer, _first_trees(forest, number)) for name, number in forests.items()}
    return {RIDGE: _fitted(trips, train.MODELS["ridge"]()), **parts}


def _fitted(trips: Trips, estimator: Any) -> Any:
    return train.fit(estimator, train.features(trips.rides, min_pair_count=1), trips.durations)


def _first_trees(forest: Any, number: int) -> Any:
    """Return the forest that one would get by growing so many trees and no more.

    Its ``n_jobs`` is scikit-learn's default and not that of training: it is logged as most people log it.
    """
    part = copy.copy(forest)
    part.estimators_ = forest.estimators_[:number]
    return part.set_params(n_estimators=number, n_jobs=None)


def _logged(pipeline: Any, experiment: str) -> LoggedModel:
    import mlflow.sklearn

    with mlflow.start_run(experiment_id=experiment) as run:
        skops = train.log_model(pipeline)
        cloudpickle = mlflow.sklearn.log_model(
            pipeline, name="cloudpickle", serialization_format="cloudpickle", pip_requirements=[]
        )
    return LoggedModel(run.info.run_id, *(Path(train.as_path(model.artifact_path)) for model in (skops, cloudpickle)))
