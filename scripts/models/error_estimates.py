"""The errors of predictions before actual values are known: an estimate, and the check of it once they are there.

The estimate knows that some predictions have larger errors than others. It does not see that the model has become
worse at rides that look the same: only actual values show this.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from baselines import PREDICTION, UNSEEN, Baseline
from ride_counts import RideCounts
from scripts.models.actual_errors import ActualRides, find_expected
from scripts.models.evaluation import Errors, measure_errors
from targets import find_target

CONFIDENCE = 0.99


@dataclass(frozen=True)
class ErrorEstimate:
    """The errors that predictions are expected to have, in the unit of the target."""

    rides: int
    mae: float
    rmse: float


@dataclass(frozen=True)
class EstimateCheck:
    """An estimate beside the errors of the same rides."""

    estimate: ErrorEstimate
    measured: Errors
    low: float
    """``CONFIDENCE`` of windows of this size have an MAE from ``low`` to ``high`` if the model is as good as it was."""
    high: float
    unusual: int
    """Rides that were left out because their actual value is outside of the target's range, as in training."""

    @property
    def holds(self) -> bool:
        """Whether the estimate holds."""
        return self.low <= self.measured.mae <= self.high


def estimate_errors(baseline: Baseline, counts: RideCounts) -> ErrorEstimate | None:
    """Return the expected errors of counted rides, from their predictions; None if there are no rides."""
    rides, absolute, squared = 0, 0.0, 0.0
    for name in (PREDICTION, UNSEEN):
        found, known = np.array(counts.counts.get(name, [])), baseline.errors[name]
        if len(found):
            rides += int(found.sum())
            absolute += float(found @ np.array(known.mae))
            squared += float(found @ np.square(known.rmse))
    return ErrorEstimate(rides, absolute / rides, float(np.sqrt(squared / rides))) if rides else None


def check_estimate(baseline: Baseline, rides: ActualRides) -> EstimateCheck | None:
    """Return the estimate for rides and their errors; None if there are too few rides here or in validation."""
    target = find_target(baseline.target, baseline.unit)
    known = rides.choose_judged(None)
    usual = rides.choose_judged(target)
    usual = usual.choose(usual.actual <= target.most) if target else usual
    scale, count = baseline.error_scale, len(usual.actual)
    if scale is None or count < 2:
        return None
    mae, rmse = find_expected(baseline, usual)
    estimate = ErrorEstimate(count, float(mae.mean()), float(np.sqrt(np.mean(rmse**2))))
    chance = np.sqrt(max(estimate.rmse**2 - estimate.mae**2, 0) / count)
    spread = float(np.hypot(chance, scale.mae * estimate.mae))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, scale.windows - 1)) * spread
    measured = measure_errors(usual.actual, usual.predicted)
    low, high = max(0.0, estimate.mae - reach), estimate.mae + reach
    return EstimateCheck(estimate, measured, low, high, len(known.actual) - count)
