"""Compiling: a known pipeline's served form gives the pipeline's doubles; any other pipeline is refused in a line."""

import warnings
from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    AdaBoostRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    RidgeCV,
    SGDRegressor,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.svm import LinearSVR
from sklearn.tree import DecisionTreeRegressor, ExtraTreeRegressor

from features import prepare_features
from scripts.models import proof_rides, tabulating
from scripts.models.compiled_inputs import NotUnderstoodError, find_sources
from scripts.models.compiling import ServedForm, compile_pipeline
from scripts.sources.synthetic import generate_events
from served import trees
from served.forms import read_form

RIDES: list[Any] = [dict(prepare_features(event.ride)) for event in generate_events(700, 0)]
DURATIONS = np.array([4 * ride["trip_distance"] ** 0.8 + len(ride["PU_DO"]) + at % 7 for at, ride in enumerate(RIDES)])
ODD_RIDES: list[Any] = [{"PU_DO": pair, "trip_distance": miles} for pair in ("0_0", "") for miles in (0.0, 1.37, 100.0)]
PAIR, MILES = ["PU_DO"], ["trip_distance"]
ONE_HOT = OneHotEncoder(handle_unknown="ignore")
DENSE_ONE_HOT = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
QUICK: dict[str, Any] = {"n_estimators": 5, "random_state": 0}


@pytest.fixture(autouse=True)
def few_random_rides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the proof of each of many pipelines shorter."""
    monkeypatch.setattr(proof_rides, "RANDOM_RIDES", 500)


def fit(transformer: Any, model: Any, rides: Any = RIDES, durations: Any = DURATIONS) -> Pipeline:
    """Return a pipeline, fitted to a DataFrame if its transformer takes one."""
    inputs = pd.DataFrame(rides) if isinstance(transformer, ColumnTransformer) else rides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some models do not converge
        return make_pipeline(transformer, model).fit(inputs, durations)


def compile_fitted(pipeline: Pipeline) -> ServedForm:
    """Compile a pipeline."""
    return compile_pipeline(pipeline, lambda rides: predict(pipeline, rides))


def predict(pipeline: Pipeline, rides: Sequence[Any]) -> Any:
    """Return the pipeline's own predictions for dictionaries."""
    return pipeline.predict(pd.DataFrame(rides) if isinstance(pipeline[0], ColumnTransformer) else rides)


def columns(*steps: Any, **options: Any) -> ColumnTransformer:
    """Return a ColumnTransformer."""
    return make_column_transformer(*steps, **options)


def vectorizer(**options: Any) -> DictVectorizer:
    """Return a DictVectorizer."""
    return DictVectorizer(**options)


