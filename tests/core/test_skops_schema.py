"""What a skops file may hold without a digest: forged ones are refused before anything is built."""

import functools
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io

from sklearn_flavor import TRUSTED_TYPES
from skops_schema import SchemaError, check_schema
from tests.skops_models import fit_common, read_files, write_files

ROOT = Path(__file__).parents[2]
MODELS = {name: (pipeline, features) for name, pipeline, features in fit_common()}
Edit = Callable[[Any, dict[str, bytes]], None]
IDS = itertools.count(1)
TREE_NODES, PREDICTOR_NODES = "left_child", "feature_idx"


@functools.cache
def dumped(name: str) -> bytes:
    """Return the skops file of a common model."""
    content: bytes = skops.io.dumps(MODELS[name][0])
    return content


def edited(name: str, edit: Edit) -> bytes:
    """Return the skops file of a common model after an edit of its schema and its files."""
    files = read_files(dumped(name))
    schema = json.loads(files["schema.json"])
    edit(schema, files)
    return write_files({**files, "schema.json": json.dumps(schema).encode()})


def find_state(schema: Any, attribute: str) -> Any:
    """Return the first dict, in the order in which skops reads them, that has a node of an attribute's name."""
    if isinstance(schema, dict) and isinstance(schema.get(attribute), dict):
        return schema
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    return next((found for part in parts if (found := find_state(part, attribute))), None)


def put(attribute: str, value: Any) -> Edit:
    """Return an edit that gives an attribute another plain value, or that of ``value(old node)``."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        state = find_state(schema, attribute)
        state[attribute] = value(state[attribute]) if callable(value) else plain(value)

    return edit


def plain(value: Any) -> dict[str, Any]:
    """Return a node of a plain value, with an id that no other has."""
    label = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "__id__": next(IDS)}
    return {**label, "content": json.dumps(value), "is_json": True}


def rename(old: str, new: str) -> Edit:
    """Return an edit that gives an attribute another name."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        state = find_state(schema, old)
        state[new] = state.pop(old)

    return edit


def label(attribute: str, **labels: Any) -> Edit:
    """Return an edit that gives the node of an attribute other labels, and an id that no other has."""
    return put(attribute, lambda node: {**node, "__id__": next(IDS), **labels})


def change_array(field: str, change: Callable[[Any], Any]) -> Edit:
    """Return an edit of the first array of records that has a field."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        name = next(name for name, file in files.items() if field.encode() in file[:600] and name.endswith(".npy"))
        array = np.load(io.BytesIO(files[name]))
        file = io.BytesIO()
        np.save(file, changed if (changed := change(array)) is not None else array)
        files[name] = file.getvalue()

    return edit


def set_field(field: str, value: int, row: int = 0) -> Callable[[Any], None]:
    """Return a change of one field of one record."""

    def change(array: Any) -> None:
        array[field][row] = value

    return change


def change_file(change: Callable[[bytes], bytes], attribute: str = "coef_") -> Edit:
    """Return an edit of the file of an array."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        name = find_state(schema, attribute)[attribute]["file"]
        files[name] = change(files[name])

    return edit


def change_item(outer: str, attribute: str, change: Callable[[Any], Any]) -> Edit:
    """Return an edit of the first array in a list, somewhere inside another attribute."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        state = find_state(find_state(schema, outer)[outer], attribute)
        name, file = state[attribute]["content"][0]["file"], io.BytesIO()
        np.save(file, change(np.load(io.BytesIO(files[name]))))
        files[name] = file.getvalue()

    return edit


def widen(file: bytes) -> bytes:
    """Put another digit before the shape of an array."""
    return file.replace(b"': (", b"': (9").replace(b" \n", b"\n")


def in_list(attribute: str, index: int, value: Any) -> Edit:
    """Return an edit of an item of a list."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        find_state(schema, attribute)[attribute]["content"][index] = plain(value)

    return edit


