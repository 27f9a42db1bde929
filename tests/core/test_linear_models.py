"""Formulas that replace linear pipelines: which pipelines have one, and that its doubles are the same."""

import math
import random
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import HuberRegressor, LinearRegression, PoissonRegressor, QuantileRegressor, Ridge, RidgeCV

from sklearn.linear_model import ElasticNet, ElasticNetCV, Lasso, LassoCV, SGDRegressor, TweedieRegressor  # isort: skip
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from features import prepare_features
from linear_models import LINEAR_MODELS, find_formula
from model import Model, load_model
from proofs import PROOF_DISTANCES
from rides import Ride
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import copy_without_served_form

_random = random.Random(20230100)  # noqa: S311
PAIRS = [f"{_random.randint(1, 263)}_{_random.randint(1, 263)}" for _ in range(300)]
MILES = [*PROOF_DISTANCES, *(round(_random.expovariate(0.3), 2) for _ in range(285))]
FITTED = [{"PU_DO": pair, "trip_distance": miles} for pair, miles in zip(PAIRS, MILES, strict=True)]
DURATIONS = [5 + miles * 3.1 + _random.gauss(0, 2) for miles in MILES]
ODD = ["", "_", "PU_DO", "PU_DO=", "trip_distance", "264_265", "1_1\n", "=", f"{PAIRS[0]}="]
RIDES = [{"PU_DO": pair, "trip_distance": miles} for pair in [*PAIRS[:20], *ODD] for miles in PROOF_DISTANCES] + [
    {"PU_DO": _random.choice([*PAIRS, "0_0"]), "trip_distance": _random.choice([miles, round(miles, 2)])}
    for miles in (_random.uniform(0, 100) for _ in range(10_000))
]


def is_rounded_once() -> bool:
    """Return whether SciPy was compiled to round after the sum only, as it is for ARM."""
    matrix = csr_array([[1.0, miles] for miles in MILES])
    twice = [0.3 + miles * 0.7 for miles in MILES]
    return bool((matrix @ np.array([0.3, 0.7])).tolist() != twice)


needs_fma = pytest.mark.skipif(
    is_rounded_once() and not hasattr(math, "fma"), reason="before Python 3.13, Python cannot round as SciPy does here"
)


def fit(model: Any, rides: Any = FITTED, **options: Any) -> Any:
    """Return a fitted pipeline of a DictVectorizer with these options and a model."""
    return make_pipeline(DictVectorizer(**options), model).fit(rides, DURATIONS[: len(rides)])


def join(model: Any) -> Any:
    """Return a pipeline of a model that DictVectorizer's 64-bit indices keep from being fitted inside it."""
    vectorizer = DictVectorizer()
    matrix = vectorizer.fit_transform(FITTED)
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return Pipeline([("vectorizer", vectorizer), ("model", model.fit(matrix, DURATIONS))])


def change(**attributes: Any) -> Any:
    """Return a fitted ridge pipeline whose steps then got other attributes; the vectorizer's are its own names."""
    pipeline = fit(Ridge())
    for name, value in attributes.items():
        setattr(pipeline[0] if hasattr(pipeline[0], name) else pipeline[1], name, value)
    return pipeline


def move(column: Any) -> Any:
    """Return a fitted ridge pipeline with another column for a pair."""
    return change(vocabulary_=change()[0].vocabulary_ | {f"PU_DO={PAIRS[0]}": column})


def bits(values: Any) -> bytes:
    """Return the bits of doubles."""
    array = np.asarray(values)
    assert array.dtype == np.float64
    return array.tobytes()


ALIKE: dict[str, Callable[[], Any]] = {
    **{type(model).__name__: partial(fit, model) for model in (LinearRegression(), Ridge(), RidgeCV())},
    **{type(model).__name__: partial(fit, model) for model in (HuberRegressor(tol=1), QuantileRegressor())},
    **{type(model).__name__: partial(join, model) for model in (Lasso(0.01), ElasticNet(0.01))},
    **{type(model).__name__: partial(join, model) for model in (LassoCV(alphas=3), ElasticNetCV())},
    "another separator": lambda: fit(Ridge(), separator="~~"),
    "no separator": lambda: fit(Ridge(), separator=""),
    "not sorted": lambda: fit(Ridge(), sort=False),
    "the distance first": lambda: fit(Ridge(), [dict(reversed(ride.items())) for ride in FITTED], sort=False),
    "no intercept": lambda: fit(Ridge(fit_intercept=False)),
    "no pairs": lambda: fit(Ridge(), [{"trip_distance": miles} for miles in MILES]),
    "no distances": lambda: fit(Ridge(), [{"PU_DO": pair} for pair in PAIRS]),
    "distances as text": lambda: fit(
        Ridge(), [ride | {"trip_distance": f"{ride['trip_distance']}"} for ride in FITTED]
    ),
    "pairs as numbers": lambda: fit(Ridge(), [ride | {"PU_DO": number} for number, ride in enumerate(FITTED)]),
    "more features": lambda: fit(Ridge(), [ride | {"hour": n % 24, "day": "Mon"} for n, ride in enumerate(FITTED)]),
    "one ride": lambda: fit(Ridge(), FITTED[:1]),
    "negative zeros": lambda: change(coef_=np.full_like(change()[1].coef_, -0.0), intercept_=-0.0),
    "read-only": lambda: change(coef_=np.frombuffer(change()[1].coef_.tobytes())),
    "huge": lambda: change(coef_=change()[1].coef_ * 1e300),
}


