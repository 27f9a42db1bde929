"""Whether predictions are as good as they were: actual values against predicted ones, over all rides and by zone.

An error is actual minus predicted, as a part of the MAE that the baseline has for such a prediction. It is limited, so
that one ride with a wrong clock does not decide about its zone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from baselines import PREDICTION, UNSEEN, Baseline
from rides import Ride
from scripts.models.calibration import FALSE_ALARMS
from served.arrays import Floats
from targets import Target, find_target

MOST_ERROR = 3.0
"""The largest error of a ride, as a part of the expected MAE."""
MOST_ERROR_OF_A_SIZE = 20.0
"""The same limit for the mean errors that people read. A ride whose duration doubled has an error of 3 to 8."""
LEAST_RIDES_OF_A_ZONE = 10
"""A zone with fewer rides is not judged."""
ZONE_MARGIN = 1.1
"""A zone's limit is at least this many times the deviation of the most unusual zone in windows of the training and
validation rides."""
LEAST_EXPECTED = 1e-9
CONFIDENCE = 0.95
"""The confidence of the intervals around mean errors."""
ENDS = ("pickup_zone", "dropoff_zone")
ALL = "all"


@dataclass(frozen=True)
class ActualRides:
    """Rides with their actual values, which are NaN if they are not known."""

    zones: NDArray[np.int64]
    """The zone of the pickup and of the dropoff: two columns."""
    miles: Floats
    predicted: Floats
    actual: Floats

    @classmethod
    def of(cls, rides: Sequence[Ride], predicted: Floats, actual: Floats) -> "ActualRides":
        """Return rides with their predictions and actual values."""
        zones = np.array([(ride.PULocationID, ride.DOLocationID) for ride in rides], np.int64).reshape(-1, 2)
        return cls(zones, np.array([ride.trip_distance for ride in rides], float), predicted, actual)

    def choose(self, chosen: NDArray[Any]) -> "ActualRides":
        """Return some of the rides."""
        return ActualRides(self.zones[chosen], self.miles[chosen], self.predicted[chosen], self.actual[chosen])

    def choose_judged(self, target: Target | None) -> "ActualRides":
        """Return the rides that can be judged: with an actual value, and longer than 0 miles.

        A ride whose value is below the target's range was cancelled or refunded: models are not trained on such rides,
        and in some zones there are many. A value above the range is judged, because longer rides are what drift makes.
        """
        least = target.least if target else -np.inf
        is_judged = np.isfinite(self.actual) & np.isfinite(self.predicted) & (self.miles > 0)
        return self.choose(is_judged & (self.actual >= least))


@dataclass(frozen=True)
class ComparedZones:
    """Zones with enough rides to be judged."""

    zones: NDArray[np.int64]
    rides: NDArray[np.intp]
    differences: Floats


@dataclass(frozen=True)
class ErrorFinding:
    """The outcome for all rides, or for the rides of one zone."""

    name: str
    """``ALL`` or one of ``ENDS``."""
    zone: int | None
    rides: int
    deviation: float
    """The difference of the mean error from the usual one, in standard deviations. Below 0, actual values are smaller
    than usual. For zones, it is the difference from the zone in the middle."""
    limit: float
    difference: float
    """The mean of actual minus predicted, in the unit of the target."""
    low: float
    """The confidence interval of the difference goes from ``low`` to ``high``."""
    high: float
    predicted: float
    """The mean of the predictions."""

    @property
    def excess(self) -> float:
        """The size of the deviation as a part of the limit. Above 1, it is drift."""
        return abs(self.deviation) / self.limit


def judge_actuals(baseline: Baseline, rides: ActualRides) -> list[ErrorFinding]:
    """Return the outcome for all rides and for each zone with enough rides, the largest excess first.

    The list is empty if there can be no verdict: ``explain_no_error_verdict`` says why.
    """
    scale = baseline.error_scale
    if scale is None or explain_no_error_verdict(baseline, rides):
        return []
    # Smaller windows than those of the scale differ more, at most as if they differed by chance alone.
    smaller = max(1.0, scale.rides / len(rides.actual)) ** 0.5
    rides = rides.choose_judged(find_target(baseline.target, baseline.unit))
    errors, sizes = find_errors(baseline, rides), _limit_sizes(baseline, rides)
    # Half of the false alarms may come from the test of all rides, and half from all zones.
    tail = FALSE_ALARMS / 4
    # A model without any error would have a spread of 0.
    spread = max(float(np.hypot(scale.ride / len(errors) ** 0.5, smaller * scale.window)), LEAST_EXPECTED)
    deviation, limit = (float(errors.mean()) - scale.mean) / spread, float(stats.t.isf(tail, scale.windows - 1))
    findings = [_describe(ALL, None, deviation, limit, sizes, rides.predicted)]
    compared = [compare_zones(errors, rides.zones[:, end]) for end in range(len(ENDS))]
    by_chance = float(stats.norm.isf(tail / max(sum(len(one.zones) for one in compared), 1)))
    limit = max(by_chance, ZONE_MARGIN * scale.most)
    for end, (name, found) in enumerate(zip(ENDS, compared, strict=True)):
        deviations = deviate_zones(found, scale.ride, smaller * scale.zone)
        for zone, deviation in zip(found.zones.tolist(), deviations.tolist(), strict=True):
            chosen = rides.zones[:, end] == zone
            findings.append(_describe(name, zone, deviation, limit, sizes[chosen], rides.predicted[chosen]))
    return sorted(findings, key=lambda one: -one.excess)


def compare_zones(errors: Floats, zones: NDArray[np.int64]) -> ComparedZones:
    """Return the difference of each zone's mean error from that of the zone in the middle, for zones to be judged.

    The middle is that of the rides, and moves with all rides, but not with one zone.
    """
    found, place, rides = np.unique(zones, return_inverse=True, return_counts=True)
    means = np.bincount(place, errors, len(found)) / rides
    is_judged = rides >= LEAST_RIDES_OF_A_ZONE
    found, rides, means = found[is_judged], rides[is_judged], means[is_judged]
    if not len(found):
        return ComparedZones(found, rides, means)
    order = np.argsort(means)
    middle = order[np.searchsorted(np.cumsum(rides[order]), rides.sum() / 2)]
    return ComparedZones(found, rides, means - means[middle])


def deviate_zones(zones: ComparedZones, ride: float, zone: float) -> Floats:
    """Return the differences in standard deviations.

    Args:
        zones: the zones with their differences.
        ride: the standard deviation of one ride's error.
        zone: the standard deviation of zones beyond chance.
    """
    deviations: Floats = zones.differences / np.maximum(np.sqrt(ride**2 / zones.rides + zone**2), LEAST_EXPECTED)
    return deviations


def explain_no_error_verdict(baseline: Baseline, rides: ActualRides) -> str | None:
    """Return why the actual values of these rides cannot be judged; None if they can."""
    if baseline.error_scale is None:
        return (
            "the model was measured on too few rides to know how much its errors vary: train it again, and measure it"
            " on more rides"
        )
    count = len(rides.choose_judged(find_target(baseline.target, baseline.unit)).actual)
    if count < LEAST_RIDES_OF_A_ZONE:
        return (
            f"{count:,} of {len(rides.actual):,} rides have an actual value that is known and not below the target's"
            f" range: a verdict needs {LEAST_RIDES_OF_A_ZONE}"
        )
    return None


def find_errors(baseline: Baseline, rides: ActualRides) -> Floats:
    """Return the limited error of each ride."""
    return np.clip((rides.actual - rides.predicted) / find_expected(baseline, rides)[0], -MOST_ERROR, MOST_ERROR)


def find_expected(baseline: Baseline, rides: ActualRides) -> tuple[Floats, Floats]:
    """Return the expected MAE and RMSE of the prediction of each ride."""
    bins = np.searchsorted(baseline.edges[PREDICTION], rides.predicted, side="right")
    pairs = (f"{pickup}_{dropoff}" for pickup, dropoff in rides.zones.tolist())
    is_seen = np.fromiter((pair in baseline.pairs for pair in pairs), bool, len(bins))
    seen, unseen = baseline.errors[PREDICTION], baseline.errors[UNSEEN]
    mae, rmse = (
        np.where(is_seen, np.array(known)[bins], np.array(new)[bins])
        for known, new in ((seen.mae, unseen.mae), (seen.rmse, unseen.rmse))
    )
    return np.maximum(mae, LEAST_EXPECTED), rmse


def pack(zones: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number for each pair of zones."""
    return zones[:, 0] << 31 | zones[:, 1]


def _limit_sizes(baseline: Baseline, rides: ActualRides) -> Floats:
    most = MOST_ERROR_OF_A_SIZE * find_expected(baseline, rides)[0]
    return np.clip(rides.actual - rides.predicted, -most, most)


def _describe(
    name: str, zone: int | None, deviation: float, limit: float, sizes: Floats, predicted: Floats
) -> ErrorFinding:
    count, mean = len(sizes), float(sizes.mean())
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * sizes.std(ddof=1) / np.sqrt(count))
    return ErrorFinding(name, zone, count, deviation, limit, mean, mean - reach, mean + reach, float(predicted.mean()))
