"""Models as users log them, and a generator that damages their skops files."""

import io
import json
import random
import signal
import sys
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LassoCV,
    LinearRegression,
    PoissonRegressor,
    Ridge,
    RidgeCV,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.model_selection import GridSearchCV, KFold, RandomizedSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVR
from sklearn.tree import DecisionTreeRegressor, ExtraTreeRegressor

from sklearn_flavor import TRUSTED_TYPES
from skops_schema import SchemaError, check_schema

FEATURES = [{"PU_DO": f"{ride % 4}_{ride % 3}", "trip_distance": ride / 3} for ride in range(60)]
FRAME = pd.DataFrame(FEATURES)
DURATIONS = np.array([ride["trip_distance"] * 3 + 1 + ride["trip_distance"] % 2 for ride in FEATURES])  # type: ignore[operator]
ZONES, MILES = ["PU_DO"], ["trip_distance"]
UNSEEN = "ignore"

_SPARSE = [
    LinearRegression(),
    Ridge(),
    RidgeCV(),
    HuberRegressor(),
    PoissonRegressor(),
    GammaRegressor(),
    TweedieRegressor(power=1.5),
    TweedieRegressor(),
    DecisionTreeRegressor(),
    ExtraTreeRegressor(),
    RandomForestRegressor(3, n_jobs=-1),
    ExtraTreesRegressor(3),
    *(GradientBoostingRegressor(n_estimators=3, loss=loss) for loss in ("squared_error", "huber", "quantile")),
    GradientBoostingRegressor(n_estimators=3, init="zero", random_state=np.random.RandomState(3)),
    AdaBoostRegressor(n_estimators=3),
    BaggingRegressor(n_estimators=3),
    BaggingRegressor(Ridge(), n_estimators=3, max_features=0.5),
    VotingRegressor([("ridge", Ridge()), ("forest", RandomForestRegressor(2))]),
    StackingRegressor([("ridge", Ridge()), ("forest", RandomForestRegressor(2))]),
    GridSearchCV(Ridge(), {"alpha": [1, 2]}),
    RandomizedSearchCV(Ridge(), {"alpha": [1, 2]}, n_iter=2, cv=KFold(3)),
    TransformedTargetRegressor(Ridge()),
    TransformedTargetRegressor(RandomForestRegressor(2), transformer=StandardScaler()),
    DummyRegressor(),
]
"""Regressors that are fitted on the sparse matrix of a DictVectorizer."""
_DENSE = [
    Lasso(),
    LassoCV(),
    ElasticNet(),
    ElasticNetCV(),
    BayesianRidge(),
    LinearSVR(),
    SGDRegressor(average=True),
    *(HistGradientBoostingRegressor(max_iter=3, loss=loss) for loss in ("squared_error", "gamma", "poisson")),
    HistGradientBoostingRegressor(max_iter=3, loss="quantile", quantile=0.9, early_stopping=True),
    make_pipeline(PolynomialFeatures(2), Ridge()),
]
_COLUMNS = {
    "one-hot": [("zones", OneHotEncoder(handle_unknown=UNSEEN), ZONES), ("miles", StandardScaler(), MILES)],
    "infrequent": [("zones", OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=6), ZONES)],
    "dropped": [("zones", OneHotEncoder(drop="first", sparse_output=False), ZONES), ("miles", "drop", MILES)],
    "ordinal": [
        ("zones", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ZONES),
        ("miles", MinMaxScaler(), MILES),
    ],
    "target": [
        ("zones", TargetEncoder(), ZONES),
        ("miles", make_pipeline(SimpleImputer(), RobustScaler(), PolynomialFeatures(3)), MILES),
    ],
    "union": [
        ("zones", make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OneHotEncoder()), [0]),
        (
            "miles",
            FeatureUnion(
                [
                    ("bins", KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf")),
                    ("power", PowerTransformer()),
                    ("quantiles", QuantileTransformer(n_quantiles=9)),
                    ("known", SimpleImputer(add_indicator=True)),
                    ("largest", MaxAbsScaler()),
                    ("same", FunctionTransformer()),
                ],
                transformer_weights={"bins": 2.0},
            ),
            slice(1, 2),
        ),
    ],
    "three targets": [
        *(
            (name, TargetEncoder(cv=KFold(3, shuffle=True, random_state=0)), ZONES)
            for name in ("value", "rate", "miles")
        ),
        ("numbers", "passthrough", MILES),
    ],
    "rest": [("miles", "passthrough", MILES)],
}


def fit_common() -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each pipeline that users commonly log, the fitted pipeline, and a ride's features for it."""
    for sparse, regressors in ((True, _SPARSE), (False, _DENSE)):
        for number, regressor in enumerate(regressors):
            name = f"{type(regressor).__name__}-{number}"
            yield name, make_pipeline(DictVectorizer(sparse=sparse), regressor).fit(FEATURES, DURATIONS), FEATURES[7:9]
    for name, columns in _COLUMNS.items():
        remainder = "passthrough" if name == "dropped" else "drop"
        transformer = ColumnTransformer(columns, remainder=remainder)
        if name == "ordinal":
            transformer.set_output(transform="pandas")
        regressor = RandomForestRegressor(2) if name in ("one-hot", "union") else Ridge()
        if name == "three targets":
            regressor = HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=5)
        yield f"columns-{name}", make_pipeline(transformer, regressor).fit(FRAME, DURATIONS), FRAME[7:9]
        objects = FRAME.assign(PU_DO=FRAME.PU_DO.astype(object))
        yield f"objects-{name}", Pipeline([("t", transformer), ("r", Ridge())]).fit(objects, DURATIONS), objects[7:9]


