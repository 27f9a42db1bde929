"""Trees: forests and boosted trees, all of which are walked down side by side, one level at a step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from served.arrays import Arrays, Floats, FormError, Integers
from served.columns import Column

MAX_DEPTH = 200
"""The deepest tree that is read. scikit-learn's trees without a limit rarely have more than 60 levels."""
BLOCK = 32_768
"""How many paths are walked at a time, in rides times trees: their arrays fit into a core's cache."""


class Trees:
    """Predicts the sum of one leaf of each tree, added to a start value and divided by a divisor.

    A node's children are neighbours. A ride goes to the second one if ``low < x <= high``, where x is its value in the
    node's column: with an infinite ``high`` this is a threshold, and with a range around an integer it is the test for
    one category. A leaf is its own first child, and its ``low`` is infinite.
    """

    kind = "trees"

    def __init__(self, columns: Sequence[Column], nodes: Mapping[str, NDArray[Any]], ends: Floats) -> None:
        """Take the columns, the arrays of all nodes by name, and the start and the divisor. Raises FormError."""
        self.columns = columns
        self._nodes = dict(nodes)
        self._ends = ends
        self._depth = _check_nodes(nodes)

    def __call__(self, rides: Sequence[Mapping[str, Any]]) -> Floats:
        """Return a double for each ride."""
        inputs = np.stack([column.read(rides) for column in self.columns])
        size = max(1, BLOCK // len(self._nodes["roots"]))
        blocks = [self._predict(inputs[:, at : at + size]) for at in range(0, len(rides), size)]
        return np.concatenate(blocks) if blocks else np.zeros(0)

    def _predict(self, inputs: Floats) -> Floats:
        """Return a double for each column of the inputs, whose rows are the columns of the form."""
        column, low, high, first, value = (self._nodes[name] for name in ("column", "low", "high", "first", "value"))
        rides = np.arange(inputs.shape[1])
        node = np.repeat(self._nodes["roots"][:, None], len(rides), axis=1)
        for _ in range(self._depth):
            x = inputs[column[node], rides]
            node = first[node] + ((low[node] < x) & (x <= high[node]))
        start, divisor = self._ends
        leaves = np.concatenate([np.full((1, len(rides)), start), value[node]])
        # A cumulative sum adds in order. numpy's sum would add in pairs, which rounds in another way.
        total: Floats = leaves.cumsum(axis=0)[-1] / divisor
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
        integers = {name: self._nodes[name].astype(np.int32) for name in ("column", "first", "roots")}
        return {**self._nodes, **integers, "ends": self._ends}

    @classmethod
    def read(cls, columns: Sequence[Column], arrays: Arrays) -> "Trees":
        """Return the trees that the arrays hold. Raises FormError."""
        value = arrays.floats("value")
        nodes = {
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


def _check_nodes(nodes: Mapping[str, NDArray[Any]]) -> int:
    """Return the depth of the deepest tree. Raises FormError unless all nodes are trees: each has one parent."""
    first, roots = nodes["first"], nodes["roots"]
    size = len(first)
    if not size or any(len(array) != size for name, array in nodes.items() if name != "roots"):
        raise FormError("the arrays of its nodes differ in length, or there are no nodes")
    is_inner = first != np.arange(size)
    children = first[is_inner]
    # Every path ends, because each step leads to a node further on.
    if not ((children > np.flatnonzero(is_inner)) & (children + 1 < size)).all():
        raise FormError("a node's children are not further on")
    parents = np.bincount(np.concatenate([children, children + 1, roots]), minlength=size)
    if not (parents == 1).all() or not len(roots):
        raise FormError("a node is in no tree, or in several places")
    if not np.isposinf(nodes["low"][~is_inner]).all() or np.isnan(nodes["low"]).any() or np.isnan(nodes["high"]).any():
        raise FormError("a leaf has a child, or a threshold is not a number")
    return _find_depth(first, roots)


def _find_depth(first: Integers, roots: Integers) -> int:
    level = roots
    for depth in range(MAX_DEPTH + 1):
        level = first[level][first[level] != level]
        if not len(level):
            return depth
        level = np.concatenate([level, level + 1])
    raise FormError(f"a tree has more than {MAX_DEPTH} levels")
