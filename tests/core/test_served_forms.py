"""Served forms: the predictions of each kind, the files that are refused, and how models with a form are loaded."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from artifacts import ModelError
from digests import digest_of
from model import Model, PredictionError, describe_model, load_model
from rides import Ride
from scripts.cli import SAMPLE_MODEL
from served import arrays
from served.arrays import FormError
from served.columns import Category, Number
from served.descents import LeafSets, StepByStep
from served.forms import read_form
from served.linear import Linear
from served.trees import MAX_DEPTH, MAX_TREES, Trees
from tests.core.served_files import FILES, FORMS, INFINITY, leaf, nodes, pack, split, unpack, with_header
from tests.tools import ROOT

RIDE = Ride(1, 1, 2.5)
RIDES = [Ride(0, 1, 0.5), RIDE, Ride(9, 9, 2.0), Ride(2, 1, 100.0)]

Arrays = dict[str, NDArray[Any]]


class TestPredicting:
    """The doubles that each kind predicts."""

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("linear", [3.75, 7.25, 7.5, 350.75]),
            ("table", [0.0, 5.0, 10.0, 8.0]),
            ("leaf sets", [8.0, 11.25, 8.0, 11.25]),
            ("step by step", [8.0, 11.25, 8.0, 11.25]),
            ("encodings", [1.0, 5.0, 1.0, 1.0]),
        ],
    )
    def test_a_form_predicts_what_its_arrays_say(self, kind: str, expected: list[float]) -> None:
        """A number that equals a threshold counts as below it, and an unknown pair has the value of all other names."""
        form = read_form(FILES[kind])
        assert Model(form, "v").predict(RIDES) == expected
        assert form([]).tolist() == []

    def test_both_ways_down_the_trees_find_the_same_leaves(self) -> None:
        """Both predict as a plain walk does, for random trees, several blocks, and rides at and beside each limit."""
        draw = np.random.default_rng(0)
        columns = [Number(name, single=False) for name in "ab"]
        for trees in (1, 3, 700):
            arrays, limits = grow(draw, trees)
            form = Trees(columns, arrays, np.array([0.3, 3.0]))
            beside = [*limits, *np.nextafter(limits, INFINITY), *np.nextafter(limits, -INFINITY)]
            rides = [{"a": draw.choice(beside), "b": draw.choice(beside)} for _ in range(300)]
            assert isinstance(form._descent, LeafSets)
            expected = [walk(arrays, ride) for ride in rides]
            assert form(rides).tolist() == expected
            stepping = StepByStep(form._nodes, form._limits, MAX_DEPTH)
            form._descent = stepping
            assert form(rides).tolist() == expected

    @pytest.mark.parametrize("distance", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("kind", FORMS)
    def test_a_distance_that_is_not_finite_is_an_error_of_its_ride_alone(self, kind: str, distance: float) -> None:
        """All other rides are predicted."""
        model = Model(FORMS[kind], "v")
        answers = model.predict([*RIDES, Ride(1, 1, distance), *RIDES])
        assert answers[:4] == answers[5:] == model.predict(RIDES)
        assert "trip_distance is not finite" in str(answers[4])

    @pytest.mark.parametrize("value", [None, "3.66", "1_0", [1.0], 1e39])
    def test_a_value_that_is_not_a_number_of_32_bits_is_an_error(self, value: object) -> None:
        """Texts are not read as numbers, and a larger number would become infinite."""
        with pytest.raises((TypeError, ValueError), match="trip_distance is not"):
            FORMS["table"]([{"PU_DO": "1_1", "trip_distance": value}])

    def test_a_prediction_that_is_not_finite_is_an_error_of_its_ride_alone(self) -> None:
        """The largest numbers can add up to infinity."""
        weights = Linear([Category("PU_DO", ["1_1"], np.array([1e308]), 0.0)], np.array([1.5, 1e308]))
        with np.errstate(over="ignore"):
            first, second = Model(weights, "v").predict([RIDE, Ride(0, 0, 0.0)])
        assert isinstance(first, PredictionError)
        assert second == 1e308


def grow(draw: np.random.Generator, trees: int) -> tuple[Arrays, NDArray[np.float64]]:
    """Return the arrays of random trees with at most 64 leaves, and their limits."""
    limits = np.array([-1.5, 0.0, 0.1, 1 / 3, 2.0, 7.25])
    rows: list[tuple[float, ...]] = [leaf(place, draw.normal()) for place in range(trees)]
    growing = {tree: [tree] for tree in range(trees)}
    for tree, leaves in growing.items():
        for _ in range(draw.integers(0, 64) if tree % 3 else 63):
            at = leaves.pop(draw.integers(len(leaves)))
            rows[at] = (int(draw.integers(2)), draw.choice(limits), INFINITY, len(rows), 0.0)
            leaves += [len(rows), len(rows) + 1]
            rows += [leaf(len(rows), draw.normal()), leaf(len(rows) + 1, draw.normal())]
    return nodes(trees, *rows), limits


def walk(arrays: Arrays, ride: Mapping[str, float]) -> float:
    """Return the prediction of trees with the start 0.3 and the divisor 3."""
    total = 0.3
    for root in arrays["roots"]:
        at = root
        while arrays["first"][at] != at:
            x = ride["ab"[arrays["column"][at]]]
            at = arrays["first"][at] + (arrays["low"][at] < x <= arrays["high"][at])
        total += arrays["value"][at]
    return float(total / 3.0)


def chain(depth: int) -> bytes:
    """Build the file of a tree in which each inner node has a leaf and the next inner node."""
    rows: list[tuple[float, ...]] = []
    for level in range(depth):
        rows += [(1, float(level), INFINITY, 2 * level + 1, 0.0), leaf(2 * level + 1, level)]
    return trees_with(**nodes(1, *rows, leaf(2 * depth, depth)))


def trees_with(**changed: NDArray[Any]) -> bytes:
    """Build the file of trees with other arrays."""
    description, found = unpack(FILES["step by step"])
    return pack(description, found | changed)


def changed(form: str, **description: Any) -> bytes:
    """Build a file of a kind with another description."""
    found, values = unpack(FILES[form])
    return pack(found | description, values)


def with_array(kind: str, name: str, values: Any) -> bytes:
    """Build a file of a kind with another array; it is left out if it is None."""
    description, found = unpack(FILES[kind])
    others = {other: array for other, array in found.items() if other != name}
    return pack(description, others if values is None else others | {name: np.asarray(values)})


def with_entry(content: bytes = FILES["linear"], **entry: Any) -> bytes:
    """Build the file of a linear form with another entry of its weights in the header."""
    header, data = split(content)
    return with_header({**header, "weights": header["weights"] | entry}, data)


HEADER, DATA = split(FILES["linear"])
NUMBER, CATEGORY = {"feature": "trip_distance"}, {"feature": "PU_DO", "is_category": True}
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut off"),
    "cut off": (FILES["linear"][:-1], "not a safetensors file"),
    "more at the end": (FILES["linear"] + b"\0", "not a safetensors file"),
    "longest header": (b"\xff" * 8 + FILES["linear"][8:], "its header is too long"),
    "long header": (with_header({**HEADER, "x": "x" * arrays.MAX_HEADER_BYTES}, DATA), "its header is too long"),
    "nested header": (with_header(b"[" * 100_000), "not a safetensors file"),
    "no metadata": (with_header({k: v for k, v in HEADER.items() if k != "__metadata__"}, DATA), "__metadata__"),
    "other metadata": (with_header({**HEADER, "__metadata__": {"format": "pt"}}, DATA), "no served_form in its"),
    "metadata is a number": (with_header({**HEADER, "__metadata__": {"served_form": 1}}, DATA), "not a safetensors"),
    "bfloat16": (with_entry(dtype="BF16", shape=[12]), "type that is not known"),
    "integers": (with_entry(dtype="I64"), "no array weights of the type float64"),
    "no dimension": (
        with_entry(with_array("linear", "weights", [1.0]), shape=[]),
        "weights of the type float64 and 1 dim",
    ),
    "overlap": (with_entry(data_offsets=[0, 24]), "not a safetensors file"),
    "huge shape": (with_entry(shape=[2**62, 4]), "not a safetensors file"),
    "a later version": (changed("linear", format=2), "its format is 2 .* update this service"),
    "a huge version": (changed("linear", format=2**200), "its format is 16069380"),
    "another kind": (changed("linear", kind="a\nb"), r"the kind 'a\\nb'"),
    "an unknown field": (changed("linear", code="x"), "unknown field `code`"),
    "no columns": (changed("linear", columns=[]), "with 0 columns"),
    "many columns": (changed("linear", columns=[NUMBER] * 101), "with 101 columns"),
    "a rounded category": (changed("linear", columns=[CATEGORY | {"single": True}, NUMBER]), "cannot be single"),
    "unused arrays": (with_array("linear", "\x1b[31m", [1.0]), "an array '\\\\x1b"),
    "a name twice": (with_array("linear", "names 0", np.frombuffer(b"a\0b\0a\0", np.uint8)), "a text twice"),
    "no UTF-8": (with_array("linear", "names 0", np.frombuffer(b"a\0\xff\0b\0", np.uint8)), "not UTF-8"),
    "no zero byte": (with_array("linear", "names 0", np.frombuffer(b"a\0b\0\0c", np.uint8)), "not 3 texts"),
    "too few names": (with_array("linear", "names 0", np.zeros(2, np.uint8)), "not 3 texts"),
    "no other value": (with_array("linear", "values 0", np.zeros(0)), "no value for other names"),
    "too many names": (with_array("linear", "values 0", np.zeros(arrays.MAX_NAMES + 2)), "have over 500,000"),
    "NaN in values": (with_array("linear", "values 0", [0.0, math.nan, 0.0, 0.0]), "a number in values 0 is NaN"),
    "infinite weight": (with_array("linear", "weights", [1.0, math.inf, 0.0]), "a number in weights is NaN or inf"),
    "too few weights": (with_array("linear", "weights", [1.0, 0.0]), "2 weights for 2 columns"),
    "a table of numbers": (changed("table", columns=[NUMBER, NUMBER]), "a category and a number"),
    "thresholds out of order": (with_array("table", "thresholds", [2.0, 0.5]), "not in ascending order"),
    "thresholds repeated": (with_array("table", "thresholds", [2.0, 2.0]), "not in ascending order"),
    "no rows": (with_array("table", "values", np.zeros((0, 3))), "do not fit"),
    "no intervals": (with_array("table", "values", np.zeros((4, 0))), "do not fit"),
    "a row too few": (with_array("table", "values", np.zeros((3, 3))), "do not fit"),
    "a row between two": (with_array("table", "values 0", [0.0, 0.5, 1.0, 2.0]), "do not fit"),
    "a row below 0": (with_array("table", "values 0", [0.0, -1.0, 1.0, 2.0]), "do not fit"),
    "a chain too deep": (chain(MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
    "too many trees": (
        trees_with(**nodes(MAX_TREES + 1, *(leaf(place, 1.0) for place in range(MAX_TREES + 1)))),
        f"{MAX_TREES + 1} trees",
    ),
    "no trees": (with_array("step by step", "roots", np.zeros(0, np.int32)), "it has 0 trees"),
    "no nodes": (
        trees_with(**{name: array[:0] for name, array in nodes(1, leaf(0, 1.0)).items()}),
        "there are no nodes",
    ),
    "a root twice": (with_array("step by step", "roots", np.array([0, 0], np.int32)), "in several places"),
    "a root outside": (with_array("step by step", "roots", np.array([0, 6], np.int32)), "an index in roots"),
    "a column outside": (with_array("step by step", "column", np.full(6, 2, np.int32)), "an index in column"),
    "the lowest integer": (with_array("step by step", "first", np.full(6, -(2**31), np.int32)), "an index in first"),
    "a cycle": (with_array("step by step", "first", np.array([2, 1, 0, 3, 4, 5], np.int32)), "not further on"),
    "a child shared": (with_array("step by step", "first", np.array([3, 1, 4, 3, 4, 5], np.int32)), "several places"),
    "a child at the end": (with_array("step by step", "first", np.array([2, 1, 5, 3, 4, 5], np.int32)), "further on"),
    "NaN as a limit": (with_array("step by step", "low", [2.0, *[math.nan] * 5]), "a number in low is NaN"),
    "a leaf with a limit": (with_array("step by step", "low", np.zeros(6)), "a leaf has a limit"),
    "arrays of other lengths": (with_array("step by step", "high", np.full(5, math.inf)), "differ in length"),
    "divided by zero": (with_array("step by step", "ends", [1.0, 0.0]), "a start and a divisor"),
}
"""Files that are refused, and a part of the reason."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_file_is_refused(name: str) -> None:
    """The error says what is wrong, and nothing of the form has been used by then."""
    content, reason = REFUSED[name]
    with pytest.raises(FormError, match=reason):
        read_form(content)


