"""A model's baseline: histograms of its training rides, how much their windows differ, and the model's errors.

Later rides are counted into the same bins and compared with it: see ``baselines`` and ``drift``. The edges do not
depend on the rides that are counted, so the counts of two parts of the rides add up to the counts of all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from baselines import DISTANCE, FORMAT, HOUR, PICKUP, PREDICTION, RATIO, UNSEEN, Baseline
from drift import find_shares
from rides import Ride
from scripts.models.actual_errors import ActualRides, pack
from scripts.models.calibration import WITHOUT_DISTANCE_BINS, calibrate, count_bins
from scripts.models.error_calibration import calibrate_errors, measure_bins
from scripts.models.evaluation import measure_errors
from scripts.models.months import RideSet
from served.arrays import Floats
from targets import Target

FILE = "baseline.json"
MILES = (0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30)
"""The edges are further apart for longer rides: a change of a tenth moves rides of each length into other bins."""
RATIOS = (0.5, 0.7, 0.8, 0.875, 0.925, 0.975, 1.025, 1.075, 1.125, 1.2, 1.3, 1.5, 2)
"""No edge is 1, because rounding would then decide in which bin rides of exactly the usual distance are."""
HOURS = tuple(range(1, 24))
PREDICTION_BINS = 20
"""Each bin has the same share of the predictions for the training rides."""
USUAL_RIDES = 10
"""A pair of zones has a usual distance if at least this number of training rides have the pair: their mean."""
LEAST_SHARE_OF_A_ZONE = 0.005
"""Zones where a smaller share of the training rides begins have no bin of their own."""
Predict: TypeAlias = Callable[[Sequence[Ride]], Floats]


def make_edges(predictions: Floats) -> dict[str, list[float]]:
    """Return the edges of the histograms, for a model with these predictions."""
    shares = np.arange(1, PREDICTION_BINS) / PREDICTION_BINS
    # Each edge is between two predictions, and equal to neither, because another loader may round a prediction in
    # another way. Many predictions may be the same, so there may be fewer edges.
    known = np.unique(predictions)
    above = np.unique(np.searchsorted(known, np.quantile(predictions, shares, method="higher")))
    above = above[above > 0]
    between = np.unique((known[above - 1] + known[above]) / 2)
    every = {DISTANCE: MILES, RATIO: RATIOS, PREDICTION: between.tolist(), HOUR: HOURS}
    return {name: [float(edge) for edge in edges] for name, edges in every.items()}


def find_bins(edges: Any, column: Any) -> Any:
    """Return the bin of each number."""
    return np.searchsorted(edges, column, side="right")


def make_baseline(
    training: RideSet, validation: RideSet, predicted: Floats, target: Target, predict: Predict
) -> dict[str, Any]:
    """Return the content of the file, in the format of docs/formats.md. Rides with an unusual pickup are left out.

    Args:
        training: the rides that the model was trained on.
        validation: rides that the model was not trained on.
        predicted: the model's predictions for the validation rides.
        target: what the model predicts.
        predict: returns the model's predictions for rides.
    """
    columns = _make_columns(training, predict)
    fitted = columns.predicted[columns.is_trained]
    edges = make_edges(fitted)
    keys, times = np.unique(pack(columns.zones[columns.is_trained]), return_counts=True)
    miles = np.bincount(
        np.searchsorted(keys, pack(columns.zones[columns.is_trained])), columns.miles[columns.is_trained]
    )
    pickups, pickup_rides = np.unique(columns.zones[columns.is_counted, 0], return_counts=True)
    pickup_zones = pickups[pickup_rides >= LEAST_SHARE_OF_A_ZONE * columns.is_counted.sum()]
    bins, sizes = _find_bins(columns, edges, keys, times, miles, pickup_zones)
    is_trained = columns.is_trained[columns.is_counted]
    groups = [bins] if is_trained.all() else [bins, {name: one[is_trained] for name, one in bins.items()}]
    counts = count_bins(bins, sizes)
    without_distance = int(counts.pop(WITHOUT_DISTANCE_BINS)[1])
    usual_miles = np.where(times >= USUAL_RIDES, miles / times, 0.0).tolist()
    names = [f"{key >> 31}_{key & (1 << 31) - 1}" for key in keys.tolist()]
    own = ActualRides(columns.zones, columns.miles, columns.predicted, columns.actual)
    own = own.choose(columns.is_counted).choose_judged(target)
    every, usual = _join_actuals(validation, predicted, target, predict)
    baseline = Baseline(
        target=target.name,
        unit=target.unit,
        edges=edges,
        pickup_zones=pickup_zones.tolist(),
        rides=len(is_trained) - without_distance,
        without_distance=without_distance,
        counts={name: found.tolist() for name, found in counts.items()},
        scales=calibrate(groups, sizes, find_shares(counts, without_distance)),
        errors=measure_bins(usual, edges[PREDICTION], keys),
        error_scale=None,
        pairs={name: float(f"{one:.4g}") for name, one in zip(names, usual_miles, strict=True)},
    )
    baseline = msgspec.structs.replace(baseline, error_scale=calibrate_errors(baseline, every, usual, own))
    weeks = list_weeks(validation, predicted, set(names))
    return {"format": FORMAT, **msgspec.to_builtins(baseline), "weeks": weeks}


def list_weeks(validation: RideSet, predicted: Floats, pairs: set[str]) -> list[dict[str, Any]]:
    """Return the number of rides, of unseen pairs, and the errors for each week of the validation rides."""
    is_unseen = np.array([f"{ride.PULocationID}_{ride.DOLocationID}" not in pairs for ride in validation.rides])
    names = np.array([name_week(pickup) for pickup in validation.pickups.tolist()])
    weeks = []
    for week in np.unique(names[validation.is_usual]).tolist():
        chosen = validation.is_usual & (names == week)
        errors = measure_errors(validation.values[chosen], predicted[chosen])
        numbers = {"rides": int(chosen.sum()), "unseen_pairs": int(is_unseen[chosen].sum())}
        weeks.append({"week": week, **numbers, "rmse": errors.rmse, "mae": errors.mae})
    return weeks


def name_week(pickup: datetime) -> str:
    """Return the name of a pickup's week in ISO 8601, such as 2023-W05."""
    year, week, _ = pickup.isocalendar()
    return f"{year}-W{week:02}"