def read_files(content: bytes) -> dict[str, bytes]:
    """Return the files in a zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_files(files: dict[str, bytes]) -> bytes:
    """Return a zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, file in files.items():
            archive.writestr(name, file)
    return content.getvalue()


_NUMBERS = (0, 1, -1, 2, 3, 7, 100, 2**31, -(2**31), 2**62, 10**9)
_TEXTS = ("null", "true", '"zero"', '"fit"', "1e999", "NaN", "0.5", '""', "[[1]]", *map(str, _NUMBERS))
_NAMES = ("predict", "transform", "_in_fit", "__class__", "tree_", "func", "memory", "coef_", "n_jobs", "fit")


def _find_nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield node
        for part in node.values():
            yield from _find_nodes(part)
    elif isinstance(node, list):
        for part in node:
            yield from _find_nodes(part)


def _damage_schema(schema: Any, choose: random.Random) -> None:
    """Change one or a few nodes: their values, labels, ids and attributes, or put one node in the place of another."""
    dicts = list(_find_nodes(schema))
    nodes = [node for node in dicts if "__loader__" in node]
    plain = [node for node in nodes if node["__loader__"] == "JsonNode"]
    # Values as often as nodes: the most interesting ones pass the check.
    node = choose.choice(choose.choice([nodes, plain]))
    other = choose.choice(nodes)
    match choose.randrange(9):
        case 0 | 1:
            value = choose.choice(plain)
            value["content"] = choose.choice([*_TEXTS, choose.choice(plain)["content"]])
        case 2:
            key = choose.choice(["__class__", "__module__", "__loader__", "__id__"])
            node[key] = other.get(key)
        case 3:
            node["__class__"], node["__module__"] = other["__class__"], other["__module__"]
        case 4:
            node.pop(choose.choice(list(node)))
        case 5:
            copy = json.loads(json.dumps(other))
            node.clear()
            node.update(copy)
        case 6:
            content = choose.choice(dicts)
            if content and "__loader__" not in content:
                name = choose.choice(list(content))
                content[choose.choice([*_NAMES, name + "_"])] = content[name]
                if choose.random() < 0.5:
                    del content[name]
        case 7:
            lists = [one for one in nodes if isinstance(one.get("content"), list) and one["content"]]
            content = choose.choice(lists)["content"]
            choose.choice([content.pop, content.clear, content.reverse, lambda: content.extend(content)])()
        case _:
            files = [one for one in nodes if "file" in one]
            choose.choice(files)["file"] = choose.choice(files)["file"]


def _damage_array(content: bytes, choose: random.Random) -> bytes:
    """Change an element, a byte, or the header of an .npy file."""
    start = 10 + int.from_bytes(content[8:10], "little")
    kind = choose.randrange(4)
    if kind == 0 or len(content) < start + 8:
        position = choose.randrange(len(content))
        return content[:position] + bytes([choose.randrange(256)]) + content[position + 1 :]
    if kind == 1:
        changes = [(b"<f8", b"<i8"), (b"<i8", b"<f8"), (b"(", b"(1"), (b"'<", b"'>"), (b"<f8", b"|O8")]
        old, new = choose.choice(changes)
        return content.replace(old, new, 1)
    size = choose.choice([4, 8])
    position = start + choose.randrange((len(content) - start) // size) * size
    number = choose.choice(_NUMBERS) % (1 << 8 * size)
    return content[:position] + number.to_bytes(size, "little") + content[position + size :]


def damage(content: bytes, choose: random.Random) -> bytes:
    """Return a skops file with one to three random changes of its schema or its arrays."""
    files = read_files(content)
    schema = json.loads(files["schema.json"])
    arrays = [name for name in files if name.endswith(".npy")]
    for _ in range(choose.randint(1, 3)):
        if arrays and choose.random() < 0.4:
            name = choose.choice(arrays)
            files[name] = _damage_array(files[name], choose)
        else:
            _damage_schema(schema, choose)
    return write_files({**files, "schema.json": json.dumps(schema).encode()})


def main() -> None:
    """Load and use damaged models, as many as the first argument says; print how many were refused, failed, or used."""
    count, seed = map(int, sys.argv[1:])
    warnings.simplefilter("ignore")
    models = [(name, skops.io.dumps(pipeline), features) for name, pipeline, features in fit_common()]
    outcomes = {"refused": 0, "failed": 0, "used": 0}
    for number in range(seed, seed + count):
        choose = random.Random(number)  # noqa: S311
        name, content, features = choose.choice(models)
        try:
            damaged = damage(content, choose)
        except (IndexError, KeyError, TypeError, ValueError):  # the generator stumbled over its own first change
            continue
        print(number, name, file=sys.stderr, flush=True)
        # The signal's own action ends the process, even if it is in compiled code.
        signal.alarm(30)
        try:
            file = io.BytesIO(damaged)
            check_schema(file)
            outcome = "failed"
            answer = np.asarray(skops.io.load(file, trusted=TRUSTED_TYPES).predict(features), dtype=float)
            outcome = "used" if answer.size == len(features) else "failed"
        except SchemaError:
            outcome = "refused"
        except MemoryError:
            raise
        except Exception as error:
            print(f"{type(error).__name__}: {error}"[:300], file=sys.stderr)
        outcomes[outcome] += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