def in_dict(attribute: str, key: str, value: Any) -> Edit:
    """Return an edit of a value of a dict."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        content = find_state(schema, attribute)[attribute]["content"]
        content[key if key in content else next(iter(content))] = plain(value)

    return edit


def share_id(attribute: str, other: str) -> Edit:
    """Return an edit that gives the node of an attribute the id of another one's, which skops takes instead."""

    def edit(schema: Any, files: dict[str, bytes]) -> None:
        node = find_state(schema, attribute)[attribute]
        node["__id__"] = find_state(schema, other)[other]["__id__"]

    return edit


def nest(schema: Any, files: dict[str, bytes]) -> None:
    """Put a list of lists of lists, and so on, in the place of a value. Each is written once, and used ten times."""
    state, node = find_state(schema, "alpha"), plain(1.0)
    for depth in range(9):
        content = [node, *({"__id__": node["__id__"]} for _ in range(9))]
        node = {**plain(depth), "__class__": "list", "__loader__": "ListNode", "content": content}
    state["alpha"] = node


def nest_deeply(schema: Any, files: dict[str, bytes]) -> None:
    """Put a list of a list of a list, and so on, in the place of a value."""
    state, node = find_state(schema, "alpha"), plain(1.0)
    for depth in range(100):
        node = {**plain(depth), "__class__": "list", "__loader__": "ListNode", "content": [node]}
    state["alpha"] = node


def hold_itself(schema: Any, files: dict[str, bytes]) -> None:
    """Put a pipeline in the place of its own step."""
    find_state(schema, "steps")["steps"]["content"][1]["content"][1] = {"__id__": schema["__id__"]}


def hold_estimator(schema: Any, files: dict[str, bytes]) -> None:
    """Give a number the id of an estimator, which skops takes instead."""
    step = find_state(schema, "steps")["steps"]["content"][0]["content"][1]
    find_state(schema, "alpha")["alpha"]["__id__"] = step["__id__"]


def equal_keys(schema: Any, files: dict[str, bytes]) -> None:
    """Add two columns whose names are texts here, and one number in the model, which then has a column less."""
    vocabulary = find_state(schema, "vocabulary_")["vocabulary_"]
    for key in ("1", "01"):
        vocabulary["key_types"]["content"].append(label_of_type("int"))
        vocabulary["content"][key] = plain(0)


def label_of_type(name: str) -> dict[str, Any]:
    """Return a node of a builtin type."""
    return {"__class__": name, "__module__": "builtins", "__loader__": "TypeNode", "__id__": next(IDS)}


