"""How large errors are on the validation rides: by bin of the prediction, and how much windows and zones differ."""

from typing import Any

import numpy as np

from baselines import PREDICTION, UNSEEN, Baseline, ErrorScale, ExpectedErrors
from scripts.models.actual_errors import (
    ENDS,
    ActualRides,
    compare_zones,
    deviate_zones,
    find_errors,
    find_expected,
    pack,
)
from served.arrays import Floats

LEAST_WINDOW, MOST_WINDOW = 250, 2_000
LEAST_WINDOWS, WANTED_WINDOWS = 4, 8
BORROWED_RIDES = 30
"""The errors of a bin are the means over its own rides and over this number of rides with the mean errors of all."""


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


def calibrate_errors(
    baseline: Baseline, every: ActualRides, usual: ActualRides, training: ActualRides
) -> ErrorScale | None:
    """Return how much errors differ; None if there are too few rides. Rides are in the order of their pickups.

    Args:
        baseline: the baseline with its ``errors``.
        every: all rides that services would predict and whose actual value can be judged.
        usual: the rides among them on which a model is measured.
        training: the training rides and others of their files, which only show how unusual a zone can be.
    """
    size = int(np.clip(len(usual.actual) // WANTED_WINDOWS, LEAST_WINDOW, MOST_WINDOW))
    windows = len(usual.actual) // size
    if windows < LEAST_WINDOWS:
        return None
    errors = find_errors(baseline, every)
    mean, ride = float(errors.mean()), float(errors.std())
    parts = [(find_errors(baseline, rides), rides) for rides in (every, usual, training)]
    found = [_compare_windows(*part, size, mean, ride) for part in parts]
    window, zone = np.max(found, axis=0).tolist()
    mae = _compare_estimates(baseline, usual, size)
    most = max(_find_most(*part, size, ride, zone) for part in parts)
    return ErrorScale(size, windows, *(float(f"{one:.4g}") for one in (mean, ride, window, zone, mae, most)))


def _find_most(errors: Floats, rides: ActualRides, size: int, ride: float, zone: float) -> float:
    """Return the largest deviation of a zone in a window. Each window overlaps the next one by half.

    All rides together are a window too: in the small ones, rare zones have too few rides to be judged.
    """
    most = 0.0
    starts = range(0, len(errors) - size + 1, size // 2)
    for window in (slice(None), *(slice(start, start + size) for start in starts)):
        for end in range(len(ENDS)):
            found = compare_zones(errors[window], rides.zones[window, end])
            most = float(np.abs(deviate_zones(found, ride, zone)).max(initial=most))
    return most


def _compare_windows(errors: Floats, rides: ActualRides, size: int, mean: float, ride: float) -> tuple[float, float]:
    """Return the standard deviations, beyond chance, of windows' means, and of zones' differences in windows."""
    of_windows, of_zones = [], [np.zeros(1)]
    for start in range(0, len(errors) - size + 1, size):
        window = slice(start, start + size)
        of_windows.append((errors[window].mean() - mean) ** 2 - ride**2 / size)
        for end in range(len(ENDS)):
            zones = compare_zones(errors[window], rides.zones[window, end])
            of_zones.append(zones.differences**2 - ride**2 / zones.rides)
    variances = float(np.mean(of_windows)), float(np.concatenate(of_zones).mean())
    return np.sqrt(max(0.0, variances[0])), np.sqrt(max(0.0, variances[1]))


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
