"""The proof of a boosted model: each wrong number in its served form is found, or makes no difference to any ride."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from features import ZONES, prepare_features
from scripts.models import form_rides, proof_rides
from scripts.models.boosting import WITH_TIME, fit_boosted
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import compile_arrays
from scripts.models.proving import prove
from scripts.models.training import predict_with
from scripts.models.tree_rides import UNSEEN, leaf_rides
from scripts.sources.synthetic import generate_events
from served.columns import Category, Number
from served.forms import read_form, write_form
from served.trees import Trees

RIDES: list[Any] = [prepare_features(event.ride, WITH_TIME) for event in generate_events(2_000, 0)]
DURATIONS = [
    3 * ride["trip_distance"] + len(ride["PU_DO"]) + abs(ride["hour"] - 14) + ride["weekday"] + at % 5
    for at, ride in enumerate(RIDES)
]
MUTATIONS = 40
"""The most mutations of a kind: they are drawn at random."""


@functools.cache
def fit() -> tuple[Pipeline, Trees]:
    """Return a boosted model with few small trees, whose rides can all be tried, and its arrays."""
    pipeline = fit_boosted(RIDES, DURATIONS, WITH_TIME, 0)
    frame = pd.DataFrame(RIDES, columns=list(WITH_TIME))
    pipeline[1].set_params(max_iter=30, max_leaf_nodes=8, learning_rate=0.3)
    pipeline[1].fit(pipeline[0].transform(frame), DURATIONS)
    trees = compile_arrays(pipeline, WITH_TIME)
    assert isinstance(trees, Trees)
    return pipeline, trees


def change(trees: Trees, columns: Mapping[int, Any] = {}, **arrays: NDArray[Any]) -> Trees:
    """Return trees with some other columns, by their places, or with other arrays."""
    nodes = trees.arrays() | arrays
    return Trees([columns.get(place, column) for place, column in enumerate(trees.columns)], nodes, nodes.pop("ends"))


def next_thresholds(trees: Trees, step: float) -> Iterator[Trees]:
    """Yield the trees with one threshold moved to the next double."""
    for place in np.flatnonzero(np.isfinite(trees.arrays()["low"])):
        low = trees.arrays()["low"].copy()
        low[place] = np.nextafter(low[place], step)
        yield change(trees, low=low)


def next_leaves(trees: Trees) -> Iterator[Trees]:
    """Yield the trees with the value of one leaf a billionth larger."""
    arrays = trees.arrays()
    for place in np.flatnonzero(arrays["first"] == np.arange(len(arrays["first"]))):
        value = arrays["value"].copy()
        value[place] += 1e-9 * max(1.0, abs(value[place]))
        yield change(trees, value=value)


def next_names(trees: Trees, step: int) -> Iterator[Trees]:
    """Yield the trees with the value of one name, or of all unseen names, moved across one threshold."""
    for place, column in enumerate(trees.columns):
        if isinstance(column, Number):
            continue
        names, values = column.names_and_values()
        limits = trees.thresholds(place)
        for at, value in enumerate([*values, column.other]):
            rank = int(limits.searchsorted(value)) + min(step, 0)
            if 0 <= rank < len(limits):
                moved = np.array([*values, column.other])
                moved[at] = limits[rank] if step < 0 else np.nextafter(limits[rank], np.inf)
                other = Category(column.feature, names, moved[:-1], float(moved[-1]))
                yield change(trees, {place: other})


def inclusive(trees: Trees) -> Iterator[Trees]:
    """Yield the trees with ``<`` in the place of ``<=`` in all tests of one column."""
    arrays = trees.arrays()
    for place in range(len(trees.columns)):
        is_test = (arrays["column"] == place) & np.isfinite(arrays["low"])
        yield change(trees, low=np.where(is_test, np.nextafter(arrays["low"], -np.inf), arrays["low"]))


def swapped(trees: Trees) -> Iterator[Trees]:
    """Yield the trees with each two of their columns swapped."""
    for one, other in itertools.combinations(range(len(trees.columns)), 2):
        yield change(trees, {one: trees.columns[other], other: trees.columns[one]})


KINDS: dict[str, Callable[[Trees], Iterator[Trees]]] = {
    "threshold up": lambda trees: next_thresholds(trees, np.inf),
    "threshold down": lambda trees: next_thresholds(trees, -np.inf),
    "leaf": next_leaves,
    "name up": lambda trees: next_names(trees, 1),
    "name down": lambda trees: next_names(trees, -1),
    "less than": inclusive,
    "swapped": swapped,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_mutation_is_found_or_makes_no_difference(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random rides are few, so that the rides at thresholds, to leaves and with names must find the mutations.

    A mutation that is not found is tried on all combinations of values on both sides of all tests of a tree.
    """
    monkeypatch.setattr(proof_rides, "RANDOM_RIDES", 100)
    monkeypatch.setattr(proof_rides, "GOLDEN_PAIRS", 10)
    pipeline, trees = fit()
    form = read_form(write_form(trees))
    rides = list(proof_rides.proof_rides(form, trees))
    predicted = predict_with(pipeline, WITH_TIME)(rides)
    assert prove(form, lambda _: predicted, rides).largest_relative_difference == 0.0
    every = list(KINDS[kind](trees))
    found = 0
    for place in np.random.default_rng(0).permutation(len(every))[:MUTATIONS].tolist():
        try:
            prove(read_form(write_form(every[place])), lambda _: predicted, rides)
        except NotUnderstoodError:
            found += 1
        else:
            assert not makes_a_difference(trees, every[place])
    # Names have few thresholds of a hundredth of their values, so only numbers are equal to thresholds.
    assert found >= (3 if kind in ("threshold up", "threshold down", "less than") else 15)