def empty(file: bytes) -> bytes:
    """Return the file of an array with billions of rows and no column."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 0)})
    return content.getvalue()


def share_file(schema: Any, files: dict[str, bytes]) -> None:
    """Let two nodes read one file."""
    state = find_state(schema, "coef_")
    state["alpha"] = {**state["coef_"], "__id__": next(IDS)}


FOREST = "RandomForestRegressor-10"
BOOSTED, HISTOGRAM, DUMMY = "GradientBoostingRegressor-12", "HistGradientBoostingRegressor-7", "DummyRegressor-25"
FORGED: dict[str, tuple[str, Edit, str]] = {
    "a child before its parent": (FOREST, change_array(TREE_NODES, set_field("left_child", 0)), "no later node"),
    "a child beyond the end": (FOREST, change_array(TREE_NODES, set_field("right_child", 10**6)), "no later node"),
    "a negative child": (FOREST, change_array(TREE_NODES, set_field("left_child", -2)), "no later node"),
    "a feature that is not there": (FOREST, change_array(TREE_NODES, set_field("feature", 10**6)), "does not exist"),
    "a negative feature": (FOREST, change_array(TREE_NODES, set_field("feature", -2)), "does not exist"),
    "fewer nodes than counted": (FOREST, change_array(TREE_NODES, lambda array: array[:1]), "arrays do not fit"),
    "a tree of other features": (FOREST, put("n_features_in_", 3), "other features"),
    "a forest that checks no input": (FOREST, rename("n_features_in_", "n_features_"), "n_features_in_"),
    "many outputs": (FOREST, put("n_outputs_", 10**9), "many outputs"),
    "no tree in the forest": (FOREST, in_list("estimators_", 0, None), "not a fitted tree"),
    "a tree goes back": (HISTOGRAM, change_array(PREDICTOR_NODES, set_field("left", 0)), "no later node"),
    "a tree goes too far": (HISTOGRAM, change_array(PREDICTOR_NODES, set_field("right", 2**31)), "no later node"),
    "a tree of another feature": (HISTOGRAM, change_array(PREDICTOR_NODES, set_field("feature_idx", 99)), "features"),
    "a category": (HISTOGRAM, change_array(PREDICTOR_NODES, set_field("is_categorical", 1)), "categorical"),
    "trees across": (HISTOGRAM, put("n_trees_per_iteration_", 10**9), "many outputs"),
    "a state that skips the checks": (HISTOGRAM, rename("n_iter_no_change", "_in_fit"), "_in_fit"),
    "a generator of another kind": (HISTOGRAM, in_dict("bit_generator", "bit_generator", "seed"), "not a PCG64"),
    "a huge pool": (HISTOGRAM, in_dict("seed_seq", "pool_size", 2**40), "unusual"),
    "columns to write to": (BOOSTED, put("n_trees_per_iteration_", 2), "several trees"),
    "no first answer": (BOOSTED, put("init_", None), "init_"),
    "a position beyond the key": (BOOSTED, put("pos", 10**9), "its key"),
    "an answer for each of many": (DUMMY, put("n_outputs_", 10**9), "many outputs"),
    "a negative column": ("Ridge-1", in_dict("vocabulary_", "trip_distance", -1), "no such column"),
    "a column beyond the matrix": ("Ridge-1", in_dict("vocabulary_", "trip_distance", 10**8), "no such column"),
    "a column that is no number": ("Ridge-1", in_dict("vocabulary_", "trip_distance", True), "integer"),
    "too few columns": ("objects-one-hot", in_list("_n_features_outs", 0, 1), "_n_features_outs"),
    "a switch that is a number": ("objects-union", put("_infrequent_enabled", 1), "features"),
    "unsorted numbers": ("objects-union", change_item("_encoder", "categories_", lambda array: array[::-1]), "sorted"),
    "a column for a group": (
        "objects-infrequent",
        change_item("steps", "_default_to_infrequent_mappings", lambda array: array + 10**6),
        "no such column",
    ),
    "a group that is not there": ("objects-infrequent", put("_infrequent_indices", None), "TypeError"),
    "a category to drop": ("objects-dropped", in_list("_drop_idx_after_grouping", 0, -1), "does not have"),
    "a huge degree": ("Pipeline-11", put("_max_degree", 90), "columns"),
    "a matrix of coefficients": ("Ridge-1", put("intercept_", [0.0] * 9), "plain value"),
    "a method": ("Ridge-1", rename("solver_", "predict"), "predict"),
    "a method that fit could have set": ("Ridge-1", rename("solver_", "__class__"), "__class__"),
    "a property": (FOREST, rename("n_outputs_", "feature_importances_"), "feature_importances_"),
    "a cache": ("Ridge-1", put("memory", "folder"), "memory must be None"),
    "a cache that another node names": ("Ridge-1", share_id("memory", "separator"), "memory must be None"),
    "an estimator in the place of a number": ("Ridge-1", hold_estimator, "in its attribute alpha sklearn"),
    "a function in the place of folds": (
        "columns-three targets",
        label("cv", __module__="os", __class__="system"),
        "not of a type that is safe",
    ),
    "a method of folds": ("columns-three targets", rename("shuffle", "split"), "has an attribute split"),
    "a function": ("objects-union", label("func", __loader__="FunctionNode"), "FunctionNode, which can run code"),
    "arguments": ("objects-union", put("kw_args", {"a": 1}), "plain value"),
    "itself": ("Ridge-1", hold_itself, "holds itself"),
    "a list that grows by ten each time": ("Ridge-1", nest, "nodes"),
    "a deep list": ("Ridge-1", nest_deeply, "nodes deep"),
    "a deep text": ("Ridge-1", label("alpha", content="[" * 10**5), "plain value"),
    "a long number": ("Ridge-1", label("alpha", content="9" * 4000), "too large"),
    "no id": ("Ridge-1", label("alpha", __id__=None), "no __id__"),
    "another protocol": ("Ridge-1", lambda schema, files: schema.update(protocol=3), "protocol"),
    "a file of another node": ("Ridge-1", share_file, "file of its own"),
    "objects in an array": ("Ridge-1", change_file(lambda file: file.replace(b"'<f8'", b"'|O' ")), "not safe"),
    "a pickle for an array": ("Ridge-1", change_file(lambda file: b"\x80\x04N." * 40), "not safe"),
    "a zip file for an array": ("Ridge-1", change_file(lambda file: write_files({"a.npy": file})), "not safe"),
    "a shape that is too large": (
        "Ridge-1",
        change_file(lambda file: file.replace(b"': (", b"': (9").replace(b" \n", b"\n")),
        "size",
    ),
    "nothing, many times": ("Ridge-1", change_file(lambda file: file.replace(b"'<f8'", b"'<U0'")), "not safe"),
    "billions of empty rows": ("Ridge-1", change_file(empty), "too many rows"),
    "keys that become equal": ("Ridge-1", equal_keys, "two keys that are equal"),
    "columns named many times": ("columns-union", put("n_features_in_", 0), "names a column twice"),
    "an index used many times": (
        "columns-union",
        lambda schema, files: find_state(schema, "_transformer_to_input_indices")["_transformer_to_input_indices"][
            "content"
        ].update(zones={**plain(0), "__class__": "tuple", "__loader__": "TupleNode", "content": [plain(0)] * 9}),
        "names a column twice",
    ),
    "a type for a key": ("Ridge-1", label("vocabulary_", key_types=plain([])), "plain value"),
    "an unknown regressor": (
        "Ridge-1",
        lambda schema, files: find_state(schema, "coef_").update(unknown=plain(1)),
        "other types",
    ),
    **{
        f"a {loader}": ("Ridge-1", label("alpha", __loader__=loader, **labels), loader)
        for loader, labels in {
            "PartialNode": {"__module__": "sklearn.tree._tree", "__class__": "Tree"},
            "MethodNode": {},
            "OperatorFuncNode": {"__module__": "operator", "__class__": "methodcaller"},
            "ConstructorFromReduceNode": {},
            "DefaultDictNode": {},
            "CachedNode": {},
            "SparseMatrixNode": {},
            "SetNode": {},
            "FunctionNode": {},
            "BytesNode": {},
            "QuantileForestNode": {},
        }.items()
    },
    **{
        f"a {kind} of a listed node": ("Ridge-1", label(attribute, __module__=module, __class__=kind), kind)
        for attribute, module, kind in (
            ("coef_", "numpy", "memmap"),
            ("vocabulary_", "collections", "Counter"),
            ("steps", "sklearn.tree._tree", "Tree"),
            ("dtype", "builtins", "map"),
        )
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_common_models_pass_and_predict_as_before(name: str) -> None:
    """A model that users commonly log needs no digest, and the check changes nothing."""
    pipeline, features = MODELS[name]
    file = io.BytesIO(dumped(name))
    check_schema(file)
    values = skops.io.load(file, trusted=TRUSTED_TYPES).predict(features).tolist()
    # Nearly, because a forest with several threads adds up its trees in the order in which they are ready.
    assert values == pytest.approx(pipeline.predict(features).tolist(), rel=1e-12)


@pytest.mark.parametrize(("name", "edit", "message"), FORGED.values(), ids=FORGED)
def test_forged_nodes_are_refused_and_named(name: str, edit: Edit, message: str) -> None:
    """The line says what is wrong, and how a trusted model is loaded all the same."""
    with pytest.raises(SchemaError, match=message) as raised:
        check_schema(io.BytesIO(edited(name, edit)))
    assert re.fullmatch(r".+: if you trust the file, set MODEL_SHA256", str(raised.value))