SPARSE_LINEAR = [
    *(LinearRegression(), Ridge(), RidgeCV(), HuberRegressor(), QuantileRegressor(alpha=0.1)),
    Ridge(fit_intercept=False),
]
DENSE_LINEAR = [
    *(LinearRegression(), LinearRegression(positive=True), BayesianRidge(), Lasso(), ElasticNet()),
    *(SGDRegressor(max_iter=20), LinearSVR(max_iter=20)),
]
SPARSE_TREES = [
    *(DecisionTreeRegressor(random_state=0), DecisionTreeRegressor(max_depth=1), ExtraTreeRegressor(random_state=0)),
    *(RandomForestRegressor(**QUICK, n_jobs=-1), RandomForestRegressor(**QUICK, warm_start=True, max_features=0.3)),
    *(ExtraTreesRegressor(**QUICK), ExtraTreesRegressor(**QUICK, bootstrap=True, criterion="absolute_error")),
    *(GradientBoostingRegressor(**QUICK, loss=loss) for loss in ("squared_error", "absolute_error", "huber")),
    GradientBoostingRegressor(**QUICK, loss="quantile", alpha=0.3, subsample=0.5, learning_rate=0.37),
    GradientBoostingRegressor(**QUICK, init="zero", n_iter_no_change=1),
    GradientBoostingRegressor(**QUICK, init=DummyRegressor(strategy="constant", constant=3.0)),
    DecisionTreeRegressor(min_samples_leaf=2_000),
    GradientBoostingRegressor(n_estimators=2, min_samples_leaf=2_000),
]
DENSE_TREES = [
    *(HistGradientBoostingRegressor(max_iter=9, loss=loss) for loss in ("squared_error", "absolute_error")),
    HistGradientBoostingRegressor(max_iter=30, loss="quantile", quantile=0.9, early_stopping=True, n_iter_no_change=1),
    HistGradientBoostingRegressor(max_iter=9, min_samples_leaf=2_000),
    RandomForestRegressor(**QUICK, max_depth=4),
]
FRAMES: dict[str, tuple[Any, Any, str]] = {
    "one-hot": (columns((ONE_HOT, PAIR), ("passthrough", MILES)), RandomForestRegressor(**QUICK), "table"),
    "one-hot linear": (columns((ONE_HOT, PAIR), ("passthrough", MILES)), Ridge(), "linear"),
    "dense one-hot": (columns(("passthrough", MILES), (DENSE_ONE_HOT, PAIR)), ExtraTreesRegressor(**QUICK), "table"),
    "numbers of columns": (columns((ONE_HOT, [0]), ("passthrough", slice(1, 2))), Ridge(), "linear"),
    "remainder": (columns((ONE_HOT, PAIR), remainder="passthrough"), Ridge(), "linear"),
    "only miles": (columns(("drop", PAIR), remainder="passthrough"), RandomForestRegressor(**QUICK), "trees"),
    "only pairs": (columns((ONE_HOT, PAIR)), RandomForestRegressor(**QUICK), "trees"),
    "empty step": (columns((ONE_HOT, PAIR), (StandardScaler(), [])), Ridge(), "linear"),
    "target": (columns((TargetEncoder(), PAIR), ("passthrough", MILES)), RandomForestRegressor(**QUICK), "table"),
    "target boosted": (
        columns((TargetEncoder(smooth=20.0), PAIR), ("passthrough", MILES)),
        HistGradientBoostingRegressor(max_iter=20, monotonic_cst=[0, 1]),
        "table",
    ),
    "three encodings": (
        columns(*((TargetEncoder(smooth=smooth), PAIR) for smooth in (2.0, 20.0, 200.0)), ("passthrough", MILES)),
        HistGradientBoostingRegressor(max_iter=20),
        "trees",
    ),
    "both encodings": (
        columns((TargetEncoder(), PAIR), (DENSE_ONE_HOT, PAIR), ("passthrough", MILES)),
        GradientBoostingRegressor(**QUICK),
        "trees",
    ),
}
EQUAL = [
    *(pytest.param(vectorizer(), model, "linear", id=f"sparse-{model}") for model in SPARSE_LINEAR),
    *(pytest.param(vectorizer(), model, "table", id=f"sparse-{model}") for model in SPARSE_TREES),
    *(pytest.param(vectorizer(sparse=False), model, "table", id=f"dense-{model}") for model in DENSE_TREES),
    *(pytest.param(*case, id=name) for name, case in FRAMES.items()),
    pytest.param(vectorizer(separator="_", sort=False), Ridge(), "linear", id="separator in the names"),
    pytest.param(vectorizer(separator=""), RandomForestRegressor(**QUICK), "table", id="no separator"),
    pytest.param(vectorizer(separator="=PU_DO="), Ridge(), "linear", id="long separator"),
]


