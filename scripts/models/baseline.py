"""A model's baseline: histograms of its training rides, how much their windows differ, and the model's errors.

Later rides are counted into the same bins and compared with it: see ``baselines`` and ``drift``. The edges do not
depend on the rides that are counted, so the counts of two parts of the rides add up to the counts of all.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from baselines import DISTANCE, FORMAT, HOUR, PICKUP, PREDICTION, RATIO, UNSEEN
from drift import find_shares
from features import KNOWN, prepare_features
from scripts.models.calibration import calibrate
from scripts.models.evaluation import measure_errors
from scripts.models.months import RideSet
from served.arrays import Floats
from targets import Target

FILE = "baseline.json"
MILES = (0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30)
"""The edges are further apart for longer rides: a change of a tenth moves rides of each length into other bins."""
RATIOS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2)
HOURS = tuple(range(1, 24))
PREDICTION_BINS = 20
"""Each has the same share of the training rides' values."""
USUAL_RIDES = 10
"""A pair of zones has a usual distance if so many training rides have it: their mean."""
LEAST_SHARE_OF_A_ZONE = 0.005
"""Zones where a smaller share of the training rides begins have no bin of their own."""
Edges = dict[str, list[float]]


def make_edges(values: Floats) -> Edges:
    """Return the edges of the histograms, for a model that was trained on these values of its target."""
    shares = np.arange(1, PREDICTION_BINS) / PREDICTION_BINS
    # "higher" takes values that rides have, and numbers between them would part nothing.
    quantiles = np.quantile(values, shares, method="higher")
    # Many rides have the same value, such as a tip of nothing.
    every = {DISTANCE: MILES, RATIO: RATIOS, PREDICTION: np.unique(quantiles).tolist(), HOUR: HOURS}
    return {name: [float(edge) for edge in edges] for name, edges in every.items()}


def make_baseline(
    training: RideSet, fitted: Floats, validation: RideSet, predicted: Floats, target: Target
) -> dict[str, Any]:
    """Return the content of the file, in the format of docs/formats.md.

    Args:
        training: the rides that the model was trained on. Those with an unusual pickup are left out.
        fitted: the model's predictions for them.
        validation: rides that the model was not trained on. Those with an unusual pickup are left out.
        predicted: the model's predictions for them.
        target: what the model predicts.
    """
    edges = make_edges(training.values)
    order = np.argsort(training.pickups, kind="stable")
    order = order[training.is_usual[order]]
    columns = _columns(training)
    names, pair, times = np.unique(columns["PU_DO"], return_inverse=True, return_counts=True)
    miles = columns[DISTANCE]
    sums = np.bincount(pair, miles)
    is_known = times >= USUAL_RIDES
    usual = np.where(is_known, sums / times, 0.0)
    zones, zone_rides = np.unique(columns["zone"], return_counts=True)
    zones = zones[zone_rides >= LEAST_SHARE_OF_A_ZONE * len(miles)]
    # The mean of the other rides of its pair, because a later ride is not in the mean either.
    others = np.where(is_known[pair], (sums[pair] - miles) / np.maximum(times[pair] - 1, 1), np.nan)
    bins = {
        DISTANCE: find_bins(edges[DISTANCE], miles),
        RATIO: find_bins([*edges[RATIO], np.inf], miles / others),
        HOUR: find_bins(edges[HOUR], columns[HOUR]),
        PICKUP: np.where(np.isin(columns["zone"], zones), np.searchsorted(zones, columns["zone"]) + 1, 0),
    }
    # A pair that one ride has would be unseen without it. The share of such rides is the share of later rides whose
    # pair is unseen (the estimate of Good and Turing).
    is_single = times[pair] == 1
    found = find_bins(edges[PREDICTION], fitted)
    bins |= {PREDICTION: np.where(is_single, -1, found), UNSEEN: np.where(is_single, found, -1)}
    predictions = len(edges[PREDICTION]) + 1
    sizes = {DISTANCE: len(edges[DISTANCE]) + 1, RATIO: len(edges[RATIO]) + 2, HOUR: len(HOURS) + 1}
    sizes |= {PICKUP: len(zones) + 1, PREDICTION: predictions, UNSEEN: predictions}
    bins = {name: column[order] for name, column in bins.items()}
    counts = {name: np.bincount(column[column >= 0], minlength=sizes[name]) for name, column in bins.items()}
    return {
        "format": FORMAT,
        "target": target.name,
        "unit": target.unit,
        "edges": edges,
        "pickup_zones": zones.tolist(),
        "rides": len(order),
        "counts": {name: found.tolist() for name, found in counts.items()},
        "scales": calibrate(bins, sizes, find_shares(counts)),
        "errors": measure_bins(edges[PREDICTION], validation, predicted, set(names.tolist())),
        "weeks": list_weeks(validation, predicted, set(names.tolist())),
        "pairs": {name: float(f"{one:.4g}") for name, one in zip(names.tolist(), usual.tolist(), strict=True)},
    }


def find_bins(edges: Any, column: Any) -> Any:
    """Return the bin of each number."""
    return np.searchsorted(edges, column, side="right")


def measure_bins(
    edges: list[float], validation: RideSet, predicted: Floats, pairs: set[str]
) -> dict[str, dict[str, list[float]]]:
    """Return the errors of the predictions in each bin, for rides of pairs in training rides, and for all others."""
    is_seen = np.array([prepare_features(ride)["PU_DO"] in pairs for ride in validation.rides])
    bins, errors = find_bins(edges, predicted), predicted - validation.values
    found = {}
    for name, chosen in ((PREDICTION, is_seen), (UNSEEN, ~is_seen)):
        chosen = chosen & validation.is_usual
        rides = np.bincount(bins[chosen], minlength=len(edges) + 1)
        sums = [np.bincount(bins[chosen], weights[chosen], len(edges) + 1) for weights in (np.abs(errors), errors**2)]
        mae, mse = (total / np.maximum(rides, 1) for total in sums)
        found[name] = {"rides": rides.tolist(), "mae": mae.round(4).tolist(), "rmse": np.sqrt(mse).round(4).tolist()}
    return found


def list_weeks(validation: RideSet, predicted: Floats, pairs: set[str]) -> list[dict[str, Any]]:
    """Return the number of rides, of unseen pairs, and the errors for each week of the validation rides."""
    is_unseen = np.array([prepare_features(ride)["PU_DO"] not in pairs for ride in validation.rides])
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


def _columns(rides: RideSet) -> dict[str, Any]:
    """Return the pair, the zone of the pickup, the miles and the hour of each ride."""
    rows = [(one["PU_DO"], one["trip_distance"], one["hour"]) for one in _prepared(rides)]
    pairs, miles, hours = zip(*rows, strict=True)
    zones = np.array([ride.PULocationID for ride in rides.rides])
    return {"PU_DO": np.array(pairs), DISTANCE: np.array(miles), HOUR: np.array(hours), "zone": zones}


def _prepared(rides: RideSet) -> Any:
    return (prepare_features(ride, KNOWN) for ride in rides.rides)