def test_the_largest_file_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large is refused, because loading it takes several times its size."""
    monkeypatch.setattr(arrays, "MAX_BYTES", len(FILES["table"]) - 1)
    with pytest.raises(FormError, match="it has more than"):
        read_form(FILES["table"])


def test_the_deepest_tree_and_the_most_trees_are_read() -> None:
    """A chain of nodes and a forest of leaves that are exactly at the limits predict."""
    assert Model(read_form(chain(MAX_DEPTH)), "v").predict([Ride(1, 1, 99.5), Ride(1, 1, 0.0)]) == [55.0, 5.0]
    leaves = nodes(MAX_TREES, *(leaf(place, 1.0) for place in range(MAX_TREES)))
    assert Model(read_form(trees_with(**leaves)), "v").predict([RIDE] * 3) == [(MAX_TREES + 10) / 2] * 3


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., str]:
    """Give a function that makes a model with a served form, and returns its folder.

    The flavor sklearn beside it names a file that is missing.
    """

    def make(content: bytes | None = FILES["table"], **flavor: Any) -> str:
        flavors = {"served_form": {"data": "form.safetensors", **flavor}, "sklearn": {"pickled_model": "none"}}
        (tmp_path / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, "run_id": "abc"}))
        if content is not None:
            (tmp_path / "form.safetensors").write_bytes(content)
        return str(tmp_path)

    return make


class TestLoading:
    """Loading a model that has the flavor of the served form."""

    def test_the_flavor_beside_a_served_form_is_not_touched(self, model: Callable[..., str]) -> None:
        """A model is loaded even if its other flavors are broken."""
        assert load_model(model()).predict([RIDE]) == [5.0]

    def test_its_digest_can_be_pinned(self, model: Callable[..., str]) -> None:
        """The digest is that of the served form's file. The error says so to a user who pinned the pipeline's file."""
        folder = model()
        digest = digest_of(FILES["table"])
        assert describe_model(folder).sha256 == digest
        assert load_model(folder, sha256=digest.upper()).predict([RIDE]) == [5.0]
        with pytest.raises(ModelError, match=f"what MODEL_SHA256 names, 0+: .*form.safetensors, which is .*{digest}$"):
            load_model(folder, sha256="0" * 64)

    @pytest.mark.parametrize(
        ("content", "flavor", "reason"),
        [
            (FILES["table"], {"data": None}, r"the file of its served form \(data\)"),
            (FILES["table"], {"data": "../form.safetensors"}, "must stay in the folder"),
            (None, {}, r"there is no form\.safetensors"),
            (
                FILES["table"],
                {"sha256": digest_of(FILES["linear"])},
                "is not the file that its MLmodel names: its digest",
            ),
            (FILES["table"], {"sha256": 1}, "is not the file that its MLmodel names"),
            (changed("table", format=2), {}, "its format is 2 and here only 1 is known: update this service"),
            (changed("table", columns=[CATEGORY, {"feature": "hour\n\x1b"}]), {}, "cannot predict a ride .*hour"),
            (changed("table", kind="\x1b\n"), {}, "cannot be loaded: FormError: the kind"),
            (changed("table", **{"\u2028\n": 1}), {}, "cannot be loaded: FormError: its description is not valid"),
        ],
        ids=[
            "no file",
            "outside",
            "missing",
            "another file",
            "no digest",
            "later version",
            "another feature",
            "kind",
            "field",
        ],
    )
    def test_a_served_form_that_cannot_be_used_is_refused(
        self, model: Callable[..., str], content: bytes | None, flavor: dict[str, Any], reason: str
    ) -> None:
        """The error is one printable line. scikit-learn does not predict instead, because nobody would notice."""
        with pytest.raises(ModelError, match=reason) as caught:
            load_model(model(content, **flavor))
        assert str(caught.value).isprintable()


LEAN = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in {"cloudpickle", "joblib", "pandas", "scipy", "skops", "sklearn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
import lambda_function, web_service
from model import load_model
from rides import Ride
for folder in sys.argv[1:]:
    print(load_model(folder).predict([Ride(1, 1, 2.5)]))
"""


@pytest.mark.slow
def test_models_predict_without_scikit_learn(tmp_path: Path) -> None:
    """A form of each kind is loaded, and the entry points are imported, with the packages of the lean image alone."""
    for kind, content in FILES.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "MLmodel").write_text("{flavors: {served_form: {data: f}}, run_id: a}")
        (tmp_path / kind / "f").write_bytes(content)
    shutil.copytree(SAMPLE_MODEL, tmp_path / "sample")
    folders = [str(tmp_path / name) for name in ("sample", *FILES)]
    environment = {**os.environ, "MODEL_LOCATION": folders[0], "TEST_RUN": "True"}
    done = subprocess.run(
        [sys.executable, "-c", LEAN, *folders], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sample, *others = done.stdout.splitlines()
    assert sample == str(load_model(str(SAMPLE_MODEL)).predict([RIDE]))
    assert others == [str(Model(form, "v").predict([RIDE])) for form in FORMS.values()]
