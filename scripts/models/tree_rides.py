"""Rides to the nodes of trees: to each leaf, and with each name to the tests that the name only just passes or fails.

The features of such a ride may contradict each other, as no real ride's do: a form and its pipeline must agree on them
all the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import SAMPLE_FEATURES
from scripts.models.limits import largest_up_to, smallest_above
from served.arrays import Floats
from served.columns import Category, Column, Number
from served.trees import Trees

UNSEEN = "no pair of zones"
"""A name that no category has."""
BOXES_AT_ONCE = 1_000
"""The number of boxes that are compared with all names at a time. It takes 7 MB for 7,000 pairs of zones."""

Flags = NDArray[np.bool_]


def leaf_rides(trees: Trees) -> list[dict[str, Any]]:
    """Return two rides to each leaf: with the largest and with the smallest numbers that lead to the leaf.

    So each test of each tree gets rides directly at its threshold, for which the test makes a difference. A leaf gets
    no ride if its tests exclude each other, or if no name has values for all of them.
    """
    lows, highs = _find_ranges(trees)
    first = trees.arrays()["first"]
    leaves = np.flatnonzero(first == np.arange(len(first)))
    found: dict[tuple[Any, ...], None] = {}
    for at_high in (True, False):
        values, is_possible = _fill(trees.columns, lows[:, leaves], highs[:, leaves], at_high=at_high)
        rides = list(zip(*values.values(), strict=True))
        found |= dict.fromkeys(rides[at] for at in np.flatnonzero(is_possible).tolist())
    return [{**SAMPLE_FEATURES, **dict(zip(values, ride, strict=True))} for ride in found]


def name_rides(trees: Trees) -> list[dict[str, Any]]:
    """Return rides with each name of each category to tests of the next thresholds below and above the name's value.

    A name with a wrong value that is on the other side of one threshold changes the prediction of such a ride. A name
    gets no ride for a threshold if its other values keep it away from all tests with this threshold.
    """
    lows, highs = _find_ranges(trees)
    nodes = trees.arrays()
    values, is_test = _fill(trees.columns, lows, highs, at_high=False)
    is_test &= (nodes["first"] != np.arange(len(is_test))) & np.isposinf(nodes["high"])
    found = []
    for place, column in enumerate(trees.columns):
        if isinstance(column, Number):
            continue
        limits, (places, categories) = trees.thresholds(place), _find_categories(trees.columns, column.feature)
        names, numbers = _tabulate(categories)
        name_ranks = limits.searchsorted(numbers[places.index(place)])
        tests = np.flatnonzero(is_test & (nodes["column"] == place))
        test_ranks = limits.searchsorted(nodes["low"][tests])
        for rank in np.unique(test_ranks).tolist():
            here = tests[test_ranks == rank]
            near = np.flatnonzero((name_ranks == rank) | (name_ranks == rank + 1))
            # A name beside the threshold reaches the test if its values in the other columns do.
            others = [row for row, other in enumerate(places) if other != place]
            low, high = (limit[:, here][[places[row] for row in others]] for limit in (lows, highs))
            fits = _fit(numbers[others][:, near], low, high)
            reaching = fits.any(axis=0)
            for name, test in zip(near[reaching].tolist(), here[fits.argmax(axis=0)[reaching]].tolist(), strict=True):
                ride = {feature: of_feature[test] for feature, of_feature in values.items()}
                found.append({**SAMPLE_FEATURES, **ride, column.feature: names[name]})
    return found


def _find_ranges(trees: Trees) -> tuple[Floats, Floats]:
    """Return two arrays with a row for each column and an element for each node: ``low < x <= high`` leads there."""
    nodes = trees.arrays()
    first = nodes["first"]
    lows = np.full((len(trees.columns), len(first)), -np.inf)
    highs = np.full_like(lows, np.inf)
    level = nodes["roots"]
    while len(level := level[first[level] != level]):
        column, low, high = nodes["column"][level], nodes["low"][level], nodes["high"][level]
        left, right = first[level], first[level] + 1
        for child in (left, right):
            lows[:, child], highs[:, child] = lows[:, level], highs[:, level]
        lows[column, right] = np.maximum(lows[column, level], low)
        highs[column, right] = np.minimum(highs[column, level], high)
        # The first child of a test for one name gets all other names, so its range stays as it was.
        highs[column, left] = np.minimum(highs[column, level], np.where(np.isposinf(high), low, np.inf))
        level = np.concatenate([left, right])
    return lows, highs


def _fill(
    columns: Sequence[Column], lows: Floats, highs: Floats, *, at_high: bool
) -> tuple[dict[str, list[Any]], Flags]:
    """Return a value of each feature for each box of ranges, and which boxes such values exist for."""
    values: dict[str, list[Any]] = {}
    is_possible: Flags = np.asarray((lows < highs).all(axis=0))
    for feature in dict.fromkeys(column.feature for column in columns):
        places, categories = _find_categories(columns, feature)
        if categories:
            values[feature], exists = _find_names(categories, lows[places], highs[places], at_high)
            is_possible &= exists
    for place, column in enumerate(columns):
        if isinstance(column, Number):
            values[column.feature] = _find_numbers(column, lows[place], highs[place], at_high)
    return values, is_possible


def _find_categories(columns: Sequence[Column], feature: str) -> tuple[list[int], list[Category]]:
    """Return the places of a feature's categories, and these columns."""
    found = {
        place: column
        for place, column in enumerate(columns)
        if isinstance(column, Category) and column.feature == feature
    }
    return list(found), list(found.values())


