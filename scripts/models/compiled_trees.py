"""Compiling trees: forests, extra trees and gradient boosting in both forms, as the arrays of ``served.trees``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeRegressor, ExtraTreeRegressor

from scripts.models.compiled_inputs import NameSource, NotUnderstoodError, Source, make_column
from served.columns import Category, Column
from served.trees import Trees

IDENTITY_LOSSES = frozenset({"absolute_error", "quantile", "squared_error"})
"""The losses with which a HistGradientBoostingRegressor predicts the sum of its trees, without a function of it."""
NODE = np.dtype([("left", "i8"), ("right", "i8"), ("feature", "i8"), ("threshold", "f8"), ("value", "f8")])
"""A node of a scikit-learn tree of any class. A leaf has -1 in place of its children."""


def compile_trees(model: Any, sources: Sequence[Source]) -> Trees:
    """Return the form of a fitted model of trees whose matrix has these sources. Raises NotUnderstoodError."""
    read = READERS.get(type(model))
    if read is None:
        raise NotUnderstoodError(f"a {type(model).__name__} is not known")
    if model.n_features_in_ != len(sources):
        raise NotUnderstoodError(f"it takes {model.n_features_in_} columns, and its transformer makes {len(sources)}")
    trees, start, divisor = read(model)
    # HistGradientBoostingRegressor compares doubles, and all other classes compare numbers of 32 bits.
    inputs = _Inputs(sources, single=type(model) is not HistGradientBoostingRegressor)
    return Trees(inputs.columns, _join(trees, inputs), np.array([start, divisor]))


def _read_forest(model: Any) -> tuple[list[NDArray[Any]], float, float]:
    if model.n_outputs_ != 1:
        raise NotUnderstoodError("it has several targets")
    return [_read_tree(one.tree_) for one in model.estimators_], 0.0, float(len(model.estimators_))


def _read_single(model: Any) -> tuple[list[NDArray[Any]], float, float]:
    if model.n_outputs_ != 1:
        raise NotUnderstoodError("it has several targets")
    return [_read_tree(model.tree_)], 0.0, 1.0


def _read_boosted(model: Any) -> tuple[list[NDArray[Any]], float, float]:
    if model.init_ != "zero" and type(model.init_) is not DummyRegressor:
        raise NotUnderstoodError("it starts from the predictions of another model")
    start = 0.0 if model.init_ == "zero" else float(np.ravel(model.init_.constant_)[0])
    trees = [_read_tree(one.tree_) for one in model.estimators_[:, 0]]
    for tree in trees:
        tree["value"] *= model.learning_rate
    return trees, start, 1.0


def _read_histogram_boosted(model: Any) -> tuple[list[NDArray[Any]], float, float]:
    if model.loss not in IDENTITY_LOSSES:
        raise NotUnderstoodError(f"the loss {model.loss} is not known")
    if model.is_categorical_ is not None:
        raise NotUnderstoodError("it has categorical_features, which are not known")
    trees = [_read_histogram_tree(predictor.nodes) for (predictor,) in model._predictors]
    return trees, float(np.ravel(model._baseline_prediction)[0]), 1.0


READERS: Mapping[type, Callable[[Any], tuple[list[NDArray[Any]], float, float]]] = {
    DecisionTreeRegressor: _read_single,
    ExtraTreeRegressor: _read_single,
    ExtraTreesRegressor: _read_forest,
    GradientBoostingRegressor: _read_boosted,
    HistGradientBoostingRegressor: _read_histogram_boosted,
    RandomForestRegressor: _read_forest,
}
"""The known classes. Each function returns a model's trees, the start of their sum, and its divisor."""


def _read_tree(tree: Any) -> NDArray[Any]:
    nodes = np.zeros(tree.node_count, NODE)
    nodes["left"], nodes["right"], nodes["feature"] = tree.children_left, tree.children_right, tree.feature
    nodes["threshold"], nodes["value"] = tree.threshold, tree.value[:, 0, 0]
    return nodes


def _read_histogram_tree(read: NDArray[Any]) -> NDArray[Any]:
    nodes = np.zeros(len(read), NODE)
    for name in ("left", "right"):
        nodes[name] = np.where(read["is_leaf"], -1, read[name].astype(np.int64))  # scikit-learn's are unsigned
    nodes["feature"], nodes["threshold"], nodes["value"] = read["feature_idx"], read["num_threshold"], read["value"]
    return nodes


class _Inputs:
    """The form's columns. They turn a test on a column of the matrix into a test on a column of the form."""

    def __init__(self, sources: Sequence[Source], *, single: bool) -> None:
        names: dict[str, dict[str, int]] = {}
        for source in sources:
            if isinstance(source, NameSource):
                codes = names.setdefault(source.feature, {})
                codes[source.name] = len(codes)
        self.columns: list[Column] = [
            Category(feature, list(codes), np.arange(len(codes), dtype=np.float64), -1.0)
            for feature, codes in names.items()
        ]
        # For each column of the matrix: its column in the form, and the code of its name, or -1 if it has no name.
        self._places, self._codes = np.zeros(len(sources), np.int64), np.full(len(sources), -1)
        for at, source in enumerate(sources):
            if isinstance(source, NameSource):
                self._places[at] = list(names).index(source.feature)
                self._codes[at] = names[source.feature][source.name]
            else:
                self._places[at] = len(self.columns)
                self.columns.append(make_column(source, single=single))

    def tests(self, nodes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the column, the low and the high limit of the inner nodes' tests."""
        code, threshold = self._codes[nodes["feature"]], nodes["threshold"]
        is_name = code >= 0
        # A name's column has 0 or 1. By the threshold, the second child gets all rides, those of the name, or no ride.
        low = np.where(is_name, np.select([threshold < 0, threshold < 1], [-np.inf, code - 0.5], np.inf), threshold)
        high = np.where(is_name & (threshold >= 0) & (threshold < 1), code + 0.5, np.inf)
        return self._places[nodes["feature"]], low, high


def _join(trees: Iterable[NDArray[Any]], inputs: _Inputs) -> dict[str, NDArray[Any]]:
    """Return the arrays of all trees' nodes, level by level, so that a node's children are neighbours."""
    parts = list(trees)
    starts = np.cumsum([0, *map(len, parts)])
    nodes = np.concatenate(parts)
    offsets = np.repeat(starts[:-1], np.diff(starts))
    is_leaf = nodes["left"] < 0
    left, right = nodes["left"] + offsets, nodes["right"] + offsets
    order, first = [], []
    level, end = starts[:-1], len(parts)
    while len(level):
        inner = ~is_leaf[level]
        own = end - len(level) + np.arange(len(level))
        first.append(np.where(inner, end + 2 * (np.cumsum(inner) - 1), own))
        order.append(level)
        level = np.stack([left[level[inner]], right[level[inner]]], axis=1).ravel()
        end += len(level)
    places = np.concatenate(order)
    column, low, high = inputs.tests(np.where(is_leaf, np.zeros(1, NODE), nodes)[places])
    leaf = is_leaf[places]
    return {
        "column": np.where(leaf, 0, column),
        "low": np.where(leaf, np.inf, low),
        "high": np.where(leaf, np.inf, high),
        "first": np.concatenate(first),
        "value": np.where(leaf, nodes["value"][places], 0.0),
        "roots": np.arange(len(parts)),
    }
