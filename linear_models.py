"""A formula that replaces a linear pipeline: it gives the same doubles, and makes no matrix for each call.

``Pipeline.predict`` costs hundreds of microseconds even for one ride, nearly all of it for checks and for building the
matrix. The formula computes the same sum of two terms and the intercept in Python.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

PAIR, DISTANCE = "PU_DO", "trip_distance"
"""The features of a ride, as ``model.prepare_features`` makes them. The pipeline predicts rides with other features."""

LINEAR_MODELS = frozenset(
    {"ElasticNet", "ElasticNetCV", "HuberRegressor", "Lasso", "LassoCV", "LinearRegression"}
    | {"QuantileRegressor", "Ridge", "RidgeCV"}
)
"""The classes of sklearn.linear_model that take sparse matrices and predict ``X @ coef_ + intercept_``."""

PROOF_PAIRS = 400
"""The proof takes at most this many of the model's pairs, so that it takes only milliseconds."""

PROOF_DISTANCES = (0.0, -0.0, 5e-324, 1e-9, 0.01, 0.7, 1 / 3, 1.37, 2.06, 3.66, 7.3, 18.41, 59.99, 99.99, 100.0)
"""Miles. For most of them, rounding once (after the sum) and rounding twice (the product too) give two results."""

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
    from sklearn.pipeline import Pipeline

    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        return
    # Imported here, because most other models do not need this module and it would slow their start.
    from sklearn.feature_extraction import DictVectorizer

    vectorizer, model = (step for _, step in pipeline.steps)
    if type(vectorizer) is not DictVectorizer or not _is_linear(model):
        return
    # Dense matrices are multiplied by BLAS, whose sums have another order for one ride than for many.
    if vectorizer.sparse is not True:
        return
    separator, vocabulary = vectorizer.separator, vectorizer.vocabulary_
    coefficients, intercept = model.coef_, model.intercept_
    if type(separator) is not str or type(intercept) not in (float, np.float64):
        return
    if not _are_columns(vocabulary, coefficients):
        return
    prefix = PAIR + separator
    # The matrix product starts from 0.0, so -0.0 becomes 0.0.
    values = [0.0 + value for value in coefficients.tolist()]
    pairs = {name[len(prefix) :]: values[column] for name, column in vocabulary.items() if name.startswith(prefix)}
    weight = coefficients[vocabulary[DISTANCE]].item() if DISTANCE in vocabulary else 0.0
    for multiply_add in _multiply_adds():
        yield Formula(pairs, weight, float(intercept), multiply_add, pipeline.predict)


def _is_linear(model: Any) -> bool:
    import sklearn.linear_model

    name = type(model).__name__
    return name in LINEAR_MODELS and type(model) is getattr(sklearn.linear_model, name)


def _are_columns(vocabulary: Any, coefficients: Any) -> bool:
    """Return whether each column in the vocabulary exists: SciPy does not check an index, and could crash."""
    if type(vocabulary) is not dict or type(coefficients) is not np.ndarray or coefficients.dtype != np.float64:
        return False
    return all(type(column) is int and 0 <= column < len(vocabulary) for column in vocabulary.values())


def _multiply_adds() -> Iterator[MultiplyAdd]:
    yield lambda first, second, third: first * second + third
    if hasattr(math, "fma"):  # since Python 3.13
        # Compilers for ARM round once, after the sum.
        yield math.fma


def _is_proved(formula: Formula) -> bool:
    """Return whether the pipeline gives the same doubles, for known and unknown pairs, and for a single ride."""
    known = list(formula.pairs)[:: 1 + len(formula.pairs) // PROOF_PAIRS]
    distances = itertools.cycle(PROOF_DISTANCES)
    rides = [{PAIR: pair, DISTANCE: next(distances)} for pair in known]
    rides += [{PAIR: pair, DISTANCE: miles} for pair in ["no pair", *known[:1]] for miles in PROOF_DISTANCES]
    return all(_bits(formula.compute(part)) == _bits(formula.fall_back(part)) for part in (rides, rides[-1:]))


def _bits(values: Any) -> tuple["np.dtype[Any]", tuple[int, ...], bytes]:
    array = np.asarray(values)
    return array.dtype, array.shape, array.tobytes()
