"""A trial of the verdicts: how often windows of real rides give a false alarm, and how often a change is seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.table import Column, Table

from baselines import RATIO, Baseline, Bins
from drift import explain_no_verdict, judge
from features import prepare_features
from model import Model, load_model
from ride_counts import Counter, RideCounts
from rides import MAX_TRIP_DISTANCE, Ride
from scripts import cli
from scripts.models.actual_errors import (
    ENDS,
    LEAST_RIDES_OF_A_ZONE,
    ActualRides,
    explain_no_error_verdict,
    judge_actuals,
)
from scripts.models.months import LEAST_SHARE_OF_A_MONTH
from scripts.models.proving import RIDES_A_CALL
from scripts.sources.download import open_trips
from served.arrays import Floats
from targets import find_target
from trips import is_usual, ride_events

LONGER = 1.1
DOUBLED = 2.0
ENOUGH_RIDES = 30
"""A zone with at least this number of rides in a window is not small."""
MOST_RIDES_OF_A_SMALL_ZONE = 15
AS_IS, LONGER_DISTANCES = "as they are", "distances 10 % longer"
ONE_ZONE, SMALL_ZONE = "one zone's values doubled", "a small zone's values doubled"
CONSECUTIVE, RANDOM = "consecutive", "random"
ALL_RIDES, USUAL_RIDES = "all", "usual"


@dataclass(frozen=True)
class TrialRow:
    """The outcome for windows of one kind with one change."""

    windows: str
    """``CONSECUTIVE`` or ``RANDOM``."""
    rides: str
    """``ALL_RIDES`` that the contract accepts, or only the ``USUAL_RIDES`` on which models are trained."""
    change: str
    number: int
    """The number of windows."""
    seen: int
    """The windows with drift. For a change, only the drift that it makes counts: of distances, or of this one zone."""
    tests: dict[str, int]
    """The number of windows in which each test found drift."""


@dataclass(frozen=True)
class _Rides:
    """Rides in the order of their pickups, with what a model predicts for them as they are and if they go further."""

    rides: list[Ride]
    further: list[Ride]
    hours: list[float]
    """Empty if the model does not want the time."""
    predicted: Floats
    predicted_further: Floats
    actual: ActualRides

    def choose(self, chosen: NDArray[np.bool_]) -> "_Rides":
        places = np.flatnonzero(chosen)
        rides, further = ([one[place] for place in places] for one in (self.rides, self.further))
        hours = [self.hours[place] for place in places] if self.hours else []
        predicted, predicted_further = self.predicted[chosen], self.predicted_further[chosen]
        return _Rides(rides, further, hours, predicted, predicted_further, self.actual.choose(chosen))


def run_trial(file: str, location: str, windows: int = 200, rides: int = 2_000, seed: int = 0) -> list[TrialRow]:
    """Return how often windows of a file's rides give a false alarm, and how often changes of them are seen.

    Args:
        file: a trip record file or its URL. For false alarms, it is one of the months that the model was trained on.
        location: the model, with a baseline.
        windows: the number of windows for each row.
        rides: the number of rides in each window.
        seed: decides which windows, and which zones are changed.

    Raises:
        CommandError: if there can be no verdict, or the file has too few rides.
        ModelError: if the model cannot be loaded.
        TripRecordError: if the file cannot be read.
    """
    model = load_model(location)
    bins = model.bins
    if not bins:
        raise cli.CommandError(f"{location} has no baseline that windows can be judged with: train the model again")
    baseline = bins.baseline
    every, usual = _read(file, model, baseline)
    reason = explain_no_verdict(baseline, RideCounts(bins.name, rides))
    if reason or len(usual.rides) < rides:
        raise cli.CommandError(reason or f"{file} has {len(usual.rides):,} usual rides: windows must have fewer")
    rows = []
    groups = [(kind, name, one) for kind in (CONSECUTIVE, RANDOM) for name, one in _name(every, usual)]
    with cli.progress_bar("windows") as progress:
        task = progress.add_task("Judging", total=len(groups) * windows)
        for kind, name, chosen in groups:
            trial = _Trial(baseline, bins, chosen)
            draw = np.random.default_rng(seed)
            for places in _draw_windows(kind, len(chosen.rides), windows, rides, draw):
                trial.judge_window(places, draw)
                progress.advance(task)
            rows += [TrialRow(kind, name, *row) for row in trial.rows()]
    return rows


def make_table(rows: Sequence[TrialRow], rides: int) -> Table:
    """Return the rows as a table."""
    names = ("windows", "rides", "change", "number", "drift seen")
    title = f"Windows of {rides:,} rides"
    table = Table(*names, Column("by", overflow="fold"), title=title, title_justify="left")
    for row in rows:
        tests = [f"{name} {count}" for name, count in sorted(row.tests.items(), key=lambda one: -one[1])]
        share = f"{row.seen} ({row.seen / row.number:.1%})" if row.number else "-"
        table.add_row(row.windows, row.rides, row.change, f"{row.number}", share, ", ".join(tests).replace("_", " "))
    return table


class _Trial:
    """Judges windows of some rides, as they are and changed, and counts the outcomes."""

    def __init__(self, baseline: Baseline, bins: Bins, rides: _Rides) -> None:
        self._baseline, self._bins, self._rides = baseline, bins, rides
        self._outcomes: dict[str, list[tuple[bool, set[str]]]] = {AS_IS: [], LONGER_DISTANCES: []}

    def judge_window(self, places: NDArray[Any], draw: np.random.Generator) -> None:
        rides, actual = self._rides, self._rides.actual.choose(places)
        drifts = self._find_drift(rides.rides, rides.predicted, places)
        # A verdict on actual values is one more that can be wrong.
        wrong = {f"actual values: {one.name}" for one in judge_actuals(self._baseline, actual) if one.excess > 1}
        self._outcomes[AS_IS].append((bool(drifts | wrong), drifts | wrong))
        drifts = self._find_drift(rides.further, rides.predicted_further, places)
        self._outcomes[LONGER_DISTANCES].append((RATIO in drifts or "trip_distance" in drifts, drifts))
        if explain_no_error_verdict(self._baseline, actual):
            return
        is_known = np.isfinite(actual.actual) & (actual.miles > 0)
        zones, counts = np.unique(actual.zones[is_known, 0], return_counts=True)
        is_small = (counts >= LEAST_RIDES_OF_A_ZONE) & (counts <= MOST_RIDES_OF_A_SMALL_ZONE)
        for change, candidates in ((ONE_ZONE, zones[counts >= ENOUGH_RIDES]), (SMALL_ZONE, zones[is_small])):
            if not len(candidates):
                continue
            zone = int(draw.choice(candidates))
            values = np.where(actual.zones[:, 0] == zone, DOUBLED * actual.actual, actual.actual)
            changed = ActualRides(actual.zones, actual.miles, actual.predicted, values)
            drift = [one for one in judge_actuals(self._baseline, changed) if one.excess > 1]
            is_seen = any(one.name == ENDS[0] and one.zone == zone for one in drift)
            others = {one.name for one in drift if one.name != ENDS[0] or one.zone != zone}
            outcome = {"this zone"} if is_seen else set()
            outcome |= {"others" if name == ENDS[0] else name for name in others}
            self._outcomes.setdefault(change, []).append((is_seen, outcome))

    def rows(self) -> Iterator[tuple[str, int, int, dict[str, int]]]:
        for change, outcomes in self._outcomes.items():
            names = sorted(set().union(*(tests for _, tests in outcomes)))
            tests = {name: sum(name in found for _, found in outcomes) for name in names}
            yield change, len(outcomes), sum(is_seen for is_seen, _ in outcomes), tests

    def _find_drift(self, rides: Sequence[Ride], predicted: Floats, places: NDArray[Any]) -> set[str]:
        chosen, hours = [rides[place] for place in places.tolist()], self._rides.hours
        counter = Counter(self._bins)
        counter.add(chosen, predicted[places].tolist(), [hours[place] for place in places.tolist()] if hours else ())
        return {one.name for one in judge(self._baseline, counter.total()) if one.excess > 1}


def _name(every: _Rides, usual: _Rides) -> list[tuple[str, _Rides]]:
    return [(ALL_RIDES, every), (USUAL_RIDES, usual)]


def _draw_windows(
    kind: str, rides: int, windows: int, size: int, draw: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of the rides of each window."""
    for _ in range(windows):
        if kind == RANDOM:
            yield draw.choice(rides, size, replace=False)
        else:
            yield int(draw.integers(0, rides - size + 1)) + np.arange(size)


