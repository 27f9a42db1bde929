"""The histograms of a window beside those of the training rides, for plots, with the range that is not drift.

For numbers, a test compares the share of rides below each edge, so the range is around these shares.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from baselines import DISTANCE, HOUR, PICKUP, PREDICTION, RATIO, UNSEEN, Baseline
from drift import Finding, find_deviations, find_scale, find_shares
from ride_counts import RideCounts
from served.arrays import Floats


@dataclass(frozen=True)
class Panel:
    """One histogram of the window and of the training rides."""

    test: str
    edges: list[float]
    """The inner edges; for zones, their numbers."""
    window: Floats
    """The share of the window's rides in each bin."""
    usual: Floats
    """The share of the training rides."""
    differences: Floats
    """For each share that the test compares, that of the window minus that of the training rides."""
    band: Floats
    """The largest difference in both directions that is not drift."""

    @property
    def excesses(self) -> Floats:
        """Return how large the differences are as parts of the band."""
        sizes: Floats = np.abs(self.differences) / self.band
        return sizes


def make_panels(baseline: Baseline, counts: RideCounts, findings: list[Finding]) -> Iterator[Panel]:
    """Yield a panel for each test of a histogram, in the order of the findings."""
    scale = find_scale(baseline, counts.rides + counts.without_distance)
    shares, usual = (find_shares(one.counts, one.without_distance) for one in (counts, baseline))
    for name in (finding.name for finding in findings):
        if scale is None or name not in (DISTANCE, RATIO, PREDICTION, HOUR, PICKUP):
            continue
        differences = shares[name].values - usual[name].values
        # A share that is larger than the usual one by 1 has a deviation of 1 divided by the standard deviation.
        spread = 1 / find_deviations(
            type(shares[name])(usual[name].values + 1, shares[name].rides),
            usual[name],
            np.array(scale.deviations[name]),
        )
        edges = list(map(float, baseline.pickup_zones)) if name == PICKUP else baseline.edges[name]
        window_bins, usual_bins = (_find_bins(name, one.counts) for one in (counts, baseline))
        yield Panel(name, edges, window_bins, usual_bins, differences, spread * scale.limits[name])


def _find_bins(name: str, counts: dict[str, list[int]]) -> Floats:
    """Return the share of rides in each bin. Rides whose pair has no usual distance are left out."""
    cells = np.array(counts.get(name, [0]), float)
    if name == PREDICTION:
        cells = cells + np.array(counts.get(UNSEEN, [0]), float)
    if name == RATIO:
        cells = cells[:-1]
    shares: Floats = cells / cells.sum()
    return shares[1:] if name == PICKUP else shares
