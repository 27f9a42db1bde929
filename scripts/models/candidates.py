"""The models that ``./scripts/train`` compares: each trained on the same rides, and measured on the same later ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from features import DEFAULT_FEATURES, prepare_features
from rides import Ride
from scripts.models import boosting, training
from scripts.models.evaluation import Errors, Evaluation, measure_errors
from scripts.models.months import RideSet
from served.arrays import Floats
from targets import Target

BOOSTED, BOOSTED_WITHOUT_TIME = "boosted", "boosted without time"
MODELS = (*training.MODELS, BOOSTED_WITHOUT_TIME, BOOSTED)
"""The names of the models, in the order of the table."""
MEAN, PAIR_MEDIAN = "mean", "pair median"
"""The names of two predictions that need no model: a model that is not better than both is worth nothing."""
MOST_FOREST_RIDES = 100_000
"""A forest that is only compared with other models learns from no more rides, because it takes minutes even so."""


@dataclass(frozen=True)
class Candidate:
    """A model that was trained."""

    name: str
    pipeline: Any
    features: Sequence[str]
    """The names of the features that it wants."""


@dataclass(frozen=True)
class TrainingResult:
    """The chosen model, with its errors beside those of all others, and the rides that they were trained on."""

    chosen: Candidate
    evaluation: Evaluation
    rides: RideSet
    validation: RideSet
    min_pair_count: int


def compare(
    chosen: str, names: Iterable[str], rides: RideSet, validation: RideSet, target: Target, min_pair_count: int
) -> TrainingResult:
    """Train these models, and return the chosen one of them with the errors of all.

    Args:
        chosen: the name of the model that is wanted.
        names: the names of all models to train.
        rides: the rides to train on.
        validation: the rides to measure on.
        target: what the models predict.
        min_pair_count: see ``training.features``.
    """
    table = {
        MEAN: _measure(validation, np.full(len(validation.rides), rides.values.mean())),
        PAIR_MEDIAN: _measure(validation, predict_pair_medians(rides, validation.rides)),
    }
    wanted: tuple[Candidate, Floats] | None = None
    for name in names:
        is_sampled = name == "forest" and name != chosen and len(rides.rides) > MOST_FOREST_RIDES
        candidate = fit_candidate(name, _draw(rides, MOST_FOREST_RIDES) if is_sampled else rides, min_pair_count)
        with training.stage(f"Measuring {name}") as show_progress:
            predicted = training.predict_rides(candidate.pipeline, validation.rides, candidate.features, show_progress)
        label = f"{name} of {MOST_FOREST_RIDES:,} rides" if is_sampled else name
        table[label] = _measure(validation, predicted)
        if name == chosen:
            wanted = candidate, predicted
    if wanted is None:
        raise ValueError(f"{chosen} is not one of the models to train")
    candidate, predicted = wanted
    evaluation = Evaluation(chosen, target, validation.files, validation.rides, validation.values, predicted, table)
    return TrainingResult(candidate, evaluation, rides, validation, min_pair_count)


def fit_candidate(name: str, rides: RideSet, min_pair_count: int = 1) -> Candidate:
    """Return a model, trained on these rides."""
    if name in training.MODELS:
        prepared = training.features(rides.rides, min_pair_count)
        pipeline = training.fit(training.MODELS[name](), prepared, rides.values)
        return Candidate(name, pipeline, DEFAULT_FEATURES)
    names = boosting.WITH_TIME if name == BOOSTED else boosting.WITHOUT_TIME
    with training.stage(f"Fitting {name}"):
        features = (prepare_features(ride, names) for ride in rides.rides)
        pipeline = boosting.fit_boosted(features, rides.values, names, training.SEED)
    return Candidate(name, pipeline, names)


def predict_pair_medians(training_rides: RideSet, rides: Sequence[Ride]) -> Floats:
    """Return the median of the training rides with the same pair of zones.

    If there is no such ride, it is the median of the rides from the same zone, and else of all rides.
    """
    known = _zones(training_rides.rides)
    known["value"] = training_rides.values
    asked = _zones(rides)
    by_pair = known.groupby(["pickup", "dropoff"])["value"].median().rename("by_pair")
    by_zone = known.groupby("pickup")["value"].median().rename("by_zone")
    found = asked.join(by_pair, on=["pickup", "dropoff"]).join(by_zone, on="pickup")
    medians: Floats = found["by_pair"].fillna(found["by_zone"]).fillna(known["value"].median()).to_numpy()
    return medians


def _zones(rides: Sequence[Ride]) -> Any:
    zones = [(ride.PULocationID, ride.DOLocationID) for ride in rides]
    return pd.DataFrame(zones, columns=["pickup", "dropoff"])


def _measure(validation: RideSet, predicted: Floats) -> Errors:
    return measure_errors(validation.values, predicted)


def _draw(rides: RideSet, number: int) -> RideSet:
    rows = np.random.default_rng(training.SEED).choice(len(rides.rides), number, replace=False)
    return rides.select(np.sort(rows), rides.left_out)
