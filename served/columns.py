"""The columns of a served form's input: each makes a double of a ride's feature."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from served.arrays import Arrays, Floats, FormError, pack_texts

MAX_COLUMNS = 100
"""The columns of the largest form. Every batch of rides becomes a matrix with so many columns: 8 MB for 10,000 rides.

A form has a column for each feature, or a few.
"""
LARGEST, LARGEST_SINGLE = np.finfo(np.float64).max, np.float64(np.finfo(np.float32).max)
"""The largest numbers of 64 and of 32 bits that are not infinite."""


class ColumnDescription(Struct, frozen=True, forbid_unknown_fields=True):
    """A column, as the file describes it. The arrays of a category have its number in their names."""

    feature: str
    is_category: bool = False
    single: bool = False
    """Whether a number is rounded to 32 bits first, as scikit-learn's forests do."""


class Number:
    """A column that is a feature itself, such as a distance."""

    def __init__(self, feature: str, *, single: bool) -> None:
        """Take the name of the feature, and whether its values are rounded to 32 bits."""
        self.feature = feature
        self.single = single

    def read(self, rides: Sequence[Mapping[str, Any]]) -> Floats:
        """Return a double for each ride. Raises KeyError, TypeError or ValueError if one has no finite number."""
        feature = self.feature
        values = np.array([ride[feature] for ride in rides])
        # numpy would make a number of the text "130_205" too.
        if values.dtype.kind not in "biuf" or values.ndim != 1:
            raise TypeError(f"{feature} is not a number")
        # NaN is not at most the largest number either.
        if not (np.abs(values) <= (LARGEST_SINGLE if self.single else LARGEST)).all():
            raise ValueError(f"{feature} is not finite")
        return values.astype(np.float32 if self.single else np.float64).astype(np.float64)

    def describe(self) -> ColumnDescription:
        """Return the column's description."""
        return ColumnDescription(self.feature, single=self.single)

    def arrays(self, _: int) -> dict[str, NDArray[Any]]:
        """Return the column's arrays: it has none."""
        return {}


class Category:
    """A column that looks a feature up, such as the coefficient of a pair of zones."""

    def __init__(self, feature: str, names: Sequence[str], values: Floats, other: float) -> None:
        """Take the name of the feature, the value of each of its names, and the value of all other names."""
        self.feature = feature
        self.other = other
        self._values = dict(zip(names, values.tolist(), strict=True))

    def read(self, rides: Sequence[Mapping[str, Any]]) -> Floats:
        """Return a double for each ride. Raises KeyError for a ride without such a feature."""
        feature, find, other = self.feature, self._values.get, self.other
        return np.array([find(ride[feature], other) for ride in rides], np.float64)

    def names_and_values(self) -> tuple[list[str], list[float]]:
        """Return the names and their values, in order."""
        return list(self._values), list(self._values.values())

    def holds_indices(self, below: int) -> bool:
        """Return whether all values are integers from 0 to below a limit."""
        values = np.array([*self._values.values(), self.other])
        return bool(((values >= 0) & (values < below) & (values == np.floor(values))).all())

    def describe(self) -> ColumnDescription:
        """Return the column's description."""
        return ColumnDescription(self.feature, is_category=True)

    def arrays(self, number: int) -> dict[str, NDArray[Any]]:
        """Return the column's arrays; its number is in their names."""
        values = np.array([*self._values.values(), self.other], np.float64)
        return {f"names {number}": pack_texts(list(self._values)), f"values {number}": values}


Column = Number | Category


def read_column(description: ColumnDescription, number: int, arrays: Arrays) -> Column:
    """Return the column of a description and of the arrays with its number. Raises FormError."""
    if not description.is_category:
        return Number(description.feature, single=description.single)
    if description.single:
        raise FormError(f"column {number} is a category, which is not rounded")
    values = arrays.floats(f"values {number}")
    if not len(values):
        raise FormError(f"column {number} has no value for other names")
    names = arrays.texts(f"names {number}", len(values) - 1)
    return Category(description.feature, names, values[:-1], float(values[-1]))
