"""Sums that replace forests: which pipelines have one, and that its doubles are the same."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import BaggingRegressor, ExtraTreesRegressor, GradientBoostingRegressor, RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler

import forests
from forests import find_tree_sum
from proofs import PROOF_DISTANCES

_random = random.Random(20230100)  # noqa: S311
PAIRS = [f"{_random.randint(1, 263)}_{_random.randint(1, 263)}" for _ in range(200)]
RIDES: list[dict[str, Any]] = [
    {"PU_DO": _random.choice([*PAIRS, "0_0", ""]), "trip_distance": miles}
    for miles in [*PROOF_DISTANCES, *(_random.expovariate(0.3) for _ in range(3_000))]
]
DURATIONS = [5 + ride["trip_distance"] * 3.1 + _random.gauss(0, 2) for ride in RIDES]


class OwnForest(RandomForestRegressor):  # type: ignore[misc]
    """A forest that may predict in another way than its base class."""


def fit(model: Any, durations: Any = DURATIONS, **options: Any) -> Any:
    """Return a fitted pipeline of a DictVectorizer with these options and a model."""
    return make_pipeline(DictVectorizer(**options), model).fit(RIDES, durations)


def forest(kind: Any = RandomForestRegressor, **options: Any) -> Any:
    """Return a small forest."""
    return kind(n_estimators=12, max_depth=8, random_state=0, **options)


def damage(change: Callable[[Any, Any], object]) -> Any:
    """Return a fitted pipeline whose vectorizer and forest were changed."""
    pipeline = fit(forest())
    change(*(step for _, step in pipeline.steps))
    return pipeline


FORESTS: dict[str, Callable[[], Any]] = {
    "random forest": lambda: fit(forest()),
    "extra trees": lambda: fit(forest(ExtraTreesRegressor)),
    "dense": lambda: fit(forest(), sparse=False),
    "another separator": lambda: fit(forest(), separator=": "),
    "numbers of 32 bits": lambda: fit(forest(), sparse=False, dtype=np.float32),
    "one tree": lambda: fit(RandomForestRegressor(1, random_state=0)),
    "absolute error": lambda: fit(RandomForestRegressor(3, max_depth=3, criterion="absolute_error", random_state=0)),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "a bare forest": lambda: fit(forest())[-1],
    "gradient boosting": lambda: fit(GradientBoostingRegressor(n_estimators=5)),
    "bagging": lambda: fit(BaggingRegressor(n_estimators=3)),
    "a subclass": lambda: fit(forest(OwnForest)),
    "two values": lambda: fit(forest(), [[one, one] for one in DURATIONS]),
    "a step between": lambda: make_pipeline(DictVectorizer(), MaxAbsScaler(), forest()).fit(RIDES, DURATIONS),
    "not fitted": lambda: make_pipeline(DictVectorizer(), forest()),
    "no trees": lambda: damage(lambda _, model: model.estimators_.clear()),
    "a column too many": lambda: damage(lambda vectorizer, _: vectorizer.vocabulary_.update(more=len(PAIRS) + 9)),
    "a column that is not there": lambda: damage(
        lambda vectorizer, _: vectorizer.vocabulary_.update({"trip_distance": 10**6})
    ),
    "a negative column": lambda: damage(lambda vectorizer, _: vectorizer.vocabulary_.update({"trip_distance": -1})),
    "a tree of other columns": lambda: damage(lambda _, model: model.estimators_.append(fit_tree_of_one_column())),
    "not a pipeline": lambda: None,
}


def fit_tree_of_one_column() -> Any:
    """Return a fitted tree that knows only distances."""
    return forest().fit([[ride["trip_distance"]] for ride in RIDES], DURATIONS).estimators_[0]


@pytest.mark.parametrize("kind", FORESTS)
def test_a_sum_gives_the_same_doubles_as_its_pipeline(kind: str) -> None:
    """Many rides in one call, and single ones."""
    pipeline: Pipeline = FORESTS[kind]()
    tree_sum = find_tree_sum(pipeline)
    assert tree_sum is not None
    assert tree_sum(RIDES).tolist() == pipeline.predict(RIDES).tolist()
    assert [tree_sum([ride])[0] for ride in RIDES[:40]] == [pipeline.predict([ride])[0] for ride in RIDES[:40]]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_and_damaged_pipelines_predict_themselves(kind: str) -> None:
    """They do what they did without this module, and no tree reads a column that is not there."""
    assert find_tree_sum(OTHERS[kind]()) is None


def test_a_sum_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof finds a difference in the last bit."""
    pipeline = fit(forest())
    predict = pipeline.predict
    monkeypatch.setattr(pipeline, "predict", lambda rides: np.nextafter(predict(rides), math.inf))
    assert find_tree_sum(pipeline) is None


@pytest.mark.parametrize("miles", [math.nan, math.inf, 1e39])
def test_the_pipeline_judges_numbers_that_are_not_finite(miles: float) -> None:
    """It refuses some of them. In 32 bits, 1e39 is infinite."""
    pipeline = fit(forest())
    tree_sum = find_tree_sum(pipeline)
    assert tree_sum is not None
    outcomes = []
    for predict in (pipeline.predict, tree_sum):
        try:
            outcomes.append(predict([{"PU_DO": "1_1", "trip_distance": miles}]).tolist())
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_no_forest_is_forgotten() -> None:
    """Each class that may have a sum is tried above."""
    assert {type(make()[-1]).__name__ for make in FORESTS.values()} == forests.FORESTS
