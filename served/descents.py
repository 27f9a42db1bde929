"""Two ways to find the leaf of each tree in which a ride ends: step by step, or by sets of leaves.

Both work on ranks. The rank of a number is how many of its column's limits are below the number. A ride goes to a
node's second child if ``low < x <= high``, which is true if the rank of x is in a range.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from served.arrays import Floats, Integers

STEP = np.dtype([("column", np.int32), ("low", np.int32), ("width", np.uint32), ("first", np.int32)])
"""A node: the column and the ranks of its test, and its first child. It has 16 bytes, which numpy copies together."""
LEVELS = 8
"""After every eight levels, paths that have ended are left out. To do so after each level costs more than it saves."""
MAX_LEAVES = 64
"""The most leaves of a tree for sets of leaves: a set is an integer of 64 bits, one for each leaf."""
MAX_CELLS = 2_000_000
"""The most sets in all tables together: 16 MB. 400 trees over eight columns with 255 limits each need 0.8 million."""
EXPONENT_BITS, EXPONENT_OF_ONE = 52, 1023
"""The place of the exponent in the bits of a double, and the exponent of 1.0."""

Nodes = Mapping[str, NDArray[Any]]


def find_limits(nodes: Nodes, columns: int) -> list[Floats]:
    """Return the limits of each column's tests, in order, each once. The last one is infinity."""
    limits = []
    for column in range(columns):
        is_test = nodes["column"] == column
        limits.append(np.unique(np.concatenate([nodes["low"][is_test], nodes["high"][is_test], [np.inf]])))
    return limits


class StepByStep:
    """Walks down all trees, one level at a time."""

    def __init__(self, nodes: Nodes, limits: Sequence[Floats], depth: int) -> None:
        """Take the nodes, the limits of each column, and the depth of the deepest tree."""
        self._roots, self._values, self._depth = nodes["roots"], nodes["value"], depth
        self._steps = np.zeros(len(nodes["first"]), STEP)
        self._steps["column"], self._steps["first"] = nodes["column"], nodes["first"]
        for column, ordered in enumerate(limits):
            tests = np.flatnonzero(nodes["column"] == column)
            low, high = (ordered.searchsorted(nodes[name][tests], side="right") for name in ("low", "high"))
            self._steps["low"][tests], self._steps["width"][tests] = low, np.maximum(high - low, 0)

    def find(self, ranks: Integers) -> Floats:
        """Return the values of the leaves, a row for each ride, for ranks with a row for each column."""
        rides, trees = np.int32(ranks.shape[1]), len(self._roots)
        flat = ranks.ravel()
        node, ride = np.repeat(self._roots, rides), np.tile(np.arange(rides, dtype=np.int32), trees)
        paths, leaves = np.arange(len(node)), np.empty_like(node)
        for level in range(1, self._depth + 1):
            step, before = self._steps.take(node), node
            rank = flat.take(step["column"] * rides + ride)
            # A negative difference becomes a huge unsigned integer, so one comparison tests both ends of the range.
            node = step["first"] + ((rank - step["low"]).view(np.uint32) < step["width"])
            if level % LEVELS == 0:
                leaves[paths] = node
                # A leaf leads to itself, so its path has ended.
                going = np.flatnonzero(node != before)
                node, ride, paths = node[going], ride[going], paths[going]
        leaves[paths] = node
        values: Floats = self._values.take(leaves.reshape(trees, rides)).T
        return values


class LeafSets:
    """Looks up, for each column, which leaves of each tree a rank can lead to. One leaf of a tree is in all sets."""

    def __init__(
        self, nodes: Nodes, limits: Sequence[Floats], levels: Sequence[Integers], trees: NDArray[np.intp]
    ) -> None:
        """Take the nodes, each column's limits, the inner nodes of each level, and the number of each node's tree."""
        first, roots = nodes["first"], nodes["roots"]
        leaves = np.flatnonzero(first == np.arange(len(first)))
        leaves = leaves[np.argsort(trees[leaves], kind="stable")]
        starts = np.searchsorted(trees[leaves], np.arange(len(roots)))
        sets = np.zeros(len(first), np.uint64)
        sets[leaves] = np.left_shift(np.uint64(1), (np.arange(len(leaves)) - starts[trees[leaves]]).astype(np.uint64))
        for level in reversed(levels):
            sets[level] = sets[first[level]] | sets[first[level] + 1]
        self._values, self._starts = nodes["value"][leaves], starts - EXPONENT_OF_ONE
        self._tables = []
        inner = np.concatenate([*levels, roots[:0]])
        for column, ordered in enumerate(limits):
            tests = inner[nodes["column"][inner] == column]
            at = ordered.searchsorted(nodes["low"][tests])
            above, below = (np.tile(sets[roots], (len(ordered) + 1, 1)) for _ in range(2))
            # A rank above the limit excludes the leaves under the first child, and any other rank the second child's.
            np.bitwise_and.at(above, (at + 1, trees[tests]), ~sets[first[tests]])
            np.bitwise_and.at(below, (at, trees[tests]), ~sets[first[tests] + 1])
            np.bitwise_and.accumulate(above, out=above)
            np.bitwise_and.accumulate(below[::-1], out=below[::-1])
            self._tables.append(above & below)

    def find(self, ranks: Integers) -> Floats:
        """Return the values of the leaves, a row for each ride, for ranks with a row for each column."""
        sets = self._tables[0].take(ranks[0], axis=0)
        for table, rank in zip(self._tables[1:], ranks[1:], strict=True):
            sets &= table.take(rank, axis=0)
        # A set of one leaf is a power of two, and its exponent as a double is the leaf's number.
        numbers = sets.astype(np.float64).view(np.int64) >> EXPONENT_BITS
        values: Floats = self._values.take(numbers + self._starts)
        return values


def number_trees(nodes: Nodes, levels: Sequence[Integers]) -> NDArray[np.intp]:
    """Return, for each node, the number of the tree that has it."""
    trees = np.zeros(len(nodes["first"]), np.intp)
    trees[nodes["roots"]] = np.arange(len(nodes["roots"]))
    for level in levels:
        trees[nodes["first"][level]] = trees[nodes["first"][level] + 1] = trees[level]
    return trees


def choose(nodes: Nodes, limits: Sequence[Floats], levels: Sequence[Integers]) -> StepByStep | LeafSets:
    """Return the faster way for these trees. Sets of leaves are faster, but only small trees have few enough sets."""
    is_inner = nodes["first"] != np.arange(len(nodes["first"]))
    cells = sum(len(ordered) + 1 for ordered in limits) * len(nodes["roots"])
    if cells <= MAX_CELLS and np.isposinf(nodes["high"][is_inner]).all():
        trees = number_trees(nodes, levels)
        if np.bincount(trees[~is_inner]).max() <= MAX_LEAVES:
            return LeafSets(nodes, limits, levels, trees)
    return StepByStep(nodes, limits, len(levels))
