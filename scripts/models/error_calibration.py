"""How large errors are on the validation rides: by bin of the prediction, and how much windows and zones differ."""

from typing import Any

import numpy as np

from baselines import PREDICTION, UNSEEN, Baseline, ErrorScale, ExpectedErrors
from scripts.models.actual_errors import ENDS, LEAST_RIDES_OF_A_ZONE, ActualRides, find_errors, find_expected, pack
from served.arrays import Floats

LEAST_WINDOW, MOST_WINDOW = 250, 2_000
LEAST_WINDOWS, WANTED_WINDOWS = 4, 8
BORROWED_RIDES = 30
"""The errors of a bin are those of its own rides and of so many rides that have the errors of all."""


def measure_bins(rides: ActualRides, edges: list[float], pairs: Any) -> dict[str, ExpectedErrors]:
    """Return the errors of the predictions in each bin, for rides of pairs in training rides, and for all others.

    Few rides have other pairs. So a bin of theirs borrows from the bin of known pairs, whose errors are multiplied by
    how much larger the errors of all rides of other pairs are.
    """
    is_seen = np.isin(pack(rides.zones), pairs)
    bins, errors = np.searchsorted(edges, rides.predicted, side="right"), rides.actual - rides.predicted
    powers = (np.abs(errors), errors**2)
    size = len(edges) + 1
    seen, unseen = (np.bincount(bins[chosen], minlength=size) for chosen in (is_seen, ~is_seen))
    borrowed = [np.full(size, one.mean()) for one in powers]
    known = [_mix(bins[is_seen], one[is_seen], seen, other) for one, other in zip(powers, borrowed, strict=True)]
    new = []
    for one, other in zip(powers, known, strict=True):
        # With few rides of other pairs, this factor stays close to 1.
        factor = (one[~is_seen].sum() + BORROWED_RIDES * other.mean()) / (
            other[bins[~is_seen]].sum() + BORROWED_RIDES * other.mean()
        )
        new.append(_mix(bins[~is_seen], one[~is_seen], unseen, other * factor))
    return {PREDICTION: _round(seen, *known), UNSEEN: _round(unseen, *new)}


def calibrate_errors(baseline: Baseline, every: ActualRides, usual: ActualRides) -> ErrorScale | None:
    """Return how much errors differ; None if there are too few rides. Rides are in the order of their pickups.

    Args:
        baseline: the baseline with its ``errors``.
        every: all rides that services would predict and whose actual value can be judged.
        usual: those that a model is measured on.
    """
    size = int(np.clip(len(usual.actual) // WANTED_WINDOWS, LEAST_WINDOW, MOST_WINDOW))
    windows = len(usual.actual) // size
    if windows < LEAST_WINDOWS:
        return None
    errors = find_errors(baseline, every)
    mean, median, ride = float(errors.mean()), float(np.median(errors)), float(errors.std())
    found = [_compare_windows(baseline, rides, size, mean, median, ride) for rides in (every, usual)]
    window, zone = np.max(found, axis=0).tolist()
    mae = _compare_estimates(baseline, usual, size)
    return ErrorScale(size, windows, *(float(f"{one:.4g}") for one in (mean, median, ride, window, zone, mae)))


def _compare_windows(
    baseline: Baseline, rides: ActualRides, size: int, mean: float, median: float, ride: float
) -> tuple[float, float]:
    """Return the standard deviations, beyond chance, of windows' means and of zones' means in windows."""
    errors = find_errors(baseline, rides)
    windows = len(errors) // size
    parts = errors[: windows * size].reshape(windows, size)
    of_windows = (parts.mean(axis=1) - mean) ** 2 - ride**2 / size
    shifts = np.repeat(np.median(parts, axis=1) - median, size)
    own = errors[: windows * size] - mean - shifts
    of_zones = []
    for end in range(len(ENDS)):
        zones, zone = np.unique(rides.zones[: windows * size, end], return_inverse=True)
        cell = np.repeat(np.arange(windows), size) * len(zones) + zone
        counts, sums = np.bincount(cell), np.bincount(cell, own)
        counts, sums = counts[counts >= LEAST_RIDES_OF_A_ZONE], sums[counts >= LEAST_RIDES_OF_A_ZONE]
        of_zones.append((sums / counts) ** 2 - ride**2 / counts)
    beyond = [of_windows.mean(), np.concatenate(of_zones).mean() if np.concatenate(of_zones).size else 0.0]
    window, zone_deviation = np.sqrt(np.maximum(beyond, 0)).tolist()
    return window, zone_deviation


def _compare_estimates(baseline: Baseline, rides: ActualRides, size: int) -> float:
    """Return the standard deviation, beyond chance, of windows' MAE divided by the estimate of it."""
    expected, rmse = find_expected(baseline, rides)
    windows = len(expected) // size
    absolute = np.abs(rides.actual - rides.predicted)
    measured, estimated = (one[: windows * size].reshape(windows, size).mean(axis=1) for one in (absolute, expected))
    chance = (np.mean(rmse**2) - np.mean(expected**2)) / size / np.mean(expected) ** 2
    return float(np.sqrt(max(0.0, np.mean((measured / estimated - 1) ** 2) - chance)))


def _mix(bins: Any, values: Floats, rides: Any, borrowed: Floats) -> Floats:
    sums = np.bincount(bins, values, len(borrowed))
    mixed: Floats = (sums + BORROWED_RIDES * borrowed) / (rides + BORROWED_RIDES)
    return mixed


def _round(rides: Any, mae: Floats, mse: Floats) -> ExpectedErrors:
    return ExpectedErrors(rides.tolist(), mae.round(4).tolist(), np.sqrt(mse).round(4).tolist())
