"""The thresholds of drift: how much windows of the training rides differ from all of them, for each size of windows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from baselines import Scale
from drift import LEAST_RIDES, ONE_SIDED, Shares, find_deviations, find_shares, find_sizes
from served.arrays import Floats

FALSE_ALARMS = 0.005
"""The share of windows without drift in which some test gives a false alarm, if days differ by chance alone."""
LEAST_WINDOWS = 16
"""With fewer windows, their standard deviation is too uncertain, and the limits would be too wide."""
MARGIN = 1.25
"""A limit is at least this many times the deviation of the most unusual window of the training rides themselves."""
WITHOUT_DISTANCE_BINS = "without distance"
Bins = Mapping[str, np.ndarray[Any, Any]]


def calibrate(groups: Sequence[Bins], sizes: Mapping[str, int], usual: Mapping[str, Shares]) -> list[Scale]:
    """Return the scales for rides in the order of their pickups.

    Args:
        groups: several sets of rides, each with the bin of each ride for each histogram, which is -1 if the ride is
            not in the histogram. Windows of any of them are not drift. The first decides which sizes there are.
        sizes: the number of bins of each histogram.
        usual: the shares of all rides.
    """
    rides = _count_rides(groups[0])
    scales, size = [], LEAST_RIDES
    while rides // size >= LEAST_WINDOWS:
        windows = [_count_windows(bins, size, sizes) for bins in groups if _count_rides(bins) >= size]
        scales.append(_make_scale(size, rides // size, windows, usual))
        size *= 2
    return scales


def count_bins(bins: Bins, sizes: Mapping[str, int]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the histograms of rides."""
    return {name: np.bincount(found[found >= 0], minlength=sizes[name]) for name, found in bins.items()}


def _make_scale(size: int, number: int, groups: Sequence[Mapping[str, Shares]], usual: Mapping[str, Shares]) -> Scale:
    deviations, limits = {}, {}
    tests = sum(len(shares.values) for shares in usual.values())
    by_chance = float(stats.t.ppf(1 - FALSE_ALARMS / 2 / tests, number - 1))
    for name, shares in usual.items():
        if not len(shares.values):
            continue
        found = [group[name] for group in groups]
        # If only more is drift, rides of a group that has fewer tell nothing about how much the share varies.
        varied = found[:1] if name in ONE_SIDED else found
        spread = np.max([_deviate(one, shares) for one in varied], axis=0)
        most = max(float(np.nanmax(find_sizes(name, find_deviations(one, shares, spread)))) for one in found)
        deviations[name] = [float(f"{one:.4g}") for one in spread]
        limits[name] = float(f"{max(by_chance, MARGIN * most):.4g}")
    return Scale(size, number, deviations, limits)


def _deviate(shares: Shares, usual: Shares) -> Floats:
    deviations: Floats = np.sqrt(np.nanmean((shares.values - usual.values) ** 2, axis=0))
    return deviations


def _count_windows(bins: Bins, size: int, sizes: Mapping[str, int]) -> dict[str, Shares]:
    """Return the shares of all windows of one size, of which each overlaps the next one by half."""
    half = size // 2
    counts = {}
    for name, found in bins.items():
        halves = len(found) // half
        place = np.repeat(np.arange(halves), half) * sizes[name] + found[: halves * half]
        cells = np.bincount(place[found[: halves * half] >= 0], minlength=halves * sizes[name])
        cells = cells.reshape(halves, sizes[name])
        counts[name] = cells[:-1] + cells[1:]
    without_distance = counts.pop(WITHOUT_DISTANCE_BINS)[:, 1]
    return find_shares(counts, without_distance)


def _count_rides(bins: Bins) -> int:
    return len(next(iter(bins.values())))
