"""Counts of the rides that a model has seen, in its baseline's bins. They add up over batches, processes and shards."""

import operator
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from baselines import Bins, Cells
from served.arrays import Floats

if TYPE_CHECKING:
    from rides import Ride


KEY = "RideCounts"
"""The name of a batch's counts in its metrics line."""


class RideCounts(Struct, frozen=True, omit_defaults=True):
    """The counts of the rides of one batch, or of several. The metrics line has them as JSON, under ``KEY``."""

    baseline: str
    """The first digits of the digest of the baseline whose bins these are."""
    rides: int = 0
    """The rides in the histograms: predicted, and longer than 0 miles."""
    without_distance: int = 0
    """Predicted rides of 0 miles. Models are not trained on such rides, so they are in no histogram."""
    rejected: int = 0
    """Rides without a prediction."""
    counts: dict[str, list[int]] = {}
    """The histograms by their names in ``baselines.VARIABLES``. A histogram without rides is left out."""

    def __add__(self, other: "RideCounts") -> "RideCounts":
        """Return the counts of both. Raises ValueError if they have the bins of different baselines."""
        return self._combine(other, operator.add)

    def __sub__(self, other: "RideCounts") -> "RideCounts":
        """Return the counts since ``other``, which the same counters had earlier.

        Raises ValueError if they have the bins of different baselines, or if the counters were reset in between.
        """
        found = self._combine(other, operator.sub)
        if min(found.rides, found.without_distance, found.rejected, *map(min, found.counts.values())) < 0:
            raise ValueError("there were more rides earlier: the counters were reset in between, as by a restart")
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


FEW = 16
"""Up to this number of rides are counted one by one. For one ride, numpy would take several times as long."""


class Counter:
    """Counts the rides of one batch, or of several. It is not thread-safe."""

    def __init__(self, bins: Bins) -> None:
        """Begin without rides."""
        self.bins = bins
        self.few: list[int] = []
        """The cells of the rides that were counted one by one."""
        self.many: Cells | None = None
        """The numbers of all other rides in each cell."""
        self.predicted = self.rejected = 0

    def add(self, rides: "Sequence[Ride]", values: "Sequence[float] | Floats", hours: Sequence[float] = ()) -> None:
        """Count rides with their predicted values, which are finite, and with the hours if the model wants the time."""
        if len(rides) <= FEW:
            self.few += self.bins.find(rides, values, hours)
        else:
            self._add(self.bins.count(rides, values, hours))
        self.predicted += len(rides)

    def merge(self, other: "Counter") -> None:
        """Count the rides of another counter too."""
        self.few += other.few
        if other.many is not None:
            self._add(other.many)
        self.predicted += other.predicted
        self.rejected += other.rejected

    def total(self) -> RideCounts:
        """Return the counts so far."""
        if self.few:
            self._add(np.bincount(self.few, minlength=self.bins.size))
            self.few = []
        if self.many is None:
            return RideCounts(self.bins.name, rejected=self.rejected)
        cells: list[int] = self.many.tolist()
        every = {name: cells[part] for name, part in self.bins.slices.items()}
        counts = {name: found for name, found in every.items() if any(found)}
        return RideCounts(self.bins.name, self.predicted - cells[-1], cells[-1], self.rejected, counts)

    def _add(self, cells: Cells) -> None:
        # Never in place, because several counters may share an array.
        self.many = cells if self.many is None else self.many + cells
