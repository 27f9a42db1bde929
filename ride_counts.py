"""Counts of the rides that a model has seen, in its baseline's bins. They add up over batches, processes and shards."""

import operator
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from baselines import Bins

if TYPE_CHECKING:
    from features import Features


KEY = "RideCounts"
"""The name that the counts of a batch have in its line of metrics."""


class RideCounts(Struct, frozen=True, omit_defaults=True):
    """What one batch, or many, had in it. A line of a log has it as JSON, under ``KEY``."""

    baseline: str
    """The first digits of the digest of the baseline whose bins these are."""
    rides: int = 0
    """The rides in the histograms: predicted, and longer than 0 miles."""
    without_distance: int = 0
    """Predicted rides of 0 miles. Models are not trained on such rides, so they are in no histogram."""
    rejected: int = 0
    """Rides without a prediction."""
    counts: dict[str, list[int]] = {}
    """The histograms by their names in ``baselines.VARIABLES``. One without rides is left out."""

    def __add__(self, other: "RideCounts") -> "RideCounts":
        """Return the counts of both. Raises ValueError if they have the bins of different baselines."""
        return self._combine(other, operator.add)

    def __sub__(self, other: "RideCounts") -> "RideCounts":
        """Return the counts since ``other``, which the same counters had earlier.

        Raises ValueError if they have the bins of different baselines, or if the counters began anew in between.
        """
        found = self._combine(other, operator.sub)
        if min(found.rides, found.without_distance, found.rejected, *map(min, found.counts.values())) < 0:
            raise ValueError("there were more rides earlier: the counters began anew in between, as at a restart")
        return found

    def _combine(self, other: "RideCounts", combine: Callable[[int, int], int]) -> "RideCounts":
        if self.baseline != other.baseline:
            raise ValueError(f"these rides were counted with two baselines, {self.baseline} and {other.baseline}")
        counts = {}
        for name in {**self.counts, **other.counts}:
            mine, theirs = self.counts.get(name), other.counts.get(name)
            pairs = zip(mine or repeat(0), theirs or repeat(0), strict=bool(mine and theirs))
            if any(found := [combine(*pair) for pair in pairs]):
                counts[name] = found
        rides = combine(self.rides, other.rides)
        without_distance = combine(self.without_distance, other.without_distance)
        return RideCounts(self.baseline, rides, without_distance, combine(self.rejected, other.rejected), counts)


class Counter:
    """Adds up the rides of a batch, or of many. It is not for several threads at once."""

    def __init__(self, bins: Bins) -> None:
        """Begin with no rides."""
        self.bins = bins
        self.cells = np.zeros(bins.size, np.intp)
        self.predicted = self.rejected = 0

    def add(self, features: "Sequence[Features]", values: "Sequence[float]") -> None:
        """Count rides with their predicted values, which are finite."""
        self.cells += self.bins.count(features, values)
        self.predicted += len(features)

    def merge(self, other: "Counter") -> None:
        """Count the rides of another counter too."""
        self.cells += other.cells
        self.predicted += other.predicted
        self.rejected += other.rejected

    def total(self) -> RideCounts:
        """Return the counts so far."""
        cells: list[int] = self.cells.tolist()
        every = {name: cells[part] for name, part in self.bins.slices.items()}
        counts = {name: found for name, found in every.items() if any(found)}
        return RideCounts(self.bins.name, self.predicted - cells[-1], cells[-1], self.rejected, counts)
