"""Compiling linear models: a weight for each number, a table of coefficients for each category, and the intercept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import linear_model, svm

from scripts.models.compiled_inputs import NameSource, NotUnderstoodError, Source, make_column
from served.columns import Category, Column
from served.linear import Linear

LINEAR_MODELS = (
    *(linear_model.ARDRegression, linear_model.BayesianRidge, linear_model.ElasticNet, linear_model.ElasticNetCV),
    *(linear_model.HuberRegressor, linear_model.Lars, linear_model.LarsCV, linear_model.Lasso, linear_model.LassoCV),
    *(linear_model.LassoLars, linear_model.LassoLarsCV, linear_model.LassoLarsIC, linear_model.LinearRegression),
    *(linear_model.OrthogonalMatchingPursuit, linear_model.QuantileRegressor, linear_model.Ridge),
    *(linear_model.RidgeCV, linear_model.SGDRegressor, linear_model.TheilSenRegressor, svm.LinearSVR),
)
"""The classes that predict ``X @ coef_ + intercept_``."""


def compile_linear(model: Any, sources: Sequence[Source]) -> Linear:
    """Return the form of a fitted linear model whose matrix has these sources. Raises NotUnderstoodError."""
    # The coefficients have two dimensions if the targets were a column.
    coefficients, intercept = np.ravel(model.coef_), np.ravel(model.intercept_)
    if coefficients.dtype != np.float64 or len(coefficients) != len(sources) or len(intercept) != 1:
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
    return Linear(columns, np.array([*(weight for _, weight in terms.values()), float(intercept[0])]))


def _make_column(source: Source, names: Mapping[str, Mapping[str, float]]) -> Column:
    if not isinstance(source, NameSource):
        return make_column(source, single=False)
    coefficients = names[source.feature]
    # Other names have the value 0.0, because their rides have zeros in all these columns of the matrix.
    return Category(source.feature, list(coefficients), np.array(list(coefficients.values())), 0.0)