@pytest.mark.parametrize(("transformer", "model", "kind"), EQUAL)
def test_a_served_form_gives_the_pipelines_doubles(transformer: Any, model: Any, kind: str) -> None:
    """The file that was written is read again, and each double is the same to the last bit."""
    pipeline = fit(transformer, model)
    served = compile_fitted(pipeline)
    assert (served.kind, served.proof.largest_relative_difference) == (kind, 0.0)
    with joblib.parallel_config("sequential"):  # so that a forest adds its trees in order
        expected = np.ravel(predict(pipeline, [*RIDES, *ODD_RIDES]))
    assert read_form(served.content)([*RIDES, *ODD_RIDES]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("model", DENSE_LINEAR, ids=str)
@pytest.mark.parametrize(
    "transformer",
    [vectorizer(sparse=False), columns((TargetEncoder(), PAIR), ("passthrough", MILES))],
    ids=["dictionaries", "target encodings"],
)
def test_a_dense_linear_model_differs_by_rounding_alone(transformer: Any, model: Any) -> None:
    """BLAS multiplies dense matrices, and adds in another order."""
    pipeline = fit(transformer, model)
    served = compile_fitted(pipeline)
    assert served.kind == "linear"
    assert served.proof.largest_relative_difference <= 1e-12
    assert read_form(served.content)(RIDES) == pytest.approx(np.ravel(predict(pipeline, RIDES)), rel=1e-12)


@pytest.mark.parametrize("model", [RandomForestRegressor(**QUICK), GradientBoostingRegressor(**QUICK)], ids=str)
def test_trees_that_are_too_large_for_a_table_give_the_same_doubles(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form of these trees has the kind trees."""
    pipeline = fit(vectorizer(), model)
    monkeypatch.setattr(tabulating, "MAX_CELLS", 10)
    served = compile_fitted(pipeline)
    assert (served.kind, served.proof.largest_relative_difference) == ("trees", 0.0)
    assert read_form(served.content)(RIDES).tobytes() == predict(pipeline, RIDES).tobytes()


def test_a_tree_that_is_too_deep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline has no served form, because a service would not read such a tree."""
    monkeypatch.setattr(trees, "MAX_DEPTH", 5)
    with pytest.raises(NotUnderstoodError, match="a tree has more than 5 levels"):
        compile_fitted(fit(vectorizer(), DecisionTreeRegressor()))


@pytest.mark.parametrize("threshold", [-np.inf, -0.5, -0.0, 0.0, 0.25, 0.999, 1.0, 1.5, 250.0, np.inf])
@pytest.mark.parametrize("feature", [0, 1], ids=["a name", "a number"])
def test_a_tree_with_any_threshold_gives_the_same_doubles(feature: int, threshold: float) -> None:
    """scikit-learn splits a column of zeros and ones in the middle, but nothing promises that."""
    rides = [{"PU_DO": name, "trip_distance": miles} for name in ("1_1", "2_2") for miles in (0.0, 1.0, 99.0)]
    pipeline = fit(vectorizer(), DecisionTreeRegressor(max_depth=1), rides, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    tree = pipeline[1].tree_
    tree.feature[0], tree.threshold[0] = (0 if feature == 0 else 2), threshold
    served = compile_fitted(pipeline)
    assert read_form(served.content)(rides).tolist() == predict(pipeline, rides).tolist()


def test_the_progress_moves_through_the_table_and_the_proof() -> None:
    """The bar never goes back, and ends at its total."""
    for model in (RandomForestRegressor(**QUICK), Ridge()):
        pipeline = fit(vectorizer(), model)
        shown: list[float] = []

        def record(done: int, total: int, shown: list[float] = shown) -> None:
            shown.append(done / total)

        compile_pipeline(pipeline, pipeline.predict, record)
        assert shown == sorted(shown)
        assert shown[-1] == 1.0


class OwnRidge(Ridge):  # type: ignore[misc]
    """A model class of the user's own, which may predict in any way."""


ODD_INTERCEPTS: list[Any] = [np.inf, [1.0, 2.0], None]
ODD_TREES: list[Any] = [[], None, [Ridge()], [[None]]]
ODD_COEFFICIENTS: list[Any] = [None, "text", np.full(3, np.nan), np.ones(2), np.ones(3, np.float32)]


def with_pair(pair: str) -> list[Any]:
    """Return rides, some of which have a pair."""
    return [{"PU_DO": pair if number % 2 else "1_1", "trip_distance": float(number)} for number in range(20)]


SOME, HALF = RIDES[:20], DURATIONS[:20]
REFUSED: dict[str, tuple[Any, Any, Any, Any, str]] = {
    "subclass": (vectorizer(), OwnRidge(), SOME, HALF, "a OwnRidge is not known"),
    "log link": (vectorizer(), PoissonRegressor(), SOME, HALF, "a PoissonRegressor is not known"),
    "another model": (vectorizer(), AdaBoostRegressor(n_estimators=2), SOME, HALF, "a AdaBoostRegressor is not known"),
    "another transformer": (
        columns((StandardScaler(), MILES)),
        *(Ridge(), SOME, HALF, "a StandardScaler in a ColumnTransformer is not known"),
    ),
    "two targets": (vectorizer(), Ridge(), SOME, np.ones((20, 2)), "it has several targets"),
    "two targets, trees": (vectorizer(), ExtraTreesRegressor(2), SOME, np.ones((20, 2)), "it has several targets"),
    "loss": (
        vectorizer(sparse=False),
        *(HistGradientBoostingRegressor(loss="gamma"), SOME, HALF, "the loss gamma is not known"),
    ),
    "categories": (
        columns((TargetEncoder(), PAIR), ("passthrough", MILES)),
        *(HistGradientBoostingRegressor(categorical_features=[1]), SOME, HALF, "it has categorical_features"),
    ),
    "start": (vectorizer(), GradientBoostingRegressor(init=Ridge()), SOME, HALF, "it starts from the predictions"),
    "32 bits": (vectorizer(dtype=np.float32), Ridge(), SOME, HALF, "a DictVectorizer of the type float32"),
    "zero byte": (vectorizer(), Ridge(), with_pair("1\0"), HALF, "a text has a zero byte"),
    "surrogate": (vectorizer(), Ridge(), with_pair("\ud800"), HALF, "surrogates not allowed"),
    "two features": (
        vectorizer(),
        Ridge(),
        [{**ride, "hour": 3} for ride in SOME],
        HALF,
        "'hour', which is 0 features",
    ),
    "a pair's number": (vectorizer(), Ridge(), [*SOME, {"PU_DO": 3}], [*HALF, 1.0], "'PU_DO', which is 0 features"),
    "error for unseen": (columns((OneHotEncoder(), PAIR)), Ridge(), SOME, HALF, "a OneHotEncoder is known only with"),
    "rare names": (
        columns((OneHotEncoder(handle_unknown="ignore", min_frequency=3), PAIR)),
        *(Ridge(), RIDES, DURATIONS, "a OneHotEncoder is known only with"),
    ),
    "dropped name": (
        columns((OneHotEncoder(handle_unknown="ignore", drop="first"), PAIR)),
        *(Ridge(), RIDES, DURATIONS, "a OneHotEncoder is known only with"),
    ),
    "twice": (columns((ONE_HOT, PAIR), (DENSE_ONE_HOT, PAIR)), Ridge(), SOME, HALF, "'PU_DO' has two columns for"),
    "miles one-hot": (columns((ONE_HOT, MILES)), Ridge(), SOME, HALF, "the categories of trip_distance are not all"),
    "classes": (
        columns((TargetEncoder(target_type="binary"), PAIR)),
        *(Ridge(), SOME, [0, 1] * 10, "a TargetEncoder of classes is not known"),
    ),
    "weights": (
        ColumnTransformer([("pair", ONE_HOT, PAIR)], transformer_weights={"pair": 2.0}),
        *(Ridge(), SOME, HALF, "transformer_weights"),
    ),
    "another feature": (
        columns(("passthrough", ["hour"])),
        *(Ridge(), [{**ride, "hour": 3} for ride in SOME], HALF, "a feature 'hour', which rides do not have"),
    ),
}


@pytest.mark.parametrize(("transformer", "model", "rides", "durations", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_pipeline_that_is_not_understood_is_refused_in_one_line(
    transformer: Any, model: Any, rides: Any, durations: Any, reason: str
) -> None:
    """The error is one line with the reason, because train prints it."""
    with np.errstate(all="ignore"):
        pipeline = fit(transformer, model, rides, durations)
        with pytest.raises(NotUnderstoodError) as raised:
            compile_fitted(pipeline)
    assert reason in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("model", "attribute", "value"),
    [
        *((Ridge(), "coef_", value) for value in ODD_COEFFICIENTS),
        *((Ridge(), "intercept_", value) for value in ODD_INTERCEPTS),
        *((RandomForestRegressor(**QUICK), "estimators_", value) for value in ODD_TREES),
        *((HistGradientBoostingRegressor(max_iter=2), "_predictors", value) for value in ODD_TREES),
        (DecisionTreeRegressor(), "tree_", None),
        (GradientBoostingRegressor(**QUICK), "learning_rate", np.nan),
    ],
)
def test_odd_fitted_attributes_are_refused(model: Any, attribute: str, value: Any) -> None:
    """A pipeline is refused if its attributes were changed after it was fitted."""
    rides = [{"PU_DO": name, "trip_distance": miles} for name in ("1_1", "2_2") for miles in (1.0, 2.0)]
    pipeline = fit(vectorizer(sparse=False), model, rides, [1.0, 2.0, 3.0, 4.0])
    vars(pipeline[1]).update({attribute: value})
    with pytest.raises(NotUnderstoodError) as raised:
        compile_fitted(pipeline)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "pipeline",
    [
        *(Ridge(), "a text", make_pipeline(vectorizer(), StandardScaler(with_mean=False), Ridge())),
        *(make_pipeline(vectorizer(), Ridge()), make_pipeline(vectorizer(), RandomForestRegressor())),
        *(make_pipeline(columns((ONE_HOT, PAIR)), Ridge()), make_pipeline("passthrough", "passthrough")),
        make_pipeline(BaseEstimator(), Ridge()),
    ],
    ids=str,
)
def test_any_other_object_is_refused(pipeline: Any) -> None:
    """The object is not a pipeline, is a longer pipeline, or was never fitted."""
    with pytest.raises(NotUnderstoodError):
        compile_pipeline(pipeline, lambda rides: np.zeros(len(rides)))


def test_only_an_ordinary_ride_says_which_features_are_texts() -> None:
    """If a later contract has more features, the compiler needs no change."""
    ride = {"PU_DO": "1_2", "PU": "1", "hour": 3, "trip_distance": 1.0}
    fitted = DictVectorizer().fit([ride, {**ride, "PU": "PU_DO=1"}])
    sources = [(type(source).__name__, source.feature) for source in find_sources(fitted, ride)]
    names = [("NameSource", "PU"), ("NameSource", "PU"), ("NameSource", "PU_DO")]
    assert sources == [*names, ("NumberSource", "hour"), ("NumberSource", "trip_distance")]
    with pytest.raises(NotUnderstoodError, match="is 2 features"):
        find_sources(DictVectorizer(separator="_").fit([{"PU": "DO_1"}]), ride)
