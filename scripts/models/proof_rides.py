"""The rides for which the predictions of a served form and of its pipeline are compared.

They are chosen pairs with chosen distances, random rides, rides at each threshold, and rides to the nodes of the trees
and to the cells of the table.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from features import SAMPLE_FEATURES, ZONES
from rides import MAX_TRIP_DISTANCE
from scripts.models.limits import largest_up_to, smallest_above
from scripts.models.tree_rides import UNSEEN, leaf_rides, name_rides
from served.columns import Category, Number
from served.forms import Form
from served.tables import Table
from served.trees import Trees

RANDOM_RIDES = 100_000
MAX_DRAWN_RIDES = 100_000
"""The most rides to the leaves of trees, to the tests of names, and to the cells of a table. If there are more, they
are drawn at random."""
RANGES = {"trip_distance": (0.0, MAX_TRIP_DISTANCE), "hour": (0.0, np.nextafter(24.0, 0.0)), "weekday": (0.0, 6.0)}
"""The smallest and the largest number of each feature that is a number."""
SECONDS_A_DAY, DAYS_A_WEEK = 86_400, 7
GOLDEN_DISTANCES = (0.0, 5e-324, 1e-9, 0.01, 0.7, 1 / 3, 1.37, 2.06, 3.66, 7.3, 18.41, 59.99, 99.99, 100.0)
"""Miles: the limits of the contract, the smallest double, and ordinary trips."""
GOLDEN_TIMES = ((0, 0), (30_600, 2), (43_200, 4), (63_900, 3), (86_399, 6))
"""Seconds of the day and weekdays: the first and the last of a week, and ordinary ones."""
GOLDEN_PAIRS = 1_000
UNSEEN_PAIRS = (UNSEEN, "0_0", "130_999999", "-1_205", "", "130_205 ", "\u0664_\u0665")
"""Names that are not pairs of zones in any model's training rides."""
ANY_ZONES = tuple(map(str, range(300)))
"""TLC's zones, which end at 265, and others."""


def proof_rides(form: Form, trees: Trees | None) -> Iterator[dict[str, Any]]:
    """Yield the features of all rides to compare. ``trees`` are the trees from which the form was made, if any."""
    draw = np.random.default_rng(0)
    # The random rides take the pairs in turn, so that each known pair has its share of them.
    pairs = draw.permutation(np.array([*known_names(form, "PU_DO"), UNSEEN], object)).tolist()
    times = itertools.cycle(GOLDEN_TIMES)
    for pair in [*UNSEEN_PAIRS, *pairs[:GOLDEN_PAIRS]]:
        yield from (_ride(pair, miles, *next(times)) for miles in GOLDEN_DISTANCES)
    zones = sorted({*ANY_ZONES, *(name for feature in ZONES for name in known_names(form, feature))})
    rides = list(_random_rides(draw, pairs, zones))
    yield from rides
    for ride, (feature, number) in zip(itertools.cycle(rides), _numbers_at_thresholds(form), strict=False):
        yield {**ride, feature: number}
        yield {**SAMPLE_FEATURES, "PU_DO": UNSEEN, feature: number}
    for drawn in (leaf_rides(trees), name_rides(trees)) if trees else ():
        draw.shuffle(drawn)
        yield from drawn[:MAX_DRAWN_RIDES]
    if isinstance(form, Table):
        yield from _cell_rides(draw, form)


def known_names(form: Form, feature: str) -> list[str]:
    """Return the names that a form knows of a feature, such as the pairs of zones, in order."""
    categories = [column for column in form.columns if isinstance(column, Category) and column.feature == feature]
    return sorted({name for column in categories for name in column.names_and_values()[0]})


def _random_rides(draw: np.random.Generator, pairs: Sequence[str], zones: Sequence[str]) -> Iterator[dict[str, Any]]:
    uniform = draw.uniform(0, MAX_TRIP_DISTANCE, RANDOM_RIDES)
    # Half of the distances have two digits, as a taximeter's do.
    ordinary = draw.lognormal(0.7, 0.9, RANDOM_RIDES).round(2).clip(max=MAX_TRIP_DISTANCE)
    every_miles = np.where(draw.random(RANDOM_RIDES) < 0.5, uniform, ordinary).tolist()
    # One ride in ten has any two zones. They are rarely a known pair, and some are known on one side only.
    has_any_zones = (draw.random(RANDOM_RIDES) < 0.1).tolist()
    any_zones = draw.integers(len(zones), size=(RANDOM_RIDES, 2)).tolist()
    seconds, weekdays = (draw.integers(end, size=RANDOM_RIDES).tolist() for end in (SECONDS_A_DAY, DAYS_A_WEEK))
    every = zip(every_miles, any_zones, seconds, weekdays, strict=True)
    for number, (miles, (pickup, dropoff), second, weekday) in enumerate(every):
        pair = f"{zones[pickup]}_{zones[dropoff]}" if has_any_zones[number] else pairs[number % len(pairs)]
        yield _ride(pair, miles, second, weekday)


def _numbers_at_thresholds(form: Form) -> Iterator[tuple[str, float]]:
    """Yield each threshold that is a possible number of its feature, and the doubles and 32-bit numbers beside it."""
    for place, column in enumerate(form.columns):
        if isinstance(column, Number):
            limits = form.thresholds(place)
            beside = [limits, np.nextafter(limits, -np.inf), smallest_above(limits, single=False)]
            single = largest_up_to(limits, single=True)
            beside += [single, np.nextafter(single, -1, dtype=np.float32), smallest_above(limits, single=True)]
            every = np.unique(np.concatenate(beside))
            least, most = RANGES[column.feature]
            yield from ((column.feature, number) for number in every[(every >= least) & (every <= most)].tolist())


def _ride(pair: str, miles: float, second: int, weekday: int) -> dict[str, Any]:
    """Return the features of a ride as ``prepare_features`` makes them; a name that is not a pair has unknown zones."""
    pickup, _, dropoff = pair.partition("_")
    hour = second // 3600 + second // 60 % 60 / 60 + second % 60 / 3600
    zones = {"PULocationID": pickup, "DOLocationID": dropoff}
    return {"PU_DO": pair, "trip_distance": miles, **zones, "hour": hour, "weekday": float(weekday)}


def _cell_rides(draw: np.random.Generator, table: Table) -> Iterator[dict[str, Any]]:
    """Yield rides to cells, with the smallest number of each interval: the table was made with the largest number."""
    category, number = table.columns
    names = [UNSEEN, *(category.names_and_values()[0] if isinstance(category, Category) else [])]
    limits, single = table.thresholds(1), isinstance(number, Number) and number.single
    numbers = np.concatenate([largest_up_to(limits[:1], single=single), smallest_above(limits, single=single)]).tolist()
    for cell in draw.permutation(len(names) * len(numbers))[:MAX_DRAWN_RIDES].tolist():
        row, column = divmod(cell, len(numbers))
        yield {**SAMPLE_FEATURES, category.feature: names[row], number.feature: numbers[column]}
