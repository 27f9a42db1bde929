"""Whether rides differ from a model's baseline: shares with thresholds that know the number of rides.

A window may differ from the training rides as much as the training rides' own windows of its size do. All tests of a
window together give a false alarm in at most one of a hundred windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from baselines import DISTANCE, HOUR, PICKUP, PREDICTION, RATIO, UNSEEN, Baseline, Scale
from ride_counts import RideCounts
from served.arrays import Floats

LEAST_RIDES = 250
"""With fewer rides there is no verdict."""
UNSEEN_PAIRS = "unseen_pairs"
"""The test of the share of rides whose pair of zones no training ride has."""
SHARED = {"rejected": 0.01, "without_distance": 0.1}
"""The largest share of such rides that is not yet drift. The training rides have none of them, so the shares are not
compared with theirs. Of green taxi rides, 5 % have no distance."""


@dataclass(frozen=True)
class Shares:
    """The shares that one test compares, and the number of rides that they are shares of.

    For histograms of numbers, these are the shares of rides below each edge.
    """

    values: Floats
    rides: Any


@dataclass(frozen=True)
class Finding:
    """The outcome of one test."""

    name: str
    deviation: float
    """The largest difference of a share, in standard deviations of the training rides' own windows."""
    limit: float
    place: int
    """The index of that share."""
    share: float
    usual: float
    """The share of the training rides."""

    @property
    def excess(self) -> float:
        """The deviation as a part of the limit. Above 1, it is drift."""
        return self.deviation / self.limit


def find_shares(counts: Mapping[str, Any]) -> dict[str, Shares]:
    """Return the shares of each test for histograms, or for an array of histograms of several windows each."""
    found: dict[str, Shares] = {}
    cells: dict[str, Any] = {name: np.asarray(cell, float) for name, cell in counts.items()}
    if PREDICTION in cells or UNSEEN in cells:
        seen, unseen = (cells.get(name, 0.0) for name in (PREDICTION, UNSEEN))
        cells[PREDICTION] = seen + unseen
        total = cells[PREDICTION].sum(axis=-1)
        part = cells[UNSEEN].sum(axis=-1) if UNSEEN in cells else np.zeros_like(total)
        found[UNSEEN_PAIRS] = Shares(_divide(part[..., None], total), total)
    for name in (DISTANCE, RATIO, PREDICTION, HOUR, PICKUP):
        if name not in cells:
            continue
        known = cells[name][..., :-1] if name == RATIO else cells[name]
        rides = known.sum(axis=-1)
        # The first zone stands for several, and unseen pairs have a test of their own.
        parts = known[..., 1:] if name == PICKUP else known.cumsum(axis=-1)[..., :-1]
        found[name] = Shares(_divide(parts, rides), rides)
    return found


def judge(baseline: Baseline, counts: RideCounts) -> list[Finding]:
    """Return the outcome of each test, the largest excess first; nothing if there are too few rides."""
    total = counts.rides + counts.without_distance + counts.rejected
    if total < LEAST_RIDES:
        return []
    findings = [_judge_share(name, getattr(counts, name), total, most) for name, most in SHARED.items()]
    scale = find_scale(baseline, counts.rides)
    if scale:
        usual = find_shares(baseline.counts)
        for name, shares in find_shares(counts.counts).items():
            if shares.rides and name in scale.limits:
                findings.append(_judge_shares(name, shares, usual[name], scale))
    return sorted(findings, key=lambda one: -one.excess)


def find_scale(baseline: Baseline, rides: int) -> Scale | None:
    """Return the scale with the largest windows that have at most this number of rides; None if all have more."""
    return max((one for one in baseline.scales if one.rides <= rides), key=lambda one: one.rides, default=None)


def find_deviations(shares: Shares, usual: Shares, deviations: Floats) -> Floats:
    """Return how far shares are from the usual ones, in standard deviations.

    These are the larger of ``deviations`` and of the standard deviation that chance alone gives this number of rides.
    """
    likely = (usual.values * usual.rides + 1) / (usual.rides + 2)
    chance = np.sqrt(likely * (1 - likely) / np.asarray(shares.rides)[..., None])
    distances: Floats = (shares.values - usual.values) / np.maximum(deviations, chance)
    return distances


def _judge_shares(name: str, shares: Shares, usual: Shares, scale: Scale) -> Finding:
    found = find_deviations(shares, usual, np.array(scale.deviations[name]))
    # Fewer unseen pairs are good, and rides that the model was trained on have none.
    size = found if name == UNSEEN_PAIRS else np.abs(found)
    place = int(size.argmax())
    return Finding(
        name, float(size[place]), scale.limits[name], place, *(float(one.values[place]) for one in (shares, usual))
    )


def _judge_share(name: str, part: int, total: int, most: float) -> Finding:
    share = part / total
    return Finding(name, (share - most) / np.sqrt(most * (1 - most) / total), 4.0, 0, share, most)


def _divide(parts: Floats, rides: Any) -> Floats:
    with np.errstate(invalid="ignore"):
        shares: Floats = parts / np.asarray(rides)[..., None]
    return shares
