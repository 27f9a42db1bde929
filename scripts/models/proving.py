"""The proof that a served form predicts as its pipeline does, on the rides of ``scripts.models.proof_rides``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from scripts.models.compiled_inputs import NotUnderstoodError
from served.forms import Form
from served.tables import Table

Predict: TypeAlias = Callable[[Sequence[Any]], Any]
"""Predicts a value for each ride, whose features are a dictionary."""

RIDES_A_CALL = 20_000
MOST_DIFFERENT = 1e-12
"""The largest difference that is accepted, relative to the prediction, or to 1 if that is smaller. Compilers for ARM
round a product and a sum once, and BLAS, which multiplies matrices that are not sparse, adds in another order. In all
other cases the doubles are the same."""


@dataclass(frozen=True)
class Proof:
    """How the form and the pipeline were compared."""

    rides: int
    largest_relative_difference: float
    """0.0 if all doubles are the same to the last bit."""


def prove(
    form: Form, predict: Predict, rides: Sequence[Any], advance: Callable[[int, int], None] = lambda *_: None
) -> Proof:
    """Compare a form with its pipeline. Raises NotUnderstoodError if they differ.

    Args:
        form: the served form.
        predict: the pipeline's own predictions.
        rides: the features of the rides to compare.
        advance: called with the rides that are done and their total.
    """
    # A table holds the pipeline's own predictions: nothing is computed.
    accepted = 0.0 if isinstance(form, Table) else MOST_DIFFERENT
    largest = 0.0
    for at in range(0, len(rides), RIDES_A_CALL):
        part = rides[at : at + RIDES_A_CALL]
        theirs, ours = np.asarray(predict(part), np.float64).ravel(), form(part)
        different = np.abs(theirs - ours) / np.maximum(np.abs(theirs), 1.0)
        if not (different <= accepted).all():
            worst = int(np.argmax(different))
            raise NotUnderstoodError(
                f"compiled, it predicts {ours[worst]} instead of {theirs[worst]} for {part[worst]}"
            )
        largest = max(largest, float(different.max()))
        advance(at + len(part), len(rides))
    return Proof(len(rides), largest)
