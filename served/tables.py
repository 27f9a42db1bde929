"""A table: the value for each category and each interval of a number.

Trees over a category and a number give the same value for all numbers between two neighbouring thresholds. So one table
takes the place of all trees, and a prediction takes one lookup.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from served.arrays import Arrays, Floats, FormError
from served.columns import Category, Column, Number


class Table:
    """Predicts the value in the row of a ride's category and the column of its number's interval."""

    kind = "table"

    def __init__(self, columns: Sequence[Column], thresholds: Floats, values: Floats) -> None:
        """Take two columns, the thresholds of the second column, and the values, of shape (categories, thresholds + 1).

        The first column's values are the numbers of rows. A number that equals a threshold is in the interval below it.
        """
        self.columns = columns
        self._thresholds = thresholds
        self._values = values

    def __call__(self, rides: Sequence[Mapping[str, Any]]) -> Floats:
        """Return a double for each ride."""
        category, number = self.columns
        rows = category.read(rides).astype(np.intp)
        return self._values[rows, self._thresholds.searchsorted(number.read(rides))]

    def thresholds(self, column: int) -> Floats:
        """Return the thresholds of a column, in order."""
        return self._thresholds if isinstance(self.columns[column], Number) else np.zeros(0)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays besides those of the columns."""
        return {"thresholds": self._thresholds, "values": self._values}

    @classmethod
    def read(cls, columns: Sequence[Column], arrays: Arrays) -> "Table":
        """Return the table that the arrays hold. Raises FormError."""
        if len(columns) != 2 or not isinstance(columns[0], Category) or not isinstance(columns[1], Number):
            raise FormError("a table has two columns, a category and a number")
        thresholds, values = arrays.floats("thresholds"), arrays.floats("values", 2)
        if not (thresholds[:-1] < thresholds[1:]).all():
            raise FormError("the thresholds are not in ascending order")
        if values.shape[1] != len(thresholds) + 1 or not columns[0].holds_indices(values.shape[0]):
            raise FormError(f"values of the shape {values.shape} do not fit {len(thresholds)} thresholds and the rows")
        return cls(columns, thresholds, values)
