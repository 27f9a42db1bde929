"""Findings as sentences with sizes: how much longer, which zone, which hour."""

from collections.abc import Sequence

import numpy as np

from baselines import HOUR, PICKUP, PREDICTION, RATIO, UNSEEN, Baseline
from drift import REJECTED, UNSEEN_PAIRS, WITHOUT_DISTANCE, Finding
from ride_counts import RideCounts
from scripts.models.actual_errors import ALL, ENDS, ErrorFinding
from served.arrays import Floats
from targets import DURATION

QUANTILES = np.arange(0.1, 0.95, 0.05)
"""A factor is the mean of the factors of these quantiles."""


def describe(finding: Finding, baseline: Baseline, counts: RideCounts) -> str:
    """Return the sentence for a finding of ``drift.judge``, without a full stop."""
    now = f"{finding.share:.1%} (usual: {finding.usual:.1%})"
    if finding.name == REJECTED:
        return f"{finding.share:.1%} of the rides are rejected (up to {finding.usual:.1%} is not drift)"
    if finding.name == WITHOUT_DISTANCE:
        return f"the share of rides of 0 miles is {now}"
    if finding.name == UNSEEN_PAIRS:
        return f"the share of rides of pairs that training rides do not have is {now}"
    if finding.name == PICKUP:
        change = compare_numbers(finding.share, finding.usual)
        return f"{change} rides begin in zone {baseline.pickup_zones[finding.place]}: {now}"
    if finding.name == HOUR:
        return _describe_hour(baseline.counts[HOUR], counts.counts[HOUR])
    edge = baseline.edges[finding.name][finding.place]
    if finding.name == PREDICTION:
        usual, found = (_join_predictions(one) for one in (baseline.counts, counts.counts))
        middle = [find_quantiles(baseline.edges[PREDICTION], one, np.array([0.5]))[0] for one in (found, usual)]
        return (
            f"the median prediction is {middle[0]:.4g} {baseline.unit} (usual: {middle[1]:.4g}), and the share of"
            f" predictions below {edge:.4g} is {now}"
        )
    factor = find_factor(baseline.edges[finding.name], counts.counts[finding.name], baseline.counts[finding.name])
    change = _compare_sizes(factor, "longer", "shorter")
    if finding.name == RATIO:
        return f"distances of the same pairs are {change}, and the share below {edge:g} of the usual distance is {now}"
    return f"distances are {change}, and the share of rides of less than {edge:g} miles is {now}"


def describe_error(finding: ErrorFinding, baseline: Baseline) -> str:
    """Return the sentence for a finding of ``actual_errors.judge_actuals``, without a full stop."""
    place = {ALL: "all zones", ENDS[0]: f"zone {finding.zone}"}.get(finding.name, f"any zone to zone {finding.zone}")
    is_duration = baseline.target == DURATION.name
    subject = f"rides from {place} take" if is_duration else f"values of {baseline.target} of rides from {place} are"
    words = ("longer", "less time") if is_duration else ("higher", "lower")
    if finding.predicted > 0:
        change = _compare_sizes(1 + finding.difference / finding.predicted, *words)
    else:
        change = f"{abs(finding.difference):.3g} {baseline.unit} {words[finding.difference < 0]}"
    count = f"{finding.rides:,} ride{'' if finding.rides == 1 else 's'}"
    return (
        f"{subject} {change} than predicted: {finding.difference:+.3g} {baseline.unit} on average in {count}"
        f" ({finding.low:+.3g} to {finding.high:+.3g})"
    )


def find_factor(edges: Sequence[float], found: Sequence[int], usual: Sequence[int]) -> float:
    """Return by what factor values above 0 have become larger, from histograms of values and of usual values."""
    logs = np.log(edges)
    now, before = (find_quantiles(logs, one[: len(edges) + 1], QUANTILES) for one in (found, usual))
    # A quantile in the first or the last bin is not known.
    is_known = ~np.isnan(now + before)
    return float(np.exp((now - before)[is_known].mean())) if is_known.any() else float("nan")


def find_quantiles(edges: Sequence[float] | Floats, counts: Sequence[int], shares: Floats) -> Floats:
    """Return quantiles of a histogram, NaN for one in its first or last bin."""
    below = np.cumsum(counts)[:-1] / max(sum(counts), 1)
    if not len(below):
        return np.full(len(shares), np.nan)
    quantiles: Floats = np.interp(shares, below, np.asarray(edges), left=np.nan, right=np.nan)
    return quantiles


def compare_numbers(share: float, usual: float) -> str:
    """Return how many times as many, or how many percent fewer."""
    return f"{share / usual:.1f} times as many" if share >= usual else f"{1 - share / usual:.0%} fewer"


def _compare_sizes(factor: float, more: str, less: str) -> str:
    if np.isnan(factor):
        return f"much {more} or {less}"
    return f"{abs(factor - 1):.1%} {more if factor >= 1 else less}"


def _describe_hour(usual: Sequence[int], found: Sequence[int]) -> str:
    shares, before = (np.array(one) / sum(one) for one in (found, usual))
    hour = int(np.abs(shares - before).argmax())
    word = "more" if shares[hour] > before[hour] else "fewer"
    return f"{word} rides begin at {hour}:00 to {hour}:59: {shares[hour]:.1%} (usual: {before[hour]:.1%})"


def _join_predictions(counts: dict[str, list[int]]) -> list[int]:
    """Return the histogram of the predictions for all pairs."""
    parts = [counts[name] for name in (PREDICTION, UNSEEN) if name in counts]
    joined: list[int] = np.sum(parts, axis=0).tolist()
    return joined
