"""The proof of a served form: the rides that it compares, and the damage that it finds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline

from features import prepare_features
from rides import MAX_TRIP_DISTANCE
from scripts.models import form_rides, proof_rides, tabulating, tree_rides
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import compile_arrays, compile_pipeline
from scripts.models.limits import largest_up_to, smallest_above
from scripts.models.proving import prove
from scripts.sources.synthetic import PAIRS, generate_events
from served.arrays import read_file, write_file
from served.forms import Form, read_form
from served.trees import Trees

RIDES: list[Any] = [dict(prepare_features(event.ride)) for event in generate_events(1_000, 0)]
DURATIONS = np.array([3 * ride["trip_distance"] + len(ride["PU_DO"]) + at % 5 for at, ride in enumerate(RIDES)])
FOREST = RandomForestRegressor(n_estimators=3, max_depth=6, random_state=0)
BOOSTED = HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=8)
SLOW_BOOSTED = GradientBoostingRegressor(n_estimators=5)


def fit(model: Any) -> Pipeline:
    """Return a fitted pipeline. Histograms need a dense matrix."""
    return make_pipeline(DictVectorizer(sparse=not isinstance(model, type(BOOSTED))), model).fit(RIDES, DURATIONS)


def find_rides(form: Form, pipeline: Pipeline) -> list[Any]:
    """Return the rides on which compiling compares a form with its pipeline."""
    trees = compile_arrays(pipeline)
    return list(proof_rides.proof_rides(form, trees if isinstance(trees, Trees) else None))


def next_double(values: Any, at: Any) -> None:
    """Make one number larger by its last bit."""
    values[at] = np.nextafter(values[at], np.inf)


def next_single(values: Any, at: Any) -> None:
    """Make one number larger by the last bit of a number of 32 bits, because a forest compares such numbers."""
    values[at] = np.nextafter(np.float32(values[at]), np.float32(np.inf))


def larger(values: Any, at: Any) -> None:
    """Make one number larger by a billionth."""
    values[at] += 1e-9 * max(1.0, abs(values[at]))


DAMAGES: list[tuple[Any, bool, str, Callable[[Any, Any], None]]] = [
    (Ridge(), True, "weights", larger),
    (Ridge(), True, "values 0", larger),
    (FOREST, True, "values", next_double),
    (FOREST, True, "thresholds", next_single),
    (BOOSTED, True, "thresholds", next_double),
    (SLOW_BOOSTED, True, "values", next_double),
    (FOREST, False, "value", larger),
    (FOREST, False, "low", next_single),
    (BOOSTED, False, "value", larger),
    (BOOSTED, False, "low", next_double),
    (SLOW_BOOSTED, False, "value", larger),
]
"""A model, whether its trees become a table, an array of the form, and the damage to one of the array's numbers."""


