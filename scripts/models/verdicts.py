"""The verdict on two models that predicted the same rides: whether the errors of one are smaller, beyond chance."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from served.arrays import Floats

CONFIDENCE = 0.99
"""The share of intervals that hold the true difference. Of two equal models, one comparison in a hundred is wrong."""
LEAST_RIDES = 200
"""With fewer rides there is no verdict, because a few long rides decide about the mean."""
RESAMPLES = 2_000
"""How often the rides are drawn."""


@dataclass(frozen=True)
class Verdict:
    """The difference between two models' mean absolute errors, with its interval."""

    verdict: Literal["better", "worse", "not yet known"]
    """The challenger's errors, compared with those of the live model."""
    difference: float
    """The challenger's mean absolute error minus the live model's: negative if the challenger is better."""
    low: float
    high: float
    """The interval of the difference. It is infinite if the rides are too few, or if no error differs."""
    rides: int


def judge(live: Floats, challenger: Floats, seed: int = 0) -> Verdict:
    """Return the verdict on the errors of two models for the same rides, of which there is at least one.

    The interval comes from a bootstrap: rides are drawn, with replacement, from these rides. Both errors of a ride are
    drawn together, because a ride that is hard for one model is hard for the other. Each draw tells how far its mean
    is from the mean of all these rides, in its own standard errors (a symmetric bootstrap-t interval).
    """
    differences = np.abs(challenger) - np.abs(live)
    mean, count = float(differences.mean()), len(differences)
    if count < LEAST_RIDES or not differences.any():
        return Verdict("not yet known", mean, -math.inf, math.inf, count)
    draw = np.random.default_rng(seed)
    distances = [_distance(differences[draw.integers(0, count, count)], mean) for _ in range(RESAMPLES)]
    # A quantile between two values would be NaN if one of them is infinite.
    margin = float(np.quantile(distances, CONFIDENCE, method="higher")) * _standard_error(differences)
    verdict: Literal["better", "worse", "not yet known"] = "not yet known"
    if mean + margin < 0:
        verdict = "better"
    elif mean - margin > 0:
        verdict = "worse"
    return Verdict(verdict, mean, mean - margin, mean + margin, count)


def _distance(drawn: Floats, mean: float) -> float:
    """Return how many of its standard errors the mean of drawn differences is away from the mean of all of them."""
    distance, error = abs(float(drawn.mean()) - mean), _standard_error(drawn)
    if error:
        return distance / error
    return math.inf if distance else 0.0


def _standard_error(differences: Floats) -> float:
    return float(differences.std(ddof=1)) / math.sqrt(len(differences))