def encode(baseline: Mapping[str, Any]) -> bytes:
    """Return the bytes of the file, which are the same for the same baseline."""
    return msgspec.json.encode(baseline) + b"\n"


@dataclass(frozen=True)
class _Columns:
    """The training rides and the others of their files, in the order of their pickups."""

    zones: NDArray[np.int64]
    miles: Floats
    hours: NDArray[Any]
    predicted: Floats
    actual: Floats
    is_trained: NDArray[np.bool_]
    is_counted: NDArray[np.bool_]
    """Whether the pickup is usual."""


def _make_columns(training: RideSet, predict: Predict) -> _Columns:
    parts = [training] + ([training.others] if training.others and training.others.rides else [])
    pickups = np.concatenate([part.pickups for part in parts])
    order = np.argsort(pickups, kind="stable")
    is_trained = np.repeat([True, False], [len(training.rides), len(pickups) - len(training.rides)])
    is_counted = np.isin(pickups.astype("datetime64[M]"), _usual_months(training))
    hours = (pickups.astype("datetime64[h]") - pickups.astype("datetime64[D]")).astype(int)
    columns: tuple[NDArray[Any], ...] = (
        np.concatenate([find_zones(part) for part in parts]),
        np.concatenate([find_miles(part) for part in parts]),
        hours,
        np.concatenate([predict(part.rides) for part in parts]),
        np.concatenate([part.values for part in parts]),
        is_trained,
        is_counted,
    )
    zones, miles, *rest = (column[order] for column in columns)
    return _Columns(zones, miles, *rest)