@pytest.mark.parametrize(
    ("model", "as_table", "name", "damage"),
    DAMAGES,
    ids=[f"{type(m).__name__}-{name}-{d.__name__}-{table}" for m, table, name, d in DAMAGES],
)
def test_one_wrong_number_is_found(
    model: Any, as_table: bool, name: str, damage: Callable[[Any, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten numbers that a ride can reach are damaged, one at a time: coefficients, leaves, cells or thresholds."""
    if not as_table:
        monkeypatch.setattr(tabulating, "MAX_CELLS", 1)
    pipeline = fit(model)
    served = compile_pipeline(pipeline, pipeline.predict)
    form = read_form(served.content)
    rides = find_rides(form, pipeline)
    predicted = pipeline.predict(rides)
    description, arrays = read_file(served.content)
    places = find_places(arrays, name)
    assert len(places)
    chosen = places if len(places) < 10 else np.random.default_rng(0).choice(places, 10, replace=False)
    for place in chosen:
        damaged = {key: array.copy() for key, array in arrays.items()}
        damage(damaged[name], tuple(place))
        with pytest.raises(NotUnderstoodError, match="its served form predicts"):
            prove(read_form(write_file(description, damaged)), answers(rides, predicted), rides)


def find_places(arrays: Any, name: str) -> Any:
    """Return the places in an array whose numbers make a difference for some ride."""
    if name == "thresholds":
        # The value of some row changes at the threshold.
        return np.argwhere((np.diff(arrays["values"], axis=1) != 0).any(axis=0))
    if name in ("low", "value"):
        first, is_test = arrays["first"], arrays["first"] != np.arange(len(arrays["first"]))
        is_number = is_test & np.isposinf(arrays["high"]) & np.isfinite(arrays["low"])
        children = first[is_number]
        is_number[is_number] = is_leaf_pair(arrays, children)
        return np.argwhere(is_number if name == "low" else ~is_test)
    return np.argwhere(np.isfinite(arrays[name]))


def is_leaf_pair(arrays: Any, children: Any) -> Any:
    """Return which children are two leaves of different values."""
    both = np.stack([children, children + 1])
    return (arrays["first"][both] == both).all(axis=0) & (arrays["value"][both[0]] != arrays["value"][both[1]])


def answers(rides: list[Any], predicted: Any) -> Callable[[Any], Any]:
    """Return a function that gives earlier predictions in order: the pipeline is called once for all damages."""
    start = iter(range(0, len(rides), 20_000))
    return lambda part: predicted[(at := next(start)) : at + len(part)]


def test_the_proof_compares_all_kinds_of_rides() -> None:
    """They have known and unseen pairs, random distances, each threshold and the numbers beside it, and each leaf."""
    pipeline = fit(BOOSTED)
    served = compile_pipeline(pipeline, pipeline.predict)
    form = read_form(served.content)
    rides = find_rides(form, pipeline)
    assert served.proof.rides == len(rides) > proof_rides.RANDOM_RIDES == 100_000
    pairs, distances = {ride["PU_DO"] for ride in rides}, {ride["trip_distance"] for ride in rides}
    assert pairs >= {*proof_rides.UNSEEN_PAIRS, *form_rides.known_names(form, "PU_DO")}
    assert len(pairs - {f"{pickup}_{dropoff}" for pickup, dropoff in PAIRS}) > 1_000
    assert len(distances) > 40_000
    thresholds = form.thresholds(1)
    beside = [thresholds, np.nextafter(thresholds, -np.inf), np.nextafter(thresholds, np.inf)]
    single = [largest_up_to(thresholds, single=True), smallest_above(thresholds, single=True)]
    assert distances >= {miles for part in [*beside, *single] for miles in part.tolist() if 0 <= miles <= 100}
    ordinary = [miles for miles in distances if 0 <= miles <= MAX_TRIP_DISTANCE]
    assert (min(ordinary), max(ordinary)) == (0.0, MAX_TRIP_DISTANCE)


@pytest.mark.parametrize("model", [FOREST, SLOW_BOOSTED], ids=lambda model: type(model).__name__)
def test_each_leaf_has_a_ride_at_both_ends_of_its_range(model: Any) -> None:
    """scikit-learn's own trees lead some ride to each leaf, so both sides of each test are compared."""
    pipeline = fit(model)
    trees = compile_arrays(pipeline)
    assert isinstance(trees, Trees)
    matrix = pipeline[0].transform(tree_rides.leaf_rides(trees))
    for tree, leaves in zip(np.ravel(pipeline[1].estimators_), pipeline[1].apply(matrix).T, strict=True):
        assert set(leaves.astype(int).tolist()) == set(np.flatnonzero(tree.tree_.children_left < 0).tolist())


@pytest.mark.parametrize("limit", [0.1, 1.0, 1 + 2**-30, 1 - 2**-30, 0.0, -0.1, -1.0, 16777217.0])
def test_the_numbers_beside_a_limit_are_neighbours(limit: float) -> None:
    """One number is not above the limit, the other number is, and there is no number between them."""
    for single, number in ((False, np.float64), (True, np.float32)):
        below, above = largest_up_to(np.array([limit]), single=single), smallest_above(np.array([limit]), single=single)
        assert below.item() <= limit < above.item()
        assert np.nextafter(number(below.item()), number(np.inf)) == above.item()
        assert number(below.item()) == below.item()
