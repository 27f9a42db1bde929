"""Compiling linear models: a weight for each number, a table of coefficients for each category, and the intercept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scripts.models.compiled_inputs import EncodingSource, NameSource, NotUnderstoodError, NumberSource, Source
from served.columns import Category, Column, Number
from served.linear import Linear

LINEAR_MODELS = frozenset(
    {"ElasticNet", "ElasticNetCV", "HuberRegressor", "Lasso", "LassoCV", "LinearRegression"}
    | {"QuantileRegressor", "Ridge", "RidgeCV"}
)
"""The classes of sklearn.linear_model that predict ``X @ coef_ + intercept_``."""


def compile_linear(model: Any, sources: Sequence[Source]) -> Linear:
    """Return the form of a fitted linear model whose matrix has these sources. Raises NotUnderstoodError."""
    coefficients = np.asarray(model.coef_)
    if coefficients.dtype != np.float64 or coefficients.shape != (len(sources),) or np.ndim(model.intercept_):
        raise NotUnderstoodError("it has several targets, or coefficients that are not doubles")
    terms: dict[object, tuple[Source, float]] = {}
    names: dict[str, dict[str, float]] = {}
    for source, coefficient in zip(sources, coefficients.tolist(), strict=True):
        if isinstance(source, NameSource):
            names.setdefault(source.feature, {})[source.name] = coefficient
            terms.setdefault(source.feature, (source, 1.0))
        else:
            terms[id(source)] = source, coefficient
    columns = [_make_column(source, names) for source, _ in terms.values()]
    return Linear(columns, np.array([*(weight for _, weight in terms.values()), float(model.intercept_)]))


def _make_column(source: Source, names: Mapping[str, Mapping[str, float]]) -> Column:
    if isinstance(source, NumberSource):
        return Number(source.feature, single=False)
    if isinstance(source, EncodingSource):
        return Category(source.feature, list(source.values), np.array(list(source.values.values())), source.other)
    coefficients = names[source.feature]
    # Rides of other names have zeros in all columns of the matrix.
    return Category(source.feature, list(coefficients), np.array(list(coefficients.values())), 0.0)
