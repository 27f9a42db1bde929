"""The proof that a served form predicts as its pipeline does: on a golden set, random rides, and at every threshold."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rides import MAX_TRIP_DISTANCE
from scripts.models.compiled_inputs import NotUnderstoodError
from served.columns import Category, Number
from served.forms import Form

Predict: TypeAlias = Callable[[Sequence[Any]], Any]
"""Predicts a value for each ride, whose features are a dictionary."""

RANDOM_RIDES = 100_000
RIDES_A_CALL = 20_000
MOST_DIFFERENT = 1e-12
"""The largest relative difference that is accepted. Compilers for ARM round a product and a sum once, and matrices of
zeros are added by BLAS in another order. In all other cases the doubles are the same."""
GOLDEN_DISTANCES = (0.0, 5e-324, 1e-9, 0.01, 0.7, 1 / 3, 1.37, 2.06, 3.66, 7.3, 18.41, 59.99, 99.99, 100.0)
"""Miles: the limits of the contract, the smallest double, and ordinary trips."""
UNSEEN_PAIRS = ("0_0", "130_999999", "-1_205", "")
"""Names of no pair of zones."""


@dataclass(frozen=True)
class Proof:
    """How the form and the pipeline were compared."""

    rides: int
    largest_relative_difference: float
    """0.0 if all doubles are the same to the last bit."""


def prove(form: Form, predict: Predict) -> Proof:
    """Compare a form with its pipeline. Raises NotUnderstoodError if they differ."""
    rides, largest = 0, 0.0
    for part in _in_parts(proof_rides(form)):
        theirs, ours = np.asarray(predict(part), np.float64).ravel(), form(part)
        different = np.abs(theirs - ours) / np.maximum(np.abs(theirs), 1.0)
        if not (different <= MOST_DIFFERENT).all():
            at = int(np.argmax(different))
            raise NotUnderstoodError(f"compiled, it predicts {ours[at]} instead of {theirs[at]} for {part[at]}")
        rides, largest = rides + len(part), max(largest, float(different.max()))
    return Proof(rides, largest)


def proof_rides(form: Form) -> Iterator[dict[str, Any]]:
    """Yield the features of the golden set, of random rides, and of rides at each threshold and right beside it."""
    draw = random.Random(0)
    known = _known_pairs(form)
    pairs = [*UNSEEN_PAIRS, *draw.sample(known, min(len(known), 1_000))]
    yield from (_features(pair, miles) for pair in pairs for miles in GOLDEN_DISTANCES)
    for _ in range(RANDOM_RIDES):
        # Half of the distances have two digits, as a taximeter's do.
        miles = draw.choice([draw.uniform(0, MAX_TRIP_DISTANCE), round(draw.lognormvariate(0.7, 0.9), 2)])
        pair = draw.choice(known) if known and draw.random() < 0.9 else f"{draw.randrange(300)}_{draw.randrange(300)}"
        yield _features(pair, min(miles, MAX_TRIP_DISTANCE))
    for miles in _distances_at(form):
        for pair in (draw.choice(known or UNSEEN_PAIRS), draw.choice(UNSEEN_PAIRS)):
            yield _features(pair, miles)


def _distances_at(form: Form) -> list[float]:
    """Return each threshold that a ride can have, and the doubles and the numbers of 32 bits right beside it."""
    found = [form.thresholds(place) for place, column in enumerate(form.columns) if isinstance(column, Number)]
    limits = np.concatenate([np.zeros(0), *found])
    single = limits.astype(np.float32)
    beside = [np.nextafter(limits, np.inf), np.nextafter(limits, -np.inf)]
    beside += [np.nextafter(single, np.float32(end)).astype(np.float64) for end in (np.inf, -np.inf)]
    every = np.concatenate([limits, *beside])
    return [float(miles) for miles in np.unique(every[(every >= 0) & (every <= MAX_TRIP_DISTANCE)])]


def _known_pairs(form: Form) -> list[str]:
    columns = [column for column in form.columns if isinstance(column, Category)]
    return sorted({name for column in columns for name in column.names_and_values()[0]})


def _features(pair: str, miles: float) -> dict[str, Any]:
    return {"PU_DO": pair, "trip_distance": miles}


def _in_parts(rides: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while part := list(itertools.islice(rides, RIDES_A_CALL)):
        yield part
