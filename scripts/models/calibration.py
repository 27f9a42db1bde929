"""The thresholds of drift: how much windows of the training rides differ from all of them, for each size of windows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from baselines import Scale
from drift import LEAST_RIDES, UNSEEN_PAIRS, Shares, find_deviations, find_shares

FALSE_ALARMS = 0.005
"""The share of windows without drift in which some test gives a false alarm, if days differ by chance alone."""
LEAST_WINDOWS = 16
"""With fewer windows their standard deviation is hardly known, and the limits would be wide."""
MARGIN = 1.25
"""A window of the training rides themselves is never drift: limits are this far beyond the most unusual one."""


def calibrate(
    bins: Mapping[str, np.ndarray[Any, Any]], sizes: Mapping[str, int], usual: Mapping[str, Shares]
) -> list[Scale]:
    """Return the scales for training rides in the order of their pickups.

    Args:
        bins: for each histogram, the bin of each ride; -1 if the ride is not in the histogram.
        sizes: the number of bins of each histogram.
        usual: the shares of all training rides.
    """
    rides = len(next(iter(bins.values())))
    scales = []
    size = LEAST_RIDES
    while rides // size >= LEAST_WINDOWS:
        windows = rides // size
        counts = {name: _count(found[: windows * size], windows, sizes[name]) for name, found in bins.items()}
        scales.append(_make_scale(size, windows, find_shares(counts), usual))
        size *= 2
    return scales


def _make_scale(size: int, windows: int, found: Mapping[str, Shares], usual: Mapping[str, Shares]) -> Scale:
    deviations, limits = {}, {}
    cuts = sum(shares.values.shape[1] for shares in found.values())
    by_chance = float(stats.t.ppf(1 - FALSE_ALARMS / 2 / cuts, windows - 1))
    for name, shares in found.items():
        spread = np.sqrt(np.nanmean((shares.values - usual[name].values) ** 2, axis=0))
        distances = find_deviations(shares, usual[name], spread)
        most = np.nanmax(distances if name == UNSEEN_PAIRS else np.abs(distances))
        deviations[name] = [float(f"{one:.4g}") for one in spread]
        limits[name] = float(f"{max(by_chance, MARGIN * most):.4g}")
    return Scale(size, windows, deviations, limits)


def _count(bins: np.ndarray[Any, Any], windows: int, size: int) -> np.ndarray[Any, Any]:
    """Return the histogram of each window."""
    window = np.repeat(np.arange(windows), len(bins) // windows)
    is_in = bins >= 0
    cells = np.bincount(window[is_in] * size + bins[is_in], minlength=windows * size)
    return cells.reshape(windows, size)
