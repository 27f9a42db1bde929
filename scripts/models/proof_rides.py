"""The rides for which the predictions of a served form and of its pipeline are compared.

They are chosen pairs with chosen distances, random rides, rides at each threshold, and rides to the leaves of the trees
and to the cells of the table.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from features import SAMPLE_FEATURES
from rides import MAX_TRIP_DISTANCE
from scripts.models.limits import largest_up_to, smallest_above
from served.arrays import Floats
from served.columns import Category, Number
from served.forms import Form
from served.tables import Table
from served.trees import Trees

RANDOM_RIDES = 100_000
MAX_DRAWN_RIDES = 100_000
"""The most rides to the leaves of trees, and to the cells of a table. If there are more, they are drawn at random."""
GOLDEN_DISTANCES = (0.0, 5e-324, 1e-9, 0.01, 0.7, 1 / 3, 1.37, 2.06, 3.66, 7.3, 18.41, 59.99, 99.99, 100.0)
"""Miles: the limits of the contract, the smallest double, and ordinary trips."""
GOLDEN_PAIRS = 1_000
UNSEEN = "no pair of zones"
UNSEEN_PAIRS = (UNSEEN, "0_0", "130_999999", "-1_205", "", "130_205 ", "\u0664_\u0665")
"""Names that are not pairs of zones in any model's training rides."""


def proof_rides(form: Form, trees: Trees | None) -> Iterator[dict[str, Any]]:
    """Yield the features of all rides to compare. ``trees`` are the trees from which the form was made, if any."""
    draw = np.random.default_rng(0)
    # The random rides take the pairs in turn, so that each known pair has its share of them.
    pairs = draw.permutation(np.array([*known_pairs(form), UNSEEN], object)).tolist()
    for pair in [*UNSEEN_PAIRS, *pairs[:GOLDEN_PAIRS]]:
        yield from (_ride(pair, miles) for miles in GOLDEN_DISTANCES)
    yield from _random_rides(draw, pairs)
    for number, miles in enumerate(_distances_at_thresholds(form)):
        yield _ride(pairs[number % len(pairs)], miles)
        yield _ride(UNSEEN, miles)
    if trees:
        rides = leaf_rides(trees)
        draw.shuffle(rides)
        yield from rides[:MAX_DRAWN_RIDES]
    if isinstance(form, Table):
        yield from _cell_rides(draw, form)


def known_pairs(form: Form) -> list[str]:
    """Return the pairs of zones that a form knows, in order."""
    categories = [column for column in form.columns if isinstance(column, Category) and column.feature == "PU_DO"]
    return sorted({name for column in categories for name in column.names_and_values()[0]})


def _random_rides(draw: np.random.Generator, pairs: Sequence[str]) -> Iterator[dict[str, Any]]:
    uniform = draw.uniform(0, MAX_TRIP_DISTANCE, RANDOM_RIDES)
    # Half of the distances have two digits, as a taximeter's do.
    ordinary = draw.lognormal(0.7, 0.9, RANDOM_RIDES).round(2).clip(max=MAX_TRIP_DISTANCE)
    every_miles = np.where(draw.random(RANDOM_RIDES) < 0.5, uniform, ordinary).tolist()
    zones = draw.integers(0, 300, (RANDOM_RIDES, 2)).tolist()
    # One ride in ten has random zones, which are rarely a known pair.
    has_any_zones = (draw.random(RANDOM_RIDES) < 0.1).tolist()
    for number, (miles, (pickup, dropoff)) in enumerate(zip(every_miles, zones, strict=True)):
        yield _ride(f"{pickup}_{dropoff}" if has_any_zones[number] else pairs[number % len(pairs)], miles)


def _distances_at_thresholds(form: Form) -> list[float]:
    """Return each threshold that is a possible distance, and the doubles and 32-bit numbers directly beside it."""
    found = [form.thresholds(place) for place, column in enumerate(form.columns) if isinstance(column, Number)]
    limits = np.unique(np.concatenate([np.zeros(0), *found]))
    beside = [limits, np.nextafter(limits, -np.inf), smallest_above(limits, single=False)]
    single = largest_up_to(limits, single=True)
    beside += [single, np.nextafter(single, -1, dtype=np.float32), smallest_above(limits, single=True)]
    every = np.unique(np.concatenate(beside))
    distances: list[float] = every[(every >= 0) & (every <= MAX_TRIP_DISTANCE)].tolist()
    return distances


def _ride(pair: str, miles: float) -> dict[str, Any]:
    return {**SAMPLE_FEATURES, "PU_DO": pair, "trip_distance": miles}


def _cell_rides(draw: np.random.Generator, table: Table) -> Iterator[dict[str, Any]]:
    """Yield rides to cells, with the smallest number of each interval: the table was made with the largest number."""
    category, number = table.columns
    names = [UNSEEN, *(category.names_and_values()[0] if isinstance(category, Category) else [])]
    limits, single = table.thresholds(1), isinstance(number, Number) and number.single
    numbers = np.concatenate([largest_up_to(limits[:1], single=single), smallest_above(limits, single=single)]).tolist()
    for cell in draw.permutation(len(names) * len(numbers))[:MAX_DRAWN_RIDES].tolist():
        row, column = divmod(cell, len(numbers))
        yield {**SAMPLE_FEATURES, category.feature: names[row], number.feature: numbers[column]}


def leaf_rides(trees: Trees) -> list[dict[str, Any]]:
    """Return two rides to each leaf: with the largest and with the smallest numbers that lead to the leaf.

    So each test of each tree gets rides directly at its threshold, for which the test makes a difference.
    """
    lows, highs = _find_ranges(trees)
    rides = []
    for at_high in (True, False):
        values = [
            _find_names(column, low) if isinstance(column, Category) else _find_numbers(column, low, high, at_high)
            for column, low, high in zip(trees.columns, lows, highs, strict=True)
        ]
        rides += list(dict.fromkeys(zip(*values, strict=True)))
    names = [column.feature for column in trees.columns]
    return [{**SAMPLE_FEATURES, **dict(zip(names, ride, strict=True))} for ride in dict.fromkeys(rides)]


def _find_ranges(trees: Trees) -> tuple[Floats, Floats]:
    """Return two arrays with a row for each column and an element for each leaf: ``low < x <= high`` leads there."""
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
    is_reached = (first == np.arange(len(first))) & (lows < highs).all(axis=0)
    return lows[:, is_reached], highs[:, is_reached]


def _find_names(category: Category, low: Floats) -> list[str]:
    """Return the name with the smallest value above each limit."""
    names, values = category.names_and_values()
    numbers = np.array([category.other, *values])
    order = np.argsort(numbers, kind="stable")
    places = numbers[order].searchsorted(low, side="right").clip(max=len(order) - 1)
    every = np.array([UNSEEN, *names], object)
    found: list[str] = every[order[places]].tolist()
    return found


def _find_numbers(number: Number, low: Floats, high: Floats, at_high: bool) -> list[float]:
    """Return the largest or the smallest number of each range, or the other one if the range is infinite there."""
    largest, smallest = largest_up_to(high, single=number.single), smallest_above(low, single=number.single)
    is_at_high = ~np.isposinf(high) if at_high else np.isneginf(low)
    ordinary: Any = dict(SAMPLE_FEATURES)[number.feature]
    numbers = np.where(np.isneginf(low) & np.isposinf(high), ordinary, np.where(is_at_high, largest, smallest))
    return [float(value) for value in numbers]
