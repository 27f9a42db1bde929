"""Checks of what a skops file gives compiled code, which follows indices without a look.

A forged index makes ``predict`` read or write foreign memory, or go round in a circle. Each check takes the attributes
of an object as ``skops_schema`` read them. It raises ValueError, or whatever a missing or odd value causes.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

State: TypeAlias = Mapping[str, Any]

_MAX_TERMS = 10_000
"""The most columns that PolynomialFeatures may make: a degree is one number in the file, and this many at predict."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array or a scalar of numpy. ``load`` returns its elements in one dimension, or a list of its objects."""

    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    load: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of one of the listed types, with its attributes or arguments."""

    kind: str
    state: State


def trust(state: State) -> None:
    """Accept every state: this type's own code is Python and numpy, which check each index."""


def _require(is_right: bool, text: str) -> None:
    if not is_right:
        raise ValueError(text)


def _integers(values: Iterable[Any]) -> list[int]:
    """Return values that must be integers, and no booleans. Raises TypeError."""
    integers = list(values)
    if any(type(value) is not int for value in integers):
        raise TypeError("it has something else in place of an integer")
    return integers


def _none(state: State, *names: str) -> None:
    for name in names:
        _require(state.get(name) is None, f"{name} must be None")


def check_pipeline(state: State) -> None:
    """Accept a pipeline that caches nothing: with a memory, joblib unpickles files."""
    _none(state, "memory", "transform_input")


def check_function_transformer(state: State) -> None:
    """Accept no functions, and no arguments for them."""
    _none(state, "func", "inverse_func", "kw_args", "inv_kw_args")


def check_stacking(state: State) -> None:
    """Accept no other method than ``predict``: the estimator calls the one that the file names."""
    methods = {*state.get("stack_method_", ()), state["stack_method"]}
    _require(methods == {"predict"}, "stack_method_ names another method than predict")


def check_column_transformer(state: State) -> None:
    """Accept no format of names: its fields could reach anything."""
    _require(type(state["verbose_feature_names_out"]) is bool, "verbose_feature_names_out must be True or False")


def check_linear(state: State) -> None:
    """Accept one coefficient a feature and one intercept. Others would be spread over each other to any size."""
    if "coef_" in state:
        features = _integers([state["n_features_in_"]])[0]
        _require(
            state["coef_"].shape in ((features,), (1, features)), "coef_ has another shape than one for each feature"
        )
        intercept = state["intercept_"]
        size = math.prod(intercept.shape) if isinstance(intercept, Array) else 1
        _require(size == 1 and not isinstance(intercept, list | tuple | dict), "intercept_ is not one number")


def check_columns(state: State) -> None:
    """Accept fitted arrays with one value a feature, for the same reason."""
    for name, array in state.items():
        if name.endswith("_") and isinstance(array, Array) and array.shape:
            _require(array.shape == (state["n_features_in_"],), f"{name} has another shape than one for each feature")


def check_target_encoder(state: State) -> None:
    """Accept the encoding of a number: other targets make a column for each of their classes."""
    _require(state.get("target_type_", "continuous") in ("continuous", "binary"), "its target has several classes")


def check_vectorizer(state: State) -> None:
    """Accept columns that the sparse matrix has."""
    vocabulary = state.get("vocabulary_", {})
    indices = _integers(vocabulary.values())
    _require(not indices or (min(indices) >= 0 and max(indices) < len(indices)), "vocabulary_ has no such column")


def check_encoder(state: State) -> None:
    """Accept a OneHotEncoder if each column that it can compute is one of its sparse matrix."""
    if "categories_" not in state:
        return
    categories, outs = state["categories_"], []
    features = _integers([state["n_features_in_"]])[0]
    grouped = state["_infrequent_enabled"]
    _require(len(categories) == features and type(grouped) is bool, "it has other features than categories")
    for array in categories:
        _require(len(array.shape) == 1 and array.shape[0] > 0, "its categories must be arrays of one dimension")
        _require(_are_sorted(array.load()), "its categories are not sorted")
        outs.append(array.shape[0])
    if grouped:
        indices, mappings = state["_infrequent_indices"], state["_default_to_infrequent_mappings"]
        _require(len(indices) == len(mappings) == features, "it has other features than groups")
        for index in range(features):
            _require((indices[index] is None) == (mappings[index] is None), "it has indices without a mapping")
            if indices[index] is not None:
                groups, mapping = indices[index], mappings[index]
                _require(groups.dtype.kind == mapping.dtype.kind == "i", "its groups are not integers")
                _require(mapping.shape == (outs[index],), "its mapping has another size than its categories")
                _require(len(groups.shape) == 1 and groups.shape[0] > 0, "its groups are empty")
                _require(_are_indices(groups.load(), outs[index]), "its groups have no such category")
                outs[index] -= groups.shape[0] - 1
                _require(_are_indices(mapping.load(), outs[index]), "its mapping has no such column")
    if (drop := state["_drop_idx_after_grouping"]) is not None:
        dropped = drop.load()
        _require(drop.dtype == object and drop.shape == (features,), "it drops categories of other features")
        for index, category in enumerate(dropped):
            if category is not None:
                _require(0 <= _integers([category])[0] < outs[index], "it drops a category that it does not have")
                outs[index] -= 1
    _require(_integers(state["_n_features_outs"]) == outs, "_n_features_outs is not what its categories need")


