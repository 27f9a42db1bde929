"""Fitting the models that ``./scripts/train`` offers, and predicting with them."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline

from features import DEFAULT_FEATURES, prepare_features
from rides import Ride
from scripts import cli
from scripts.models.proving import RIDES_A_CALL, Predict
from served.arrays import Floats

SEED = 0
MODELS: dict[str, Callable[[], Any]] = {
    "linear": LinearRegression,
    "ridge": Ridge,
    "forest": lambda: RandomForestRegressor(
        n_estimators=100, max_depth=20, min_samples_leaf=10, n_jobs=-1, random_state=SEED
    ),
}
"""scikit-learn's regressors by their names on the command line."""


ShowProgress: TypeAlias = Callable[[int, int], None]
"""Takes the steps done and their total."""


def fit(estimator: Any, training: Iterable[Mapping[str, Any]], values: Sequence[float] | Floats) -> Any:
    """Return a pipeline of a DictVectorizer and the estimator, fitted to the values of a target."""
    vectorizer = DictVectorizer()
    with stage(f"Fitting {type(estimator).__name__}") as show_progress:
        matrix = vectorizer.fit_transform(training)
        if isinstance(estimator, RandomForestRegressor):
            grow(estimator, matrix, values, show_progress)
        else:
            estimator.fit(matrix, values)
    return make_pipeline(vectorizer, estimator)


def features(rides: Sequence[Ride], min_pair_count: int) -> Iterator[Mapping[str, Any]]:
    """Yield the features of each ride, without its pair of zones if fewer than ``min_pair_count`` rides have that pair.

    The vectorizer ignores a pair that it has not seen. So a ride without its pair looks like a ride of an unknown pair,
    and teaches the model what to predict for those.
    """
    # One after the other, because the features of all rides take several times as much memory as the rides.
    times = Counter(prepare_features(ride)["PU_DO"] for ride in rides) if min_pair_count > 1 else None
    for one in map(prepare_features, rides):
        is_rare = times is not None and times[one["PU_DO"]] < min_pair_count
        yield {"trip_distance": one["trip_distance"]} if is_rare else one


def grow(
    forest: RandomForestRegressor, matrix: Any, values: Sequence[float] | Floats, show_progress: ShowProgress
) -> None:
    """Fit a forest a few trees at a time, to show progress; the trees are the same as those of a single fit."""
    wanted, step = forest.n_estimators, os.cpu_count() or 1
    forest.set_params(warm_start=True)
    for trees in [*range(step, wanted, step), wanted]:
        forest.set_params(n_estimators=trees).fit(matrix, values)
        show_progress(trees, wanted)
    forest.set_params(warm_start=False)


def predict_rides(
    pipeline: Any,
    rides: Sequence[Ride],
    names: Sequence[str] = DEFAULT_FEATURES,
    advance: ShowProgress = lambda *_: None,
) -> Floats:
    """Return a pipeline's predictions.

    Args:
        pipeline: the fitted pipeline.
        rides: the rides to predict; at least one.
        names: the features that it was fitted with.
        advance: called with the rides that are done and their total.
    """
    predict, parts = predict_with(pipeline, names), []
    # In parts, because the features of a ride take many times as much memory as its prediction.
    for at in range(0, len(rides), RIDES_A_CALL):
        part = [prepare_features(ride, names) for ride in rides[at : at + RIDES_A_CALL]]
        parts.append(predict(part))
        advance(at + len(part), len(rides))
    return np.concatenate(parts)


def predict_with(pipeline: Any, names: Sequence[str]) -> Predict:
    """Return the pipeline's predictions for features: some pipelines take a DataFrame, and others take dictionaries."""
    if not hasattr(pipeline, "feature_names_in_"):
        predict: Predict = pipeline.predict
        return predict
    return lambda features: pipeline.predict(pd.DataFrame(list(features), columns=list(names)))


@contextlib.contextmanager
def stage(text: str) -> Iterator[ShowProgress]:
    """Show a progress bar during the block, which is given a function that moves it."""
    with cli.progress_bar("steps") as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
        steps = progress.tasks[0].total or 1
        progress.update(task, completed=steps, total=steps)
