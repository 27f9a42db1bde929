"""Skops files that would run code, write files or fill the memory: each is refused before anything is built."""

import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import skops.io
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from artifacts import ModelError
from features import SAMPLE_FEATURES
from model import load_model
from sklearn_flavor import TRUSTED_TYPES
from skops_schema import SchemaError, check_schema
from tests.skops_models import read_files, write_files

ROOT = Path(__file__).parents[2]


def zipped(*files: tuple[str, bytes], **options: Any) -> bytes:
    """Return a zip file with these files. Two files may have the same name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        for name, file in files:
            archive.writestr(name, file)
    return content.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(("schema.json", b"{}"), ("schema.json", b"{}")), "two files of one name"),
        (zipped(("schema.json", b"{}"), compression=zipfile.ZIP_LZMA), "neither plain nor deflated"),
        (zipped(("schema.json", b"{}"), ("1.npy", bytes(2**27)), compression=zipfile.ZIP_DEFLATED), "unpack to"),
        (zipped(("schema.json", b" " * (2**26 + 1))), "more than 67,108,864 bytes"),
        (zipped(("schema.json", b"[" + b"[]," * 2_000_001)), "more than 4,000,000 parts"),
        (zipped(("schema.json", b'{"protocol": 2}')), "no __id__"),
    ],
    # A zip file has the time of its making in it, and the tests' names must be the same in each process.
    ids=["one name", "method", "unpacked size", "schema's size", "parts", "no node"],
)
def test_a_zip_file_that_could_hold_more_than_it_shows_is_refused(content: bytes, message: str) -> None:
    """Skops would take one of two files of a name, and unpack what fits into no memory."""
    with pytest.raises(SchemaError, match=message):
        check_schema(io.BytesIO(content))


@pytest.mark.parametrize(
    "content",
    [b"", b"no zip file", skops.io.dumps(Ridge())[:-30], zipped(("a", b"")), zipped(("schema.json", b"["))],
    ids=["empty", "text", "cut off", "no schema", "no JSON"],
)
def test_a_file_that_is_no_skops_file_is_an_error(content: bytes) -> None:
    """No digest would help, so the error does not name one."""
    with pytest.raises((zipfile.BadZipFile, KeyError, ValueError)) as raised:
        check_schema(io.BytesIO(content))
    assert "MODEL_SHA256" not in str(raised.value)


def call_by_name(receiver: Any, method: str, first: Any) -> bytes:
    """Return a pipeline that gives the first step's answer to a method that the file names, of an object from it."""
    stacking = StackingRegressor([("ridge", Ridge())]).fit(np.eye(5), np.arange(5))
    stacking.estimators_, stacking.stack_method_ = [receiver], [method]
    content: bytes = skops.io.dumps(Pipeline([("first", FunctionTransformer(first)), ("call", stacking)]))
    return content


def write_an_array() -> bytes:
    """Return a pipeline that writes to a file: its name is the text of the features."""
    return call_by_name(np.array([3.0]), "tofile", np.str_)


def disguise_a_function() -> bytes:
    """Return a pipeline that does the same with a function in the disguise of a tree."""
    files = read_files(call_by_name(np.array([3.0]), "tofile", functools.partial(np.str_)))
    tree = {"__module__": "sklearn.tree._tree", "__class__": "Tree"}
    schema = json.loads(files["schema.json"])
    step = schema["content"]["content"]["steps"]["content"][0]["content"][1]
    step["content"]["content"]["func"].update(tree)
    return write_files({**files, "schema.json": json.dumps(schema).encode()})


class Marker:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        """Return a call for pickle."""
        return os.mkdir, ("marker",)


def unpickle_from_a_cache() -> bytes:
    """Return a pipeline that loads a step's result from a cache, in which a pickle lies in the place of an array."""
    cached = Pipeline([("first", StandardScaler()), ("last", StandardScaler())], memory="cache")
    content = call_by_name(cached, "fit", None)
    use(content, [[1.0, 2.0], [3.0, 5.0]])
    for result in Path("cache").rglob("output.pkl"):
        joblib.dump(Marker(), result)
    return content


def logged(model: Path, content: bytes) -> Path:
    """Write a model with this skops file to a folder, and return the folder."""
    model.mkdir()
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops", "sklearn_version": sklearn.__version__}
    (model / "MLmodel").write_text(json.dumps({"run_id": "run", "flavors": {"sklearn": flavor}}))
    (model / "model.skops").write_bytes(content)
    return model


def use(content: bytes, features: Any) -> None:
    """Load a skops file without a look at it, and predict with it; the prediction fails after the damage is done."""
    with pytest.raises(Exception, match="."):
        skops.io.loads(content, trusted=TRUSTED_TYPES).predict(features)


@pytest.mark.parametrize(
    ("attack", "features"),
    [
        (write_an_array, [dict(SAMPLE_FEATURES)]),
        (disguise_a_function, [dict(SAMPLE_FEATURES)]),
        (unpickle_from_a_cache, [[1.0, 2.0], [3.0, 5.0]]),
    ],
)
def test_what_runs_code_with_skops_alone_is_refused(
    attack: Callable[[], bytes], features: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skops finds no untrusted type in these files, and loading them would write a file or run a pickle."""
    monkeypatch.chdir(tmp_path)
    content = attack()
    before = set(tmp_path.iterdir())
    use(content, features)
    marker = set(tmp_path.iterdir()) - before
    assert len(marker) == 1
    shutil.rmtree(path) if (path := marker.pop()).is_dir() else path.unlink()
    model = logged(tmp_path / "model", content)
    with pytest.raises(ModelError, match=f"MODEL_SHA256={hashlib.sha256(content).hexdigest()}$"):
        load_model(str(model))
    assert set(tmp_path.iterdir()) == before | {model}


@pytest.mark.parametrize("names", [5, ["\x1b[31m" + "a" * 10_000]])
def test_odd_names_of_columns_are_one_short_line(tmp_path: Path, names: object) -> None:
    """Errors of scikit-learn quote them, and the line goes to a terminal."""
    ridge = Ridge().fit(np.eye(2), [0, 1])
    ridge.feature_names_in_ = names
    with pytest.raises(ModelError) as raised:
        load_model(str(logged(tmp_path / "model", skops.io.dumps(ridge))))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 2000


def test_unions_in_a_row_are_bounded() -> None:
    """Each union makes ten columns of one, so a file of a few kilobytes would fill any memory."""
    union = FeatureUnion([(str(number), "passthrough") for number in range(10)])
    pipeline = Pipeline([*((str(number), union) for number in range(5)), ("last", Ridge())])
    with pytest.raises(SchemaError, match="more than 10,000 columns of one"):
        check_schema(io.BytesIO(skops.io.dumps(pipeline)))


def test_damaged_models_are_refused_or_predict(tmp_path: Path) -> None:
    """Whatever is changed in a good model's file: no code runs, nothing crashes, and nothing loops.

    The models are damaged and used in a process of their own, which a crash or a loop would end with a signal.
    ``python -m tests.skops_models 10000 0`` is the thorough run.
    """
    command = [sys.executable, "-m", "tests.skops_models", "300", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    outcomes = json.loads(done.stdout)
    assert outcomes["refused"] > 50
    assert outcomes["used"] > 50
    assert list(tmp_path.iterdir()) == []