def _find_bins(
    columns: _Columns, edges: Mapping[str, list[float]], keys: Any, times: Any, miles: Any, pickup_zones: Any
) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
    """Return the bin of each counted ride for each histogram, and the number of bins of each.

    Args:
        columns: the rides.
        edges: the edges of the histograms.
        keys: the pairs of the training rides, packed.
        times: the number of training rides of each pair.
        miles: the sum of their distances.
        pickup_zones: the zones with a bin of their own.
    """
    own = pack(columns.zones)
    pair = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
    is_known = keys[pair] == own
    # A ride is compared with the other rides of its pair, because a later ride is not among them either. A pair that
    # one ride has would be unseen without it. The share of such rides is the share of later rides whose pair is unseen
    # (the estimate of Good and Turing).
    others = times[pair] - columns.is_trained
    is_seen = is_known & (others > 0)
    has_usual = is_known & (times[pair] >= USUAL_RIDES)
    usual = (miles[pair] - np.where(columns.is_trained, columns.miles, 0)) / np.maximum(others, 1)
    ratios = np.divide(columns.miles, usual, out=np.full(len(own), np.nan), where=has_usual & (usual > 0))
    prediction = find_bins(edges[PREDICTION], columns.predicted)
    zones = columns.zones[:, 0]
    bins = {
        DISTANCE: find_bins(edges[DISTANCE], columns.miles),
        RATIO: find_bins([*edges[RATIO], np.inf], ratios),
        HOUR: find_bins(edges[HOUR], columns.hours),
        PICKUP: np.where(np.isin(zones, pickup_zones), np.searchsorted(pickup_zones, zones) + 1, 0),
        PREDICTION: np.where(is_seen, prediction, -1),
        UNSEEN: np.where(is_seen, -1, prediction),
    }
    has_distance = columns.miles > 0
    bins = {name: np.where(has_distance, found, -1)[columns.is_counted] for name, found in bins.items()}
    bins[WITHOUT_DISTANCE_BINS] = (~has_distance[columns.is_counted]).astype(int)
    sizes = {name: len(edges[name]) + 1 for name in (DISTANCE, HOUR, PREDICTION)}
    sizes |= {UNSEEN: sizes[PREDICTION], RATIO: len(edges[RATIO]) + 2, PICKUP: len(pickup_zones) + 1}
    return bins, {**sizes, WITHOUT_DISTANCE_BINS: 2}


def _join_actuals(
    validation: RideSet, predicted: Floats, target: Target, predict: Predict
) -> tuple[ActualRides, ActualRides]:
    """Return all validation rides that can be judged, by pickup, and the usual ones, on which a model is measured."""
    parts = [(validation, predicted)]
    if validation.others and validation.others.rides:
        parts.append((validation.others, predict(validation.others.rides)))
    pickups = np.concatenate([rides.pickups for rides, _ in parts])
    is_usual = np.repeat([True, False], [len(validation.rides), len(pickups) - len(validation.rides)])
    rides = ActualRides(
        np.concatenate([find_zones(rides) for rides, _ in parts]),
        np.concatenate([find_miles(rides) for rides, _ in parts]),
        np.concatenate([values for _, values in parts]),
        np.concatenate([rides.values for rides, _ in parts]),
    )
    order = np.argsort(pickups, kind="stable")
    order = order[np.isin(pickups[order].astype("datetime64[M]"), _usual_months(validation))]
    every, usual = (rides.choose(one).choose_judged(target) for one in (order, order[is_usual[order]]))
    return every, usual


def find_zones(rides: RideSet) -> NDArray[np.int64]:
    """Return the zones of the pickups and of the dropoffs: two columns."""
    return np.array([(ride.PULocationID, ride.DOLocationID) for ride in rides.rides], np.int64).reshape(-1, 2)


def find_miles(rides: RideSet) -> Floats:
    """Return the distances."""
    return np.fromiter((ride.trip_distance for ride in rides.rides), float, len(rides.rides))


def _usual_months(rides: RideSet) -> NDArray[Any]:
    return np.unique(rides.pickups[rides.is_usual].astype("datetime64[M]"))