def _are_sorted(values: Any) -> bool:
    """Return whether a bisection finds each category; texts in an array of objects are looked up instead."""
    if isinstance(values, list):
        numbers = [value for value in values if isinstance(value, int | float) and value == value]
        return numbers in ([], values[: len(numbers)]) and all(map(operator.lt, numbers, numbers[1:]))
    if values.dtype.kind == "f" and np.isnan(values[-1]):
        values = values[:-1]
    return bool(np.all(values[:-1] < values[1:]))


def _are_indices(values: Any, size: int) -> bool:
    return bool(np.all((values >= 0) & (values < size)))


def check_polynomial(state: State) -> None:
    """Accept a degree that makes a bounded number of columns."""
    if "_max_degree" not in state:
        return
    names = ("n_features_in_", "_min_degree", "_max_degree", "_n_out_full", "n_output_features_")
    features, least, most, *columns = _integers(state[name] for name in names)
    _require(0 <= least <= most <= 100 and 0 < features < 2**31, "its degrees must be from 0 to 100")
    _require(math.comb(features + most, most) <= _MAX_TERMS, f"it makes more than {_MAX_TERMS:,} columns")
    _require(all(0 <= count <= _MAX_TERMS for count in columns), f"it makes more than {_MAX_TERMS:,} columns")


def check_dummy(state: State) -> None:
    """Accept one number as the answer."""
    if "constant_" in state:
        _require(_integers([state["n_outputs_"]]) == [1] and state["constant_"].shape == (1, 1), "it has many outputs")


def check_tree(state: State) -> None:
    """Accept a tree in which each step goes forward to a node that exists, and looks at a feature that exists."""
    features, classes, outputs = state["args"]
    tree = state["state"]
    # The constructor reads as many classes as there are outputs, from wherever the array ends.
    _require(_integers([features, outputs])[0] > 0 and outputs == 1 and classes.shape == (1,), "it has many outputs")
    _require(classes.dtype.kind == "i" and classes.load().tolist() == [1], "it is not a tree for regression")
    _require(set(tree) == {"max_depth", "node_count", "nodes", "values"}, "it has other attributes than a tree")
    count, _ = _integers([tree["node_count"], tree["max_depth"]])
    nodes, values = tree["nodes"], tree["values"]
    _require(
        nodes.shape == (count,) and values.shape == (count, 1, 1) and values.dtype == float, "its arrays do not fit"
    )
    from sklearn.tree._tree import NODE_DTYPE

    _check_nodes(nodes, NODE_DTYPE, ("left_child", "right_child", "feature"), features)


def check_predictor(state: State) -> None:
    """Accept what ``check_tree`` accepts, without categorical features. The estimator knows the number of features."""
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    names = ("left", "right", "feature_idx")
    _check_nodes(state["nodes"], np.dtype(PREDICTOR_RECORD_DTYPE), names, np.iinfo(np.int32).max)
    for name in ("raw_left_cat_bitsets", "binned_left_cat_bitsets"):
        _require(state[name].shape == (0, 8), "it has categorical features")


def _check_nodes(array: Array, dtype: "np.dtype[Any]", names: Sequence[str], features: int) -> None:
    _require(array.dtype == dtype and len(array.shape) == 1 and array.shape[0] > 0, "its nodes are of another type")
    nodes = array.load()
    if "is_leaf" in (dtype.names or ()):
        _require(not nodes["is_categorical"].any(), "it has categorical features")
        inner = np.flatnonzero(nodes["is_leaf"] == 0)
    else:
        inner = np.flatnonzero(nodes[names[0]] != -1)
    left, right, feature = (nodes[name][inner].astype(np.int64) for name in names)
    # A child after its parent: no path comes back.
    forward = (left > inner) & (left < len(nodes)) & (right > inner) & (right < len(nodes))
    _require(bool(forward.all()), "it has a node whose child is no later node")
    _require(_are_indices(feature, features), "it has a node whose feature does not exist")


