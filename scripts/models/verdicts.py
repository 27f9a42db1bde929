"""The verdict on two models that predicted the same rides: whether the errors of one are smaller, beyond chance."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import bootstrap

from served.arrays import Floats

CONFIDENCE = 0.99
"""The share of intervals that hold the true difference. Of two equal models, one comparison in a hundred is wrong."""
LEAST_RIDES = 200
"""With fewer rides there is no verdict, because a few long rides decide about the mean."""
RESAMPLES, ROWS_AT_ONCE = 2_000, 100
"""How often the rides are drawn, and how many draws are in memory at once."""


@dataclass(frozen=True)
class Verdict:
    """The difference between two models' mean absolute errors, with its interval."""

    verdict: Literal["better", "worse", "not yet known"]
    """The challenger's errors, compared with those of the live model."""
    difference: float
    """The challenger's mean absolute error minus the live model's: negative if the challenger is better."""
    low: float
    high: float
    """The interval of the difference."""
    rides: int


def judge(live: Floats, challenger: Floats, seed: int = 0) -> Verdict:
    """Return the verdict on the absolute errors of two models for the same rides, of which there is at least one.

    The interval comes from a bootstrap: the difference for rides that are drawn, with replacement, from these rides.
    Both errors of a ride are drawn together, because a ride that is hard for one model is hard for the other.
    """
    differences = np.abs(challenger) - np.abs(live)
    mean = float(differences.mean())
    if len(differences) < LEAST_RIDES or not differences.any():
        return Verdict("not yet known", mean, float("-inf"), float("inf"), len(differences))
    low, high = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=ROWS_AT_ONCE,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    verdict: Literal["better", "worse", "not yet known"] = "not yet known"
    if high < 0:
        verdict = "better"
    elif low > 0:
        verdict = "worse"
    return Verdict(verdict, mean, float(low), float(high), len(differences))