def _tabulate(categories: Sequence[Category]) -> tuple[list[str], Floats]:
    """Return the names of all columns of a category in the order of the first column, and their values by column."""
    tables = [dict(zip(*column.names_and_values(), strict=True)) for column in categories]
    names = [UNSEEN, *dict.fromkeys(name for table in tables for name in table)]
    pairs = zip(tables, categories, strict=True)
    numbers = np.array([[table.get(name, column.other) for name in names] for table, column in pairs])
    order = np.argsort(numbers[0], kind="stable")
    return [names[at] for at in order], numbers[:, order]


def _fit(numbers: Floats, lows: Floats, highs: Floats) -> Flags:
    """Return which names, in columns, have values inside which boxes, in rows. All arguments have a row a column."""
    fits = np.ones((lows.shape[1], numbers.shape[1]), bool)
    for number, low, high in zip(numbers, lows, highs, strict=True):
        fits &= (low[:, np.newaxis] < number) & (number <= high[:, np.newaxis])
    return fits


def _find_names(categories: Sequence[Category], lows: Floats, highs: Floats, at_high: bool) -> tuple[list[str], Flags]:
    """Return, for each box, the last or the first name with values inside the box, and whether there is such a name."""
    names, numbers = _tabulate(categories)
    if at_high:
        names, numbers = names[::-1], numbers[:, ::-1]
    found: list[str] = []
    exists = np.zeros(lows.shape[1], bool)
    for at in range(0, lows.shape[1], BOXES_AT_ONCE):
        part = slice(at, at + BOXES_AT_ONCE)
        fits = _fit(numbers, lows[:, part], highs[:, part])
        found += [names[place] for place in fits.argmax(axis=1)]
        exists[part] = fits.any(axis=1)
    return found, exists


def _find_numbers(number: Number, low: Floats, high: Floats, at_high: bool) -> list[float]:
    """Return the largest or the smallest number of each range, or the other one if the range is infinite there."""
    largest, smallest = largest_up_to(high, single=number.single), smallest_above(low, single=number.single)
    is_at_high = ~np.isposinf(high) if at_high else np.isneginf(low)
    ordinary: Any = dict(SAMPLE_FEATURES)[number.feature]
    numbers = np.where(np.isneginf(low) & np.isposinf(high), ordinary, np.where(is_at_high, largest, smallest))
    return [float(value) for value in numbers]
