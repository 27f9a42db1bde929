"""Checks of the values in a skops file that compiled code uses without checking them itself.

A forged index makes ``predict`` read or write foreign memory, or loop forever. Each check takes the attributes of an
object as ``skops_schema`` read them. It raises ValueError, or another error if a value is missing or of another type.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

State: TypeAlias = Mapping[str, Any]

_MAX_TERMS = 10_000
"""The most columns that PolynomialFeatures may make: one number in the file, the degree, decides how many it makes."""


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
    """Return the values as a list. Raises TypeError if one is not an integer; a boolean is not an integer here."""
    integers = list(values)
    if any(type(value) is not int for value in integers):
        raise TypeError("it has something else in place of an integer")
    return integers


def _require_none(state: State, *names: str) -> None:
    for name in names:
        _require(state.get(name) is None, f"{name} must be None")


def check_pipeline(state: State) -> None:
    """Accept a pipeline that caches nothing: with a memory, joblib unpickles files."""
    _require_none(state, "memory", "transform_input")


def check_function_transformer(state: State) -> None:
    """Accept a transformer without functions and without arguments for functions."""
    _require_none(state, "func", "inverse_func", "kw_args", "inv_kw_args")


def check_stacking(state: State) -> None:
    """Accept only the method ``predict``: the estimator calls the method that the file names."""
    methods = {*state.get("stack_method_", ()), state["stack_method"]}
    _require(methods == {"predict"}, "stack_method_ names another method than predict")


def check_column_transformer(state: State) -> None:
    """Accept no format for the names of columns: the fields of a format could read any attribute."""
    _require(type(state["verbose_feature_names_out"]) is bool, "verbose_feature_names_out must be True or False")


def check_linear(state: State) -> None:
    """Accept one coefficient for each feature and one intercept: numpy would broadcast other shapes to any size."""
    if "coef_" in state:
        features = _integers([state["n_features_in_"]])[0]
        _require(
            state["coef_"].shape in ((features,), (1, features)), "coef_ has another shape than one for each feature"
        )
        intercept = state["intercept_"]
        size = math.prod(intercept.shape) if isinstance(intercept, Array) else 1
        _require(size == 1 and not isinstance(intercept, list | tuple | dict), "intercept_ is not one number")


def check_columns(state: State) -> None:
    """Accept fitted arrays with one value for each feature: numpy would broadcast other shapes to any size."""
    for name, array in state.items():
        if name.endswith("_") and isinstance(array, Array) and array.shape:
            _require(array.shape == (state["n_features_in_"],), f"{name} has another shape than one for each feature")


def check_target_encoder(state: State) -> None:
    """Accept the encoding of a number or of two classes: other targets make a column for each of their classes."""
    _require(state.get("target_type_", "continuous") in ("continuous", "binary"), "its target has several classes")


def check_vectorizer(state: State) -> None:
    """Accept a vocabulary whose columns all exist in the sparse matrix."""
    vocabulary = state.get("vocabulary_", {})
    indices = _integers(vocabulary.values())
    _require(not indices or (min(indices) >= 0 and max(indices) < len(indices)), "vocabulary_ has no such column")


def check_encoder(state: State) -> None:
    """Accept a OneHotEncoder if each column that it can compute is a column of its sparse matrix."""
    if "categories_" not in state:
        return
    features = _integers([state["n_features_in_"]])[0]
    categories, grouped = state["categories_"], state["_infrequent_enabled"]
    _require(len(categories) == features and type(grouped) is bool, "it has other features than categories")
    columns = [_category_columns(array) for array in categories]
    if grouped:
        indices, mappings = state["_infrequent_indices"], state["_default_to_infrequent_mappings"]
        _require(len(indices) == len(mappings) == features, "it has other features than groups")
        columns = list(map(_grouped_columns, columns, indices, mappings))
    if (drop := state["_drop_idx_after_grouping"]) is not None:
        dropped = drop.load()
        _require(drop.dtype == object and drop.shape == (features,), "it drops categories of other features")
        columns = list(map(_kept_columns, columns, dropped))
    _require(_integers(state["_n_features_outs"]) == columns, "_n_features_outs is not what its categories need")


def _category_columns(categories: Array) -> int:
    """Return the number of columns that a feature's categories make."""
    _require(len(categories.shape) == 1 and categories.shape[0] > 0, "its categories must be arrays of one dimension")
    _require(_are_sorted(categories.load()), "its categories are not sorted")
    return categories.shape[0]


