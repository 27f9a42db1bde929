"""A linear model: the sum of weighted columns and the intercept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from served.arrays import Arrays, Floats, FormError
from served.columns import Column


class Linear:
    """Predicts the sum of all columns, each times its weight, and the intercept."""

    kind = "linear"

    def __init__(self, columns: Sequence[Column], weights: Floats) -> None:
        """Take the columns, and a weight for each; the last weight is the intercept."""
        self.columns = columns
        self._weights = weights

    def __call__(self, rides: Sequence[Mapping[str, Any]]) -> Floats:
        """Return a double for each ride."""
        # The order of the columns is part of the form, because a sum in another order is rounded in another way.
        total = np.zeros(len(rides))
        for column, weight in zip(self.columns, self._weights, strict=False):
            total += column.read(rides) * weight
        total += self._weights[-1]
        return total

    def thresholds(self, _: int) -> Floats:
        """Return the thresholds of a column: a linear model has no thresholds."""
        return np.zeros(0)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays besides those of the columns."""
        return {"weights": self._weights}

    @classmethod
    def read(cls, columns: Sequence[Column], arrays: Arrays) -> "Linear":
        """Return the model that the arrays hold. Raises FormError."""
        weights = arrays.floats("weights")
        if len(weights) != len(columns) + 1:
            raise FormError(f"it has {len(weights)} weights for {len(columns)} columns and the intercept")
        return cls(columns, weights)
