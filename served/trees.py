"""Trees: forests and boosted trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from served.arrays import Arrays, Floats, FormError, Integers
from served.columns import Column
from served.descents import choose, find_limits

MAX_DEPTH = 200
"""The deepest tree that is read: it limits the steps of a ride. The forest of a month of rides has 20 levels."""
MAX_TREES = 10_000
"""The most trees that are read: a block has a path down each, for one ride at least."""
BLOCK = 32_768
"""How many paths are walked at a time, in rides times trees: their arrays fit into a core's cache."""


class Trees:
    """Predicts the sum of one leaf of each tree, added to a start value and divided by a divisor.

    A node's children are neighbours. A ride goes to the second one if ``low < x <= high``, where x is its value in the
    node's column: with an infinite ``high`` this is a threshold, and with a range around an integer it is the test for
    one category. A leaf is its own first child, and its limits are infinite.
    """

    kind = "trees"

    def __init__(self, columns: Sequence[Column], nodes: Mapping[str, NDArray[Any]], ends: Floats) -> None:
        """Take the columns, the arrays of all nodes by name, and the start and the divisor. Raises FormError."""
        self.columns = columns
        integers = {name: nodes[name].astype(np.int32, copy=False) for name in ("column", "first", "roots")}
        self._nodes = {**nodes, **integers}
        self._ends = ends
        levels = _check_nodes(self._nodes)
        self._limits = find_limits(self._nodes, len(columns))
        self._descent = choose(self._nodes, self._limits, levels)

    def __call__(self, rides: Sequence[Mapping[str, Any]]) -> Floats:
        """Return a double for each ride."""
        pairs = zip(self._limits, self.columns, strict=True)
        ranks = np.array([limits.searchsorted(column.read(rides)) for limits, column in pairs], np.int32)
        size = max(1, BLOCK // len(self._nodes["roots"]))
        blocks = [self._add(ranks[:, at : at + size]) for at in range(0, len(rides), size)]
        return np.concatenate([np.zeros(0), *blocks])

    def _add(self, ranks: Integers) -> Floats:
        values = self._descent.find(ranks)
        start, divisor = self._ends
        values[:, 0] += start
        # A cumulative sum adds in order. numpy's sum would add in pairs, which rounds in another way.
        total: Floats = values.cumsum(axis=1)[:, -1] / divisor
        return total

    def thresholds(self, column: int) -> Floats:
        """Return the thresholds of a column, in order, each once."""
        return np.array([low for low, _ in self.tests(column) if np.isfinite(low)])

    def tests(self, column: int) -> list[tuple[float, float]]:
        """Return the low and the high limit of each test on a column, in order, each once."""
        is_test = (self._nodes["column"] == column) & (self._nodes["first"] != np.arange(len(self._nodes["first"])))
        return sorted(
            set(zip(self._nodes["low"][is_test].tolist(), self._nodes["high"][is_test].tolist(), strict=True))
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays besides those of the columns."""
        return {**self._nodes, "ends": self._ends}

    @classmethod
    def read(cls, columns: Sequence[Column], arrays: Arrays) -> "Trees":
        """Return the trees that the arrays hold. Raises FormError."""
        value = arrays.floats("value")
        nodes: dict[str, NDArray[Any]] = {
            "value": value,
            "column": arrays.indices("column", len(columns)),
            "low": arrays.floats("low", finite=False),
            "high": arrays.floats("high", finite=False),
            "first": arrays.indices("first", len(value)),
            "roots": arrays.indices("roots", len(value)),
        }
        ends = arrays.floats("ends")
        if len(ends) != 2 or ends[1] == 0:
            raise FormError("ends is not a start and a divisor")
        return cls(columns, nodes, ends)


def _check_nodes(nodes: Mapping[str, NDArray[Any]]) -> list[Integers]:
    """Return the inner nodes of each level. Raises FormError unless all nodes are trees: each has one parent."""
    first, roots = nodes["first"], nodes["roots"]
    size = len(first)
    if not size or any(len(array) != size for name, array in nodes.items() if name != "roots"):
        raise FormError("the arrays of its nodes differ in length, or there are no nodes")
    if not 0 < len(roots) <= MAX_TREES:
        raise FormError(f"it has {len(roots)} trees, and here at least 1 and at most {MAX_TREES:,} are read")
    is_inner = first != np.arange(size)
    children = first[is_inner]
    # Every path ends, because each step leads to a node further on.
    if not ((children > np.flatnonzero(is_inner)) & (children < size - 1)).all():
        raise FormError("a node's children are not further on")
    parents = np.bincount(np.concatenate([children, children + 1, roots]), minlength=size)
    if not (parents == 1).all():
        raise FormError("a node is in no tree, or in several places")
    if not np.isposinf(nodes["low"][~is_inner]).all():
        raise FormError("a leaf has a limit")
    return _find_levels(first, roots)


def _find_levels(first: Integers, roots: Integers) -> list[Integers]:
    levels: list[Integers] = []
    level = roots
    while True:
        level = level[first[level] != level]
        if not len(level):
            return levels
        if len(levels) == MAX_DEPTH:
            raise FormError(f"a tree has more than {MAX_DEPTH} levels")
        levels.append(level)
        level = np.concatenate([first[level], first[level] + 1])
