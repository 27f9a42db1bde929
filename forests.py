"""The sum of a forest's trees in the place of its pipeline: it gives the same doubles.

``Pipeline.predict`` makes a job of each tree, even if one thread runs all of them. For one ride, these jobs take nine
tenths of its time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from proofs import DISTANCE, find_pairs, find_steps, gives_the_same

FORESTS = frozenset({"ExtraTreesRegressor", "RandomForestRegressor"})
"""The classes of sklearn.ensemble whose prediction is the mean of their trees' predictions."""

PROOF_PAIRS = 60
"""The proof takes at most this many of the model's pairs, so that it takes only some hundredths of a second."""


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
        # Rides of equal distances take the same way through a tree, which the processor then guesses: twice as fast.
        order = np.argsort([ride[DISTANCE] for ride in features], kind="stable")
        # Trees compare numbers of 32 bits.
        matrix = self.transform([features[row] for row in order.tolist()]).astype(np.float32)
        if not np.isfinite(getattr(matrix, "data", matrix)).all():
            return self.fall_back(features)
        sums = np.zeros(matrix.shape[0])
        # In this order, because another one would round in another way.
        for tree in self.trees:
            sums += tree.predict(matrix)[:, 0]
        values = np.empty_like(sums)
        values[order] = sums / len(self.trees)
        return values


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
    steps = find_steps(pipeline, "sklearn.ensemble", FORESTS)
    if steps is None or steps[1].n_outputs_ != 1:
        return None
    vectorizer, forest = steps
    trees = [estimator.tree_ for estimator in forest.estimators_]
    # The compiled trees check no index: with other columns than theirs, they would read foreign memory.
    has_columns = {tree.n_features for tree in trees} == {len(vectorizer.vocabulary_)}
    return TreeSum(vectorizer.transform, trees, pipeline.predict) if has_columns else None


def _is_proved(tree_sum: TreeSum, vectorizer: Any) -> bool:
    return gives_the_same(tree_sum, tree_sum.fall_back, find_pairs(vectorizer), PROOF_PAIRS)
