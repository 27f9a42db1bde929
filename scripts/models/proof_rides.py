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
from scripts.models.form_rides import form_rides, known_names
from scripts.models.tree_rides import UNSEEN
from served.forms import Form
from served.trees import Trees

RANDOM_RIDES = 100_000
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
    yield from form_rides(draw, form, trees, rides, {**SAMPLE_FEATURES, "PU_DO": UNSEEN}, RANGES)


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


def _ride(pair: str, miles: float, second: int, weekday: int) -> dict[str, Any]:
    """Return the features of a ride as ``prepare_features`` makes them; a name that is not a pair has unknown zones."""
    pickup, _, dropoff = pair.partition("_")
    hour = second // 3600 + second // 60 % 60 / 60 + second % 60 / 3600
    zones = {"PULocationID": pickup, "DOLocationID": dropoff}
    return {"PU_DO": pair, "trip_distance": miles, **zones, "hour": hour, "weekday": float(weekday)}