def makes_a_difference(trees: Trees, other: Trees) -> bool:
    """Return whether some tree leads some ride to another value: all combinations of values are tried."""
    for root in trees.arrays()["roots"]:
        values = [
            find_values(feature, (trees, find_nodes(trees, root)), (other, find_nodes(other, root)))
            for feature in WITH_TIME
        ]
        for chosen in itertools.product(*values):
            ride = dict(zip(WITH_TIME, chosen, strict=True))
            if walk(trees, root, ride) != walk(other, root, ride):
                return True
    return False


def find_nodes(trees: Trees, root: int) -> list[int]:
    """Return the nodes of a tree."""
    first, found = trees.arrays()["first"], [int(root)]
    for node in found:  # it grows while it is read
        if first[node] != node:
            found += [int(first[node]), int(first[node]) + 1]
    return found


def find_values(feature: str, *parts: tuple[Trees, Sequence[int]]) -> list[Any]:
    """Return values of a feature for all combinations of results that its tests in these nodes can have."""
    tests = [
        (trees.columns[trees.arrays()["column"][node]], float(trees.arrays()["low"][node]))
        for trees, nodes in parts
        for node in nodes
        if np.isfinite(trees.arrays()["low"][node]) and trees.columns[trees.arrays()["column"][node]].feature == feature
    ]
    lows = [low for column, low in tests if isinstance(column, Number)]
    names = {name for column, _ in tests if isinstance(column, Category) for name in column.names_and_values()[0]}
    values: list[Any] = [0.0, *lows, *np.nextafter(lows, np.inf).tolist()]
    if feature in ("PU_DO", *ZONES):
        values = [UNSEEN, *names]
    read = {id(column): column.read([{feature: value} for value in values]) for column, _ in tests}
    results = zip(*((read[id(column)] > low).tolist() for column, low in tests), strict=True)
    return list(dict(zip(results, values, strict=True)).values()) if tests else values[:1]


def walk(trees: Trees, root: int, ride: Mapping[str, Any]) -> float:
    """Return the value of the leaf of a tree to which a ride goes."""
    arrays, at = trees.arrays(), int(root)
    while arrays["first"][at] != at:
        column = trees.columns[arrays["column"][at]]
        at = int(arrays["first"][at]) + bool(column.read([ride])[0] > arrays["low"][at])
    return float(arrays["value"][at])


def test_the_proof_meets_unusual_zones_and_every_time() -> None:
    """Some rides have an unseen pair of known zones, or a zone that is known on one side only, or nothing known."""
    _, trees = fit()
    rides = list(itertools.islice(proof_rides.proof_rides(trees, trees), 30_000))
    pairs, pickups, dropoffs = (set(form_rides.known_names(trees, name)) for name in ("PU_DO", *ZONES))
    known = {
        (ride["PU_DO"] in pairs, ride["PULocationID"] in pickups, ride["DOLocationID"] in dropoffs) for ride in rides
    }
    assert known == {(True, True, True), *((False, *zones) for zones in itertools.product((True, False), repeat=2))}
    assert {ride["weekday"] for ride in rides} == set(map(float, range(7)))
    seconds = sorted({round(ride["hour"] * 3600) for ride in rides})
    assert (seconds[0], seconds[-1]) == (0, 86_399)
    assert len(seconds) > 15_000
    # The hours are the doubles that rides have.
    day = pd.date_range("2023-01-01", periods=86_400, freq="s")
    hours = (day.hour + day.minute / 60 + day.second / 3600).to_numpy()
    assert {ride["hour"] for ride in rides} <= set(hours.tolist())


def test_a_leaf_ride_satisfies_all_encodings_of_a_pair() -> None:
    """Each leaf that some ride can reach has a ride, though a pair has three values, which different tests read."""
    _, trees = fit()
    rides = leaf_rides(trees)
    reached = {root: {walk(trees, root, ride) for ride in rides} for root in trees.arrays()["roots"].tolist()}
    for root, values in reached.items():
        nodes = find_nodes(trees, root)
        every = itertools.product(*(find_values(feature, (trees, nodes)) for feature in WITH_TIME))
        assert values == {walk(trees, root, dict(zip(WITH_TIME, chosen, strict=True))) for chosen in every}