def _read(file: str, model: Model, baseline: Baseline) -> tuple[_Rides, _Rides]:
    """Return all rides of the file's month that have a prediction, and the usual ones among them."""
    target = find_target(baseline.target, baseline.unit)
    with open_trips(file) as path:
        trips = ride_events(path, target)
    rides = [event.ride for event in trips.events]
    pickups = np.array([ride.pickup_datetime for ride in rides], "datetime64[s]")
    _, month, counts = np.unique(pickups.astype("datetime64[M]"), return_inverse=True, return_counts=True)
    order = np.argsort(pickups, kind="stable")
    order = order[(counts >= len(rides) * LEAST_SHARE_OF_A_MONTH)[month[order]]]
    rides = [rides[place] for place in order.tolist()]
    values = np.array(trips.actual, float)[order]
    usual = [target is None or is_usual(*one, target) for one in zip(rides, values.tolist(), strict=True)]
    further = [
        msgspec.structs.replace(ride, trip_distance=min(MAX_TRIP_DISTANCE, ride.trip_distance * LONGER))
        for ride in rides
    ]
    predicted = _predict(model, rides, "Predicting the rides")
    predicted_further = _predict(model, further, "Predicting longer rides")
    wanted = model.metadata
    hours = [prepare_features(ride, wanted.features)["hour"] for ride in rides] if wanted.wants_time else []
    every = _Rides(rides, further, hours, predicted, predicted_further, ActualRides.of(rides, predicted, values))
    has_value = np.isfinite(predicted) & np.isfinite(predicted_further)
    return every.choose(has_value), every.choose(has_value & np.array(usual))


def _predict(model: Model, rides: Sequence[Ride], text: str) -> Floats:
    """Return the predictions for rides, NaN if the model has none."""
    values: list[Any] = []
    with cli.progress_bar() as progress:
        task = progress.add_task(text, total=len(rides))
        for at in range(0, len(rides), RIDES_A_CALL):
            values += model.predict(rides[at : at + RIDES_A_CALL])
            progress.update(task, completed=len(values))
    return np.array([value if isinstance(value, float) else np.nan for value in values])
