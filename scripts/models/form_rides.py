"""Rides to all parts of a served form: thresholds, the leaves of trees, names, and the cells of a table."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from features import SAMPLE_FEATURES
from scripts.models.limits import largest_up_to, smallest_above
from scripts.models.tree_rides import UNSEEN, leaf_rides, name_rides
from served.columns import Category, Number
from served.forms import Form
from served.tables import Table
from served.trees import Trees

MAX_DRAWN_RIDES = 100_000
"""The most rides to the leaves of trees, to the tests of names, and to the cells of a table. If there are more, they
are drawn at random."""


def form_rides(
    draw: np.random.Generator,
    form: Form,
    trees: Trees | None,
    rides: Sequence[Mapping[str, Any]],
    unknown: Mapping[str, Any],
    ranges: Mapping[str, tuple[float, float]],
) -> Iterator[dict[str, Any]]:
    """Yield the features of rides to all parts of a form.

    Args:
        draw: draws rides if there are more than ``MAX_DRAWN_RIDES``.
        form: the form.
        trees: the trees from which the form was made, if any.
        rides: the features of rides, which take turns with a number at a threshold in the place of their own.
        unknown: the features of a ride with a name that no model knows.
        ranges: the smallest and the largest number of each feature that is a number.
    """
    for ride, (feature, number) in zip(itertools.cycle(rides), _numbers_at_thresholds(form, ranges), strict=False):
        yield {**ride, feature: number}
        yield {**unknown, feature: number}
    for drawn in (leaf_rides(trees), name_rides(trees)) if trees else ():
        draw.shuffle(drawn)
        yield from drawn[:MAX_DRAWN_RIDES]
    if isinstance(form, Table):
        yield from _cell_rides(draw, form)


def known_names(form: Form, feature: str) -> list[str]:
    """Return the names that a form knows of a feature, such as the pairs of zones, in order."""
    categories = [column for column in form.columns if isinstance(column, Category) and column.feature == feature]
    return sorted({name for column in categories for name in column.names_and_values()[0]})


def _numbers_at_thresholds(form: Form, ranges: Mapping[str, tuple[float, float]]) -> Iterator[tuple[str, float]]:
    """Yield each threshold that is a possible number of its feature, and the doubles and 32-bit numbers beside it."""
    for place, column in enumerate(form.columns):
        if isinstance(column, Number):
            limits = form.thresholds(place)
            beside = [limits, np.nextafter(limits, -np.inf), smallest_above(limits, single=False)]
            single = largest_up_to(limits, single=True)
            beside += [single, np.nextafter(single, -1, dtype=np.float32), smallest_above(limits, single=True)]
            every = np.unique(np.concatenate(beside))
            least, most = ranges[column.feature]
            yield from ((column.feature, number) for number in every[(every >= least) & (every <= most)].tolist())


def _cell_rides(draw: np.random.Generator, table: Table) -> Iterator[dict[str, Any]]:
    """Yield rides to cells, with the smallest number of each interval: the table was made with the largest number."""
    category, number = table.columns
    names = [UNSEEN, *(category.names_and_values()[0] if isinstance(category, Category) else [])]
    limits, single = table.thresholds(1), isinstance(number, Number) and number.single
    numbers = np.concatenate([largest_up_to(limits[:1], single=single), smallest_above(limits, single=single)]).tolist()
    for cell in draw.permutation(len(names) * len(numbers))[:MAX_DRAWN_RIDES].tolist():
        row, column = divmod(cell, len(numbers))
        yield {**SAMPLE_FEATURES, category.feature: names[row], number.feature: numbers[column]}