@needs_fma
@pytest.mark.parametrize("kind", ALIKE)
def test_a_formula_gives_the_same_doubles_as_its_pipeline(kind: str) -> None:
    """They are equal to the last bit, for 10,000 rides in one call and for single rides."""
    pipeline = ALIKE[kind]()
    formula = find_formula(pipeline)
    assert formula is not None
    assert bits(formula.compute(RIDES)) == bits(pipeline.predict(RIDES))
    for ride in RIDES[:: len(RIDES) // 50]:
        assert bits(formula.compute([ride])) == bits(pipeline.predict([ride]))


def test_each_kind_of_linear_model_is_tried() -> None:
    """A name that is added to the list needs a pipeline here."""
    assert ALIKE.keys() >= LINEAR_MODELS


class Rounded(Ridge):  # type: ignore[misc]
    """A ridge that predicts whole minutes."""

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Round the minutes."""
        return np.round(super().predict(X))


class OwnVectorizer(DictVectorizer):  # type: ignore[misc]
    """A subclass of the vectorizer, which could do anything."""


OTHERS: dict[str, Callable[[], Any]] = {
    "dense": lambda: fit(Ridge(), sparse=False),
    "dense with few pairs": lambda: fit(Ridge(), FITTED[:3], sparse=False),
    "own class of a known name": lambda: fit(type("Ridge", (Ridge,), {})()),
    "float32": lambda: fit(Ridge(), dtype=np.float32),
    "integers": lambda: fit(Ridge(), dtype=int),
    "several values": lambda: make_pipeline(DictVectorizer(), Ridge()).fit(FITTED, [[n, n] for n in DURATIONS]),
    "a column": lambda: make_pipeline(DictVectorizer(), Ridge()).fit(FITTED, [[n] for n in DURATIONS]),
    "a scaler": lambda: make_pipeline(DictVectorizer(), MaxAbsScaler(), Ridge()).fit(FITTED, DURATIONS),
    "a pipeline in it": lambda: make_pipeline(fit(Ridge())[:1], fit(Ridge())[1]),
    "own class": lambda: fit(Rounded()),
    "own vectorizer": lambda: make_pipeline(OwnVectorizer(), Ridge()).fit(FITTED, DURATIONS),
    "own method": lambda: change(predict=lambda matrix: matrix @ np.ones(matrix.shape[1])),
    "no pipeline": lambda: Ridge().fit(np.eye(2), [0, 1]),
    "not fitted": lambda: make_pipeline(DictVectorizer(), Ridge()),
    "transformed": lambda: fit(TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)),
    **{type(model).__name__: partial(join, model) for model in (SGDRegressor(), TweedieRegressor())},
    **{type(model).__name__: partial(fit, model) for model in (PoissonRegressor(), RandomForestRegressor(2))},
}
DAMAGED: dict[str, Callable[[], Any]] = {
    "no coefficients": lambda: change(coef_=None),
    "too few coefficients": lambda: change(coef_=np.ones(3)),
    "one coefficient": lambda: change(coef_=np.ones(())),
    "NaN": lambda: change(coef_=np.full_like(change()[1].coef_, math.nan)),
    "infinite": lambda: change(coef_=np.full_like(change()[1].coef_, math.inf)),
    "too large together": lambda: change(coef_=np.full_like(change()[1].coef_, 1e308), intercept_=1e308),
    "objects": lambda: change(coef_=change()[1].coef_.astype(object)),
    "big-endian": lambda: change(coef_=change()[1].coef_.astype(">f8")),
    "a list": lambda: change(coef_=change()[1].coef_.tolist()),
    "masked": lambda: change(coef_=np.ma.masked_less(change()[1].coef_, 0)),
    "an intercept of text": lambda: change(intercept_="5"),
    "an intercept for each ride": lambda: change(intercept_=np.ones(2)),
    "a NaN intercept": lambda: change(intercept_=math.nan),
    "no vocabulary": lambda: change(vocabulary_=None),
    "a vocabulary of numbers": lambda: change(vocabulary_=dict(enumerate(range(change()[1].n_features_in_)))),
    "a column too many": lambda: change(vocabulary_=change()[0].vocabulary_ | {"1": 10**6}),
    **{f"column {column}": partial(move, column) for column in (-1, 2**31, 1.0, True, "1", None)},
    "a number as separator": lambda: change(separator=5),
    "other features": lambda: change(n_features_in_=1),
    "no steps": lambda: Pipeline([]),
    "no pairs of steps": lambda: Pipeline([None, None]),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("kind", OTHERS | DAMAGED)
def test_other_and_damaged_pipelines_predict_themselves(kind: str) -> None:
    """Nothing is raised, so a damaged pipeline can raise its own error as soon as it is used."""
    assert find_formula((OTHERS | DAMAGED)[kind]()) is None


def test_a_formula_that_differs_in_one_bit_is_not_used() -> None:
    """The last bit of one known pair is enough."""
    pipeline = fit(Ridge())
    predict, column = pipeline[1].predict, pipeline[0].vocabulary_[f"PU_DO={PAIRS[7]}"]

    def differ(matrix: Any) -> Any:
        return np.where(matrix[:, [column]].toarray().ravel(), np.nextafter(predict(matrix), 0), predict(matrix))

    assert find_formula(pipeline) is not None or is_rounded_once()
    pipeline[1].predict = differ
    assert find_formula(pipeline) is None


def test_a_formula_rounds_once_if_the_pipeline_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """ARM's processors multiply and add in one instruction."""
    pipeline = fit(Ridge())

    def fma(first: float, second: float, third: float) -> float:
        return float(Fraction(first) * Fraction(second) + Fraction(third))

    def predict(matrix: Any) -> Any:
        values = []
        for row in matrix:
            total = 0.0
            for column, value in zip(row.indices, row.data, strict=True):
                total = fma(value, pipeline[1].coef_[column], total)
            values.append(total + pipeline[1].intercept_)
        return np.array(values)

    twice = pipeline.predict(RIDES[-1000:])
    pipeline[1].predict = predict
    monkeypatch.setattr(math, "fma", fma, raising=False)
    formula = find_formula(pipeline)
    assert formula is not None
    assert formula.multiply_add is fma
    assert bits(formula.compute(RIDES[-1000:])) == bits(pipeline.predict(RIDES[-1000:]))
    assert is_rounded_once() or bits(twice) != bits(pipeline.predict(RIDES[-1000:]))


@needs_fma
@pytest.mark.parametrize(
    "ride",
    [
        {"PU_DO": PAIRS[0], "trip_distance": 3},
        {"PU_DO": PAIRS[0], "trip_distance": True},
        {"PU_DO": PAIRS[0], "trip_distance": np.float32(3.66)},
        {"PU_DO": PAIRS[0], "trip_distance": "3.66"},
        {"PU_DO": PAIRS[0], "trip_distance": None},
        {"PU_DO": PAIRS[0], "trip_distance": math.nan},
        {"PU_DO": PAIRS[0], "trip_distance": math.inf},
        {"PU_DO": PAIRS[0], "trip_distance": 1.7e308},
        {"PU_DO": PAIRS[0], "trip_distance": 3.66, "hour": 7},
        {"PU_DO": [PAIRS[0]], "trip_distance": 3.66},
        {"PU_DO": 1, "trip_distance": 3.66},
        {"PU_DO": PAIRS[0]},
        {"trip_distance": 3.66},
        {"hour": 7, "trip_distance": 3.66},
        {},
    ],
    ids=str,
)
def test_unusual_rides_go_to_the_pipeline(ride: dict[str, Any]) -> None:
    """The pipeline gives the values and the errors, also if the batch has ordinary rides too."""
    pipeline = fit(Ridge(), [ride | {"hour": n % 24} for n, ride in enumerate(FITTED)])
    formula = find_formula(pipeline)
    assert formula is not None

    def outcome(call: Callable[[Any], Any]) -> Any:
        try:
            return bits(call([FITTED[0], ride]))
        except (TypeError, ValueError) as error:
            return str(error)

    assert formula.compute([FITTED[0], ride]) is None
    assert outcome(formula) == outcome(pipeline.predict)


@needs_fma
def test_a_linear_model_without_a_served_form_predicts_by_its_formula(tmp_path: Path) -> None:
    """The sample model's predictions are the pipeline's, and a ride with NaN gets the pipeline's error."""
    model = load_model(copy_without_served_form(SAMPLE_MODEL, tmp_path / "model"))
    formula: Any = model._call
    assert formula.compute([prepare_features(Ride(130, 205, 3.66))]) == model.predict([Ride(130, 205, 3.66)])
    theirs = Model(formula.fall_back, model.version)
    rides = [Ride(number % 270, number % 263, number / 7) for number in range(700)]
    assert model.predict(rides) == theirs.predict(rides)
    refused = [Ride(1, 1, math.nan), Ride(1, 1, 1.0)]
    assert [str(value) for value in model.predict(refused)] == [str(value) for value in theirs.predict(refused)]
