"""The errors of a model's predictions, beside those of simpler ways to predict the same rides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rides import Ride
from served.arrays import Floats
from targets import Target


@dataclass(frozen=True)
class Errors:
    """How far predictions are from the actual values, in the target's unit."""

    rmse: float
    """The root of the mean of the squares."""
    mae: float
    """The mean of the absolute values."""


@dataclass(frozen=True)
class Evaluation:
    """Rides that a model was not trained on, with its predictions."""

    model: str
    """The model's name in the table."""
    target: Target
    files: Sequence[str]
    """The names of the files that the rides come from, without folders."""
    rides: Sequence[Ride]
    """Each has its pickup, in local time."""
    actual: Floats
    predicted: Floats
    table: Mapping[str, Errors]
    """The errors on these rides, by name: of the mean, of the pair's median, and of each model."""


def measure_errors(actual: Floats, predicted: Floats) -> Errors:
    """Return the errors of predictions."""
    difference = predicted - actual
    return Errors(float(np.sqrt(np.mean(difference**2))), float(np.mean(np.abs(difference))))
