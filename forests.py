"""The sum of a forest's trees in the place of its pipeline: it gives the same doubles.

``Pipeline.predict`` makes a job of each tree, even if one thread runs all of them. For one ride, these jobs take nine
tenths of its time.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linear_models import DISTANCE, PAIR, PROOF_DISTANCES, are_columns, as_bits

FORESTS = frozenset({"ExtraTreesRegressor", "RandomForestRegressor"})
"""The classes of sklearn.ensemble whose prediction is the mean of their trees' predictions."""

PROOF_RIDES = 60
"""This many rides are predicted by both the pipeline and the sum, which takes some hundredths of a second."""


@dataclass(frozen=True)
class TreeSum:
    """Predicts rides as the pipeline does that it was made from."""

    transform: Callable[[Sequence[Any]], Any]
    """The DictVectorizer's ``transform``."""
    trees: Sequence[Any]
    """The compiled tree of each estimator."""
    fall_back: Callable[[Sequence[Any]], Any]
    """The pipeline's ``predict``."""

    def __call__(self, features: Sequence[Any]) -> Any:
        """Predict a value for each ride. If a feature is not finite, the pipeline says what it makes of that."""
        # Trees compare numbers of 32 bits.
        matrix = self.transform(features).astype(np.float32)
        if not np.isfinite(getattr(matrix, "data", matrix)).all():
            return self.fall_back(features)
        values = np.zeros(matrix.shape[0])
        # In this order, because another one would round in another way.
        for tree in self.trees:
            values += tree.predict(matrix)[:, 0]
        return values / len(self.trees)


def find_tree_sum(pipeline: Any) -> TreeSum | None:
    """Return a sum that was just proved to give what the pipeline gives, to the last bit, or None.

    It is None if the pipeline is not a DictVectorizer and one of FORESTS, or if the proof fails.
    """
    try:
        tree_sum = _make_sum(pipeline)
        return tree_sum if tree_sum and _is_proved(tree_sum, pipeline.steps[0][1]) else None
    except Exception:
        # A damaged pipeline raises its own error as soon as it is used.
        return None


def _make_sum(pipeline: Any) -> TreeSum | None:
    from sklearn.pipeline import Pipeline

    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        return None
    # Imported here, because most other models do not need these modules, and they would slow their start.
    import sklearn.ensemble
    from sklearn.feature_extraction import DictVectorizer

    vectorizer, forest = (step for _, step in pipeline.steps)
    name = type(forest).__name__
    is_forest = name in FORESTS and type(forest) is getattr(sklearn.ensemble, name)
    if type(vectorizer) is not DictVectorizer or not is_forest or forest.n_outputs_ != 1:
        return None
    trees = [estimator.tree_ for estimator in forest.estimators_]
    # The compiled trees check no index: with other columns than theirs, they would read foreign memory.
    has_columns = are_columns(vectorizer.vocabulary_) and {tree.n_features for tree in trees} == {
        len(vectorizer.vocabulary_)
    }
    return TreeSum(vectorizer.transform, trees, pipeline.predict) if has_columns else None


def _is_proved(tree_sum: TreeSum, vectorizer: Any) -> bool:
    """Return whether the pipeline gives the same doubles, for known and unknown pairs, and for a single ride."""
    prefix = PAIR + vectorizer.separator
    known = [name[len(prefix) :] for name in vectorizer.vocabulary_ if name.startswith(prefix)]
    distances = itertools.cycle(PROOF_DISTANCES)
    pairs = [*known[:: 1 + len(known) // PROOF_RIDES], "no pair"]
    rides = [{PAIR: pair, DISTANCE: next(distances)} for pair in pairs]
    return all(as_bits(tree_sum(part)) == as_bits(tree_sum.fall_back(part)) for part in (rides, rides[-1:]))
