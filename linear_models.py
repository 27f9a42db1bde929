"""A formula that replaces a linear pipeline: it gives the same doubles, and makes no matrix for each call.

``Pipeline.predict`` costs hundreds of microseconds even for one ride, nearly all of it for checks and for building the
matrix. The formula computes the same sum of two terms and the intercept in Python.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from proofs import DISTANCE, PAIR, find_pairs, find_steps, gives_the_same

LINEAR_MODELS = frozenset(
    {"ElasticNet", "ElasticNetCV", "HuberRegressor", "Lasso", "LassoCV", "LinearRegression"}
    | {"QuantileRegressor", "Ridge", "RidgeCV"}
)
"""The classes of sklearn.linear_model that take sparse matrices and predict ``X @ coef_ + intercept_``."""

PROOF_PAIRS = 400
"""The proof takes at most this many of the model's pairs, so that it takes only milliseconds."""

MultiplyAdd: TypeAlias = Callable[[float, float, float], float]


@dataclass(frozen=True)
class Formula:
    """Predicts rides as its pipeline does."""

    pairs: Mapping[str, float]
    """The coefficient of each pair of zones. A pair that the model does not know has none, which counts as zero."""
    weight: float
    """The coefficient of a mile."""
    intercept: float
    multiply_add: MultiplyAdd
    fall_back: Callable[[Sequence[Any]], Any]
    """The pipeline's ``predict``."""

    def __call__(self, features: Sequence[Any]) -> Any:
        """Predict a value for each ride. If ``compute`` cannot, the pipeline predicts."""
        values = self.compute(features)
        return self.fall_back(features) if values is None else values

    def compute(self, features: Sequence[Any]) -> list[float] | None:
        """Return a value for each ride, or None if a value is not finite or a ride has other features or types."""
        values = []
        for ride in features:
            pair, distance = ride.get(PAIR), ride.get(DISTANCE)
            # The pipeline also takes other features and types, and treats each of them in its own way.
            if type(pair) is not str or type(distance) is not float or len(ride) != 2:
                return None
            values.append(self.multiply_add(distance, self.weight, self.pairs.get(pair, 0.0)) + self.intercept)
        # One NaN or infinity makes the sum NaN or infinite. The pipeline then raises an error that names the input.
        return values if math.isfinite(sum(values)) else None


def find_formula(pipeline: Any) -> Formula | None:
    """Return a formula that was just proved to give what the pipeline gives, to the last bit, or None.

    It is None if the pipeline is not a sparse DictVectorizer and one of LINEAR_MODELS, or if the proof fails.
    """
    try:
        return next((formula for formula in _make_formulas(pipeline) if _is_proved(formula)), None)
    except Exception:
        # A damaged pipeline raises its own error as soon as it is used.
        return None


def _make_formulas(pipeline: Any) -> Iterator[Formula]:
    """Yield a formula for each way in which compiled code may multiply and add."""
    steps = find_steps(pipeline, "sklearn.linear_model", LINEAR_MODELS)
    # Dense matrices are multiplied by BLAS, whose sums have another order for one ride than for many.
    if steps is None or steps[0].sparse is not True:
        return
    vectorizer, model = steps
    coefficients, intercept = model.coef_, model.intercept_
    if type(vectorizer.separator) is not str or type(intercept) not in (float, np.float64):
        return
    if type(coefficients) is not np.ndarray or coefficients.dtype != np.float64:
        return
    # The matrix product starts from 0.0, so -0.0 becomes 0.0.
    values = [0.0 + value for value in coefficients.tolist()]
    pairs = {pair: values[column] for pair, column in find_pairs(vectorizer).items()}
    vocabulary = vectorizer.vocabulary_
    weight = coefficients[vocabulary[DISTANCE]].item() if DISTANCE in vocabulary else 0.0
    for multiply_add in _multiply_adds():
        yield Formula(pairs, weight, float(intercept), multiply_add, pipeline.predict)


def _multiply_adds() -> Iterator[MultiplyAdd]:
    yield lambda first, second, third: first * second + third
    if hasattr(math, "fma"):  # since Python 3.13
        # Compilers for ARM round once, after the sum.
        yield math.fma


def _is_proved(formula: Formula) -> bool:
    return gives_the_same(formula.compute, formula.fall_back, formula.pairs, PROOF_PAIRS)
