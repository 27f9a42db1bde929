"""Counts of the rides that a model has seen, in its baseline's bins. They add up over batches, processes and shards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from baselines import Bins

if TYPE_CHECKING:
    from features import Features


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
        if self.baseline != other.baseline:
            raise ValueError(f"these rides were counted with two baselines, {self.baseline} and {other.baseline}")
        names = {**self.counts, **other.counts}
        counts = {
            name: [a + b for a, b in zip(self.counts[name], other.counts[name], strict=True)]
            if name in self.counts and name in other.counts
            else self.counts.get(name) or other.counts[name]
            for name in names
        }
        return RideCounts(
            self.baseline,
            self.rides + other.rides,
            self.without_distance + other.without_distance,
            self.rejected + other.rejected,
            counts,
        )


class Counter:
    """Adds up the rides of a batch, or of many. It is not for several threads at once."""

    def __init__(self, bins: Bins) -> None:
        """Begin with no rides."""
        self._bins = bins
        self._cells = np.zeros(bins.size, np.intp)
        self._rides = self._without_distance = 0
        self.rejected = 0

    def add(self, features: "Sequence[Features]", values: "Sequence[float]") -> None:
        """Count rides with their predicted values, which are finite."""
        miles = [one["trip_distance"] for one in features]
        if 0.0 in miles:
            kept = [(one, value) for one, value in zip(features, values, strict=True) if one["trip_distance"]]
            self._without_distance += len(features) - len(kept)
            features, values = [one for one, _ in kept], [value for _, value in kept]
        if features:
            self._rides += len(features)
            self._cells += self._bins.count(features, values)

    def total(self) -> RideCounts:
        """Return the counts so far."""
        cells = {name: self._cells[part].tolist() for name, part in self._bins.slices.items()}
        counts = {name: found for name, found in cells.items() if any(found)}
        return RideCounts(self._bins.name, self._rides, self._without_distance, self.rejected, counts)
