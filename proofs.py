"""What all calls share that replace a pipeline: which pipelines have one, and the proof that the doubles are equal."""

import importlib
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

PAIR, DISTANCE = "PU_DO", "trip_distance"
"""The features of a ride, as ``features.prepare_features`` makes them."""

PROOF_DISTANCES = (0.0, -0.0, 5e-324, 1e-9, 0.01, 0.7, 1 / 3, 1.37, 2.06, 3.66, 7.3, 18.41, 59.99, 99.99, 100.0)
"""Miles. For most of them, rounding once (after the sum) and rounding twice (the product too) give two results."""


def find_steps(pipeline: Any, package: str, classes: Collection[str]) -> tuple[Any, Any] | None:
    """Return the DictVectorizer and the model of a pipeline that has nothing else.

    It is None for another pipeline, or if the model is not exactly of one of these classes of the package. A subclass
    may predict in another way.
    """
    from sklearn.pipeline import Pipeline

    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        return None
    # Imported here, because most other models do not need these modules, and they would slow their start.
    from sklearn.feature_extraction import DictVectorizer

    vectorizer, model = (step for _, step in pipeline.steps)
    name = type(model).__name__
    if type(vectorizer) is not DictVectorizer or name not in classes:
        return None
    is_exact = type(model) is getattr(importlib.import_module(package), name)
    return (vectorizer, model) if is_exact and _are_columns(vectorizer.vocabulary_) else None


def find_pairs(vectorizer: Any) -> dict[str, int]:
    """Return the column of each pair of zones that a DictVectorizer knows."""
    prefix = PAIR + vectorizer.separator
    columns = vectorizer.vocabulary_.items()
    return {name[len(prefix) :]: column for name, column in columns if name.startswith(prefix)}


def gives_the_same(
    call: Callable[[Sequence[Any]], Any], predict: Callable[[Sequence[Any]], Any], pairs: Collection[str], most: int
) -> bool:
    """Return whether both give the same doubles for up to ``most`` of the pairs, an unknown one, and a single ride."""
    known = list(pairs)[:: 1 + len(pairs) // most]
    distances = itertools.cycle(PROOF_DISTANCES)
    rides = [{PAIR: pair, DISTANCE: next(distances)} for pair in known]
    rides += [{PAIR: pair, DISTANCE: miles} for pair in ["no pair", *known[:1]] for miles in PROOF_DISTANCES]
    return all(_bits(call(part)) == _bits(predict(part)) for part in (rides, rides[-1:]))


def _are_columns(vocabulary: Any) -> bool:
    """Return whether each column in a vocabulary exists: SciPy does not check an index, and could crash."""
    return type(vocabulary) is dict and all(
        type(column) is int and 0 <= column < len(vocabulary) for column in vocabulary.values()
    )


def _bits(values: Any) -> tuple["np.dtype[Any]", tuple[int, ...], bytes]:
    """Return what two arrays have in common only if all their numbers are the same to the last bit."""
    array = np.asarray(values)
    return array.dtype, array.shape, array.tobytes()
