"""The verdict on two models that predicted the same rides: whether the errors of one are smaller, beyond chance."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from served.arrays import Floats

CONFIDENCE = 0.99
"""The share of intervals that hold the true difference. Of 100 comparisons of equal models, one verdict is false."""
LEAST_RIDES = 200
"""With fewer rides there is no verdict, because a few long rides decide about the mean.

Simulated with a ridge's and a forest's errors on a month of green taxi rides, exchanged by chance: of 500 windows each
with 200, 500 and 2,000 rides, 2, 4 and 4 had a false verdict; if the interval consisted of percentiles of the draws,
up to 16 of 1,000 windows had one.
"""
ROUNDING = 1e-12
"""Deviations that are smaller, relative to the largest error, come from the rounding of doubles."""
RESAMPLES, MOST_PARTS = 1_000, 1_000
"""The number of draws, and the number of parts into which the rides are put at random, if there are more rides."""


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
    drawn together, because a ride that is hard for one model is hard for the other. The interval is as wide as the
    means of the draws are away from the mean of all these rides, each in its own standard errors (a symmetric
    bootstrap-t interval). Many rides are drawn in parts, so that a million rides take little time and memory.
    """
    differences = np.abs(challenger) - np.abs(live)
    mean, count = float(differences.mean()), len(differences)
    if count < LEAST_RIDES or not differences.any():
        return Verdict("not yet known", mean, -math.inf, math.inf, count)
    deviations = differences - mean
    # A model that is worse by the same minute on each ride differs from the mean by rounding alone.
    deviations[np.abs(deviations) <= ROUNDING * max(np.abs(live).max(), np.abs(challenger).max())] = 0.0
    margin = _find_margin(deviations, np.random.default_rng(seed))
    verdict: Literal["better", "worse", "not yet known"] = "not yet known"
    if mean + margin < 0:
        verdict = "better"
    elif mean - margin > 0:
        verdict = "worse"
    return Verdict(verdict, mean, mean - margin, mean + margin, count)


def _find_margin(deviations: Floats, draw: np.random.Generator) -> float:
    """Return how far the true mean may be from the mean of values, given as their deviations from that mean."""
    size = -(-len(deviations) // MOST_PARTS)
    count = len(deviations) // size
    # The last few rides that do not fill a part do not matter for the width of the interval.
    parts = draw.permutation(deviations)[: count * size].reshape(count, size).mean(axis=1)
    parts -= parts.mean()
    drawn = parts[draw.integers(0, count, (RESAMPLES, count), dtype=np.int32)]
    means = drawn.mean(axis=1)
    variances = np.maximum(np.einsum("ij,ij->i", drawn, drawn) / count - means**2, 0)
    # A draw of equal values has no variance: its distance is infinite, or 0 if the values are the mean.
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.nan_to_num(np.abs(means) / np.sqrt(variances), nan=0.0, posinf=math.inf)
    # A quantile between two values would be NaN if one of them is infinite.
    return float(np.quantile(distances, CONFIDENCE, method="higher")) * float(parts.std())