def check_tree_owner(state: State) -> None:
    """Accept a tree of as many features as the estimator expects of its input."""
    if "tree_" in state:
        _require(
            state["tree_"].state["args"][0] == _integers([state["n_features_in_"]])[0], "its tree has other features"
        )
        _require(_integers([state["n_outputs_"]]) == [1], "it has many outputs")


def _check_members(members: Iterable[Any], features: int) -> None:
    """Accept fitted trees that have as many features as the ensemble: it hands them its input without a check."""
    for member in members:
        _require(isinstance(member, Instance) and "tree_" in member.state, "it has a member that is not a fitted tree")
        _require(member.state["n_features_in_"] == features, "it has a tree with other features")


def check_forest(state: State) -> None:
    """Accept fitted trees that have the same features as the forest."""
    if "estimators_" in state:
        _require(_integers([state["n_outputs_"]]) == [1], "it has many outputs")
        _check_members(state["estimators_"], _integers([state["n_features_in_"]])[0])


def check_gradient_boosting(state: State) -> None:
    """Accept one fitted tree an iteration: compiled code writes to as many columns as there are trees."""
    if "estimators_" not in state:
        return
    members, first = state["estimators_"], state["init_"]
    features, trees = _integers([state["n_features_in_"], state["n_trees_per_iteration_"]])
    _require(trees == 1 and len(members.shape) == 2 and members.shape[1] == 1, "it has several trees an iteration")
    _check_members((row[0] for row in members.load()), features)
    _require(first == "zero" or (isinstance(first, Instance) and "constant_" in first.state), "init_ is not fitted")


def check_hist_gradient_boosting(state: State) -> None:
    """Accept one tree an iteration, and no categorical features, whose bits compiled code sets."""
    if "_predictors" not in state:
        return
    _none(state, "_preprocessor", "is_categorical_", "_is_categorical_remapped")
    features, trees = _integers([state["n_features_in_"], state["n_trees_per_iteration_"]])
    baseline = state["_baseline_prediction"]
    _require(trees == 1 and math.prod(baseline.shape) == 1 and len(baseline.shape) < 3, "it has many outputs")
    categorical = state["_bin_mapper"].state["is_categorical_"]
    _require(categorical.shape == (features,) and not categorical.load().any(), "it has categorical features")
    for iteration in state["_predictors"]:
        _require(len(iteration) == 1, "it has several trees an iteration")
        nodes = iteration[0].state["nodes"].load()
        _require(_are_indices(nodes["feature_idx"][nodes["is_leaf"] == 0], features), "its trees have other features")


def check_loss_function(state: State) -> None:
    """Accept at most one number, such as a quantile."""
    arguments = state["args"]
    _require(state["state"] == {} and isinstance(arguments, tuple) and len(arguments) <= 1, "it holds too much")
    _require(all(type(number) in (int, float) for number in arguments), "it holds more than numbers")


def check_random_state(state: State) -> None:
    """Accept a position inside the key: numpy reads from there."""
    key, position = state["state"]["key"], state["state"]["pos"]
    _require(state["bit_generator"] == "MT19937" and set(state["state"]) == {"key", "pos"}, "it is no MT19937")
    _require(key.shape == (624,) and key.dtype.kind == "u" and 0 <= _integers([position])[0] <= 624, "its key is wrong")
    _require(type(state["has_gauss"]) is int and type(state["gauss"]) in (int, float), "its numbers are none")


def check_generator(state: State) -> None:
    """Accept a generator and a seed as numpy makes them. Histogram gradient boosting keeps one, and never uses it."""
    generator, seed = state["bit_generator"], state["seed_seq"]
    _integers(
        [generator["has_uint32"], generator["uinteger"], seed["n_children_spawned"], *generator["state"].values()]
    )
    _require(generator["bit_generator"] == "PCG64" and set(generator["state"]) == {"state", "inc"}, "it is no PCG64")
    _require(set(seed) == {"entropy", "spawn_key", "pool_size", "n_children_spawned"}, "its seed has other attributes")
    _require(seed["pool_size"] == 4 and seed["spawn_key"] == (), "its seed is unusual")
    _require(isinstance(seed["entropy"], int) or getattr(seed["entropy"], "shape", None) == (), "its seed is no number")
