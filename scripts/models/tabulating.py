"""Tabulating trees over a category and a number: a value for each name and each interval between thresholds.

Each value is the pipeline's own prediction for one ride of the name and the interval.
"""

from collections.abc import Callable, Sequence

import numpy as np

from scripts.models.limits import largest_up_to, smallest_above
from scripts.models.proving import Predict
from served.arrays import Floats
from served.columns import Category, Number
from served.tables import Table
from served.trees import Trees

MAX_CELLS = 1_000_000
"""The most values of a table: 8 MB. A forest that needs more values is served as trees."""
ROWS_A_CALL = 50
UNSEEN = "a name that no category has"


def tabulate(trees: Trees, predict: Predict, advance: Callable[[int, int], None] = lambda *_: None) -> Table | None:
    """Return the table with the predictions of a pipeline, or None if these trees have no table or a too large one.

    Args:
        trees: the pipeline's trees.
        predict: the pipeline's own predictions.
        advance: called with the rows that are done and their total.
    """
    categories = [column for column in trees.columns if isinstance(column, Category)]
    numbers = [column for column in trees.columns if isinstance(column, Number)]
    if len(categories) != 1 or len(numbers) != 1:
        return None
    category, number = categories[0], numbers[0]
    thresholds = trees.thresholds(trees.columns.index(number))
    names = _distinct_names(category, trees.tests(trees.columns.index(category)))
    if (len(names) + 1) * (len(thresholds) + 1) > MAX_CELLS:
        return None
    inputs = _inside(thresholds, single=number.single)
    rows = [*names, UNSEEN]
    values = np.empty((len(rows), len(inputs)))
    for at in range(0, len(rows), ROWS_A_CALL):
        part = rows[at : at + ROWS_A_CALL]
        rides = [{category.feature: name, number.feature: value} for name in part for value in inputs]
        values[at : at + len(part)] = np.asarray(predict(rides), np.float64).reshape(len(part), len(inputs))
        advance(at + len(part), len(rows))
    indices = Category(category.feature, names, np.arange(len(names), dtype=np.float64), float(len(names)))
    return Table([indices, number], thresholds, values)


def _distinct_names(category: Category, tests: Sequence[tuple[float, float]]) -> list[str]:
    """Return the names for which some test has another result than for a name that the trees have not seen."""
    names, values = category.names_and_values()
    numbers = np.array(values)
    is_distinct = np.zeros(len(names), bool)
    for low, high in tests:
        is_distinct |= ((low < numbers) & (numbers <= high)) != (low < category.other <= high)
    return [name for name, distinct in zip(names, is_distinct, strict=True) if distinct]


def _inside(thresholds: Floats, *, single: bool) -> list[float]:
    """Return a number in each interval: the largest number up to each threshold, and a number above all thresholds."""
    above = smallest_above(thresholds[-1:] if len(thresholds) else np.zeros(1), single=single)
    return [*largest_up_to(thresholds, single=single).tolist(), *above.tolist()]
