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
UNSEEN_PAIRS, WITHOUT_DISTANCE, REJECTED = "unseen_pairs", "without_distance", "rejected"
"""The shares of rides whose pair of zones no training ride has, of rides of 0 miles, and of rides without a prediction.
Only a larger share is drift: a smaller share is good, and of the rides that the model was trained on, it is 0."""
ONE_SIDED = (UNSEEN_PAIRS, WITHOUT_DISTANCE)
MOST_REJECTED = 0.01
"""The largest share of rejected rides that is accepted. Training rides cannot say which share is usual, because their
files have no ride that a stream would reject because it cannot be read."""
REJECTED_LIMIT = 4.0
"""A share of rejected rides is drift if it exceeds ``MOST_REJECTED`` by more than this many standard deviations."""


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


def find_shares(counts: Mapping[str, Any], without_distance: Any) -> dict[str, Shares]:
    """Return the shares of each test for histograms, or for an array of histograms of several windows each.

    ``without_distance`` is the number of rides of 0 miles, which are in no histogram; of each window, if several.
    """
    found: dict[str, Shares] = {}
    cells: dict[str, Any] = {name: np.asarray(cell, float) for name, cell in counts.items()}
    rides = np.zeros_like(without_distance)
    if PREDICTION in cells or UNSEEN in cells:
        seen, unseen = (cells.get(name, np.zeros(1)) for name in (PREDICTION, UNSEEN))
        cells[PREDICTION] = seen + unseen
        rides = cells[PREDICTION].sum(axis=-1)
        found[UNSEEN_PAIRS] = Shares(_divide(unseen.sum(axis=-1)[..., None], rides), rides)
    total = rides + without_distance
    found[WITHOUT_DISTANCE] = Shares(_divide(np.asarray(without_distance, float)[..., None], total), total)
    for name in (DISTANCE, RATIO, PREDICTION, HOUR, PICKUP):
        if name not in cells:
            continue
        known = cells[name][..., :-1] if name == RATIO else cells[name]
        rides = known.sum(axis=-1)
        # The first zone stands for several.
        parts = known[..., 1:] if name == PICKUP else known.cumsum(axis=-1)[..., :-1]
        found[name] = Shares(_divide(parts, rides), rides)
    return found


def judge(baseline: Baseline, counts: RideCounts, usual: Mapping[str, Shares] | None = None) -> list[Finding]:
    """Return the outcome of each test, the largest excess first; nothing if there can be no verdict.

    A caller that judges often passes ``usual``, which is ``find_usual_shares(baseline)``, to save its computation.
    """
    if explain_no_verdict(baseline, counts):
        return []
    findings = [_judge_rejected(counts)]
    scale = find_scale(baseline, counts.rides + counts.without_distance)
    if scale:
        usual = usual or find_usual_shares(baseline)
        for name, shares in find_shares(counts.counts, counts.without_distance).items():
            if shares.rides and name in scale.limits:
                findings.append(_judge_shares(name, shares, usual[name], scale))
    return sorted(findings, key=lambda one: -one.excess)


def find_usual_shares(baseline: Baseline) -> dict[str, Shares]:
    """Return the shares of the training rides."""
    return find_shares(baseline.counts, baseline.without_distance)


def explain_no_verdict(baseline: Baseline, counts: RideCounts) -> str | None:
    """Return why there can be no verdict; None if there can be one."""
    if not baseline.scales:
        return (
            f"the model's baseline has {baseline.rides:,} rides, which are too few to know how much windows of them"
            " differ: train the model on more rides"
        )
    total = counts.rides + counts.without_distance + counts.rejected
    return f"{total:,} rides are too few: a verdict needs {LEAST_RIDES}" if total < LEAST_RIDES else None


def find_scale(baseline: Baseline, rides: int) -> Scale | None:
    """Return the scale with the largest windows that have at most this number of rides; None if all are larger."""
    return max((one for one in baseline.scales if one.rides <= rides), key=lambda one: one.rides, default=None)


def find_deviations(shares: Shares, usual: Shares, deviations: Floats) -> Floats:
    """Return how far shares are from the usual ones, in standard deviations.

    The standard deviation of a share is that of ``deviations``, or that of chance at this number of rides, whichever is
    larger.
    """
    likely = (usual.values * usual.rides + 1) / (usual.rides + 2)
    chance = np.sqrt(likely * (1 - likely) / np.asarray(shares.rides)[..., None])
    distances: Floats = (shares.values - usual.values) / np.maximum(deviations, chance)
    return distances


def find_sizes(name: str, distances: Floats) -> Floats:
    """Return how far shares are from the usual ones in the directions that are drift."""
    return distances if name in ONE_SIDED else np.abs(distances)


def _judge_shares(name: str, shares: Shares, usual: Shares, scale: Scale) -> Finding:
    sizes = find_sizes(name, find_deviations(shares, usual, np.array(scale.deviations[name])))
    place = int(sizes.argmax())
    return Finding(
        name, float(sizes[place]), scale.limits[name], place, *(float(one.values[place]) for one in (shares, usual))
    )


def _judge_rejected(counts: RideCounts) -> Finding:
    total = counts.rides + counts.without_distance + counts.rejected
    share = counts.rejected / total
    chance = float(np.sqrt(MOST_REJECTED * (1 - MOST_REJECTED) / total))
    return Finding(REJECTED, (share - MOST_REJECTED) / chance, REJECTED_LIMIT, 0, share, MOST_REJECTED)


def _divide(parts: Floats, rides: Any) -> Floats:
    with np.errstate(invalid="ignore"):
        shares: Floats = parts / np.asarray(rides)[..., None]
    return shares