def _grouped_columns(columns: int, infrequent: Array | None, mapping: Array | None) -> int:
    """Return the number of columns after the infrequent categories of a feature were put in one column."""
    _require((infrequent is None) == (mapping is None), "it has indices without a mapping")
    if infrequent is None or mapping is None:
        return columns
    _require(infrequent.dtype.kind == mapping.dtype.kind == "i", "its groups are not integers")
    _require(mapping.shape == (columns,), "its mapping has another size than its categories")
    _require(len(infrequent.shape) == 1 and infrequent.shape[0] > 0, "its groups are empty")
    _require(_are_indices(infrequent.load(), columns), "its groups have no such category")
    left = columns - (infrequent.shape[0] - 1)
    _require(_are_indices(mapping.load(), left), "its mapping has no such column")
    return left


def _kept_columns(columns: int, dropped: Any) -> int:
    """Return the number of columns after a category of a feature was dropped, if one is dropped."""
    if dropped is None:
        return columns
    _require(0 <= _integers([dropped])[0] < columns, "it drops a category that it does not have")
    return columns - 1


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
    # Each child comes after its parent, so no path is a cycle.
    forward = (left > inner) & (left < len(nodes)) & (right > inner) & (right < len(nodes))
    _require(bool(forward.all()), "it has a node whose child is no later node")
    _require(_are_indices(feature, features), "it has a node whose feature does not exist")


def check_tree_owner(state: State) -> None:
    """Accept a tree that has as many features as the input of its estimator."""
    if "tree_" in state:
        _require(
            state["tree_"].state["args"][0] == _integers([state["n_features_in_"]])[0], "its tree has other features"
        )
        _require(_integers([state["n_outputs_"]]) == [1], "it has many outputs")


def _check_members(members: Iterable[Any], features: int) -> None:
    """Accept fitted trees that have as many features as the ensemble, which does not check its input for each tree."""
    for member in members:
        _require(isinstance(member, Instance) and "tree_" in member.state, "it has a member that is not a fitted tree")
        _require(member.state["n_features_in_"] == features, "it has a tree with other features")


def check_forest(state: State) -> None:
    """Accept fitted trees that have the same features as the forest."""
    if "estimators_" in state:
        _require(_integers([state["n_outputs_"]]) == [1], "it has many outputs")
        _check_members(state["estimators_"], _integers([state["n_features_in_"]])[0])


def check_gradient_boosting(state: State) -> None:
    """Accept one fitted tree for each iteration: compiled code writes to as many columns as there are trees."""
    if "estimators_" not in state:
        return
    members, first = state["estimators_"], state["init_"]
    features, trees = _integers([state["n_features_in_"], state["n_trees_per_iteration_"]])
    _require(trees == 1 and len(members.shape) == 2 and members.shape[1] == 1, "it has several trees an iteration")
    _check_members((row[0] for row in members.load()), features)
    _require(first == "zero" or (isinstance(first, Instance) and "constant_" in first.state), "init_ is not fitted")


def check_hist_gradient_boosting(state: State) -> None:
    """Accept one tree for each iteration, and no categorical features, whose bits compiled code sets."""
    if "_predictors" not in state:
        return
    _require_none(state, "_preprocessor", "is_categorical_", "_is_categorical_remapped")
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
    """Accept a loss with at most one number, such as a quantile."""
    arguments = state["args"]
    _require(state["state"] == {} and isinstance(arguments, tuple) and len(arguments) <= 1, "it holds too much")
    _require(all(type(number) in (int, float) for number in arguments), "it holds more than numbers")


def check_random_state(state: State) -> None:
    """Accept a position inside the key, because numpy reads the key from there."""
    key, position = state["state"]["key"], state["state"]["pos"]
    _require(state["bit_generator"] == "MT19937" and set(state["state"]) == {"key", "pos"}, "it is not an MT19937")
    _require(key.shape == (624,) and key.dtype.kind == "u" and 0 <= _integers([position])[0] <= 624, "its key is wrong")
    _require(type(state["has_gauss"]) is int and type(state["gauss"]) in (int, float), "its numbers are not numbers")


def check_generator(state: State) -> None:
    """Accept a generator and a seed as numpy makes them. Histogram gradient boosting keeps them unused."""
    generator, seed = state["bit_generator"], state["seed_seq"]
    _integers(
        [generator["has_uint32"], generator["uinteger"], seed["n_children_spawned"], *generator["state"].values()]
    )
    _require(generator["bit_generator"] == "PCG64" and set(generator["state"]) == {"state", "inc"}, "it is not a PCG64")
    _require(set(seed) == {"entropy", "spawn_key", "pool_size", "n_children_spawned"}, "its seed has other attributes")
    _require(seed["pool_size"] == 4 and seed["spawn_key"] == (), "its seed is unusual")
    _require(
        isinstance(seed["entropy"], int) or getattr(seed["entropy"], "shape", None) == (), "its seed is not a number"
    )
