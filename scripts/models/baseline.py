"""A model's baseline: histograms of inputs and predictions on its validation rides, week by week.

Later rides are compared with it. The edges do not depend on the validation rides, so the counts of two parts of the
rides add up to the counts of all.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from features import KNOWN, Features, prepare_features
from rides import Ride
from scripts.models.evaluation import measure_errors
from scripts.models.months import RideSet
from served.arrays import Floats
from targets import Target

FILE = "baseline.json"
FORMAT = 1
MILES = (0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30)
"""The edges are further apart for longer rides: a change of a tenth moves rides of each length into other bins."""
HOURS = tuple(range(1, 24))
PREDICTION_BINS = 20
"""Each has the same share of the training rides' values."""
Edges = dict[str, list[float]]


def make_edges(values: Floats) -> Edges:
    """Return the edges of the histograms, for a model that was trained on these values of its target."""
    shares = np.arange(1, PREDICTION_BINS) / PREDICTION_BINS
    # "higher" takes values that rides have, and numbers between them would part nothing.
    quantiles = np.quantile(values, shares, method="higher")
    # Many rides have the same value, such as a tip of nothing.
    every = {"trip_distance": MILES, "hour": HOURS, "prediction": np.unique(quantiles).tolist()}
    return {name: [float(edge) for edge in edges] for name, edges in every.items()}


def find_pairs(rides: RideSet) -> list[str]:
    """Return the names of the pairs of zones that some rides have, in order."""
    return sorted({prepare_features(ride)["PU_DO"] for ride in rides.rides})


def make_baseline(
    validation: RideSet, predicted: Floats, target: Target, edges: Edges, pairs: Sequence[str]
) -> dict[str, Any]:
    """Return the content of the file, in the format of docs/formats.md.

    Args:
        validation: rides that the model was not trained on. Those with an unusual pickup are left out.
        predicted: the model's predictions for them.
        target: what the model predicts.
        edges: the edges that ``make_edges`` returned.
        pairs: the pairs that ``find_pairs`` returned.
    """
    known = set(pairs)
    rows = [(one["PU_DO"] in known, one["trip_distance"], one["hour"]) for one in map(_prepare, validation.rides)]
    is_known, miles, hours = np.array(rows).T
    columns = {"trip_distance": miles, "hour": hours, "prediction": predicted}
    bins = {name: np.searchsorted(edges[name], column, side="right") for name, column in columns.items()}
    names = np.array([name_week(pickup) for pickup in validation.pickups.tolist()])
    weeks = []
    for week in np.unique(names[validation.is_usual]).tolist():
        chosen = validation.is_usual & (names == week)
        counts = {name: np.bincount(found[chosen], minlength=len(edges[name]) + 1) for name, found in bins.items()}
        errors = measure_errors(validation.values[chosen], predicted[chosen])
        weeks.append(
            {
                "week": week,
                "rides": int(chosen.sum()),
                "counts": {name: count.tolist() for name, count in counts.items()},
                "unseen_pairs": int((is_known[chosen] == 0).sum()),
                "rmse": errors.rmse,
                "mae": errors.mae,
            }
        )
    return {
        "format": FORMAT,
        "target": target.name,
        "unit": target.unit,
        "edges": edges,
        "weeks": weeks,
        "pairs": list(pairs),
    }


def name_week(pickup: datetime) -> str:
    """Return the name of a pickup's week in ISO 8601, such as 2023-W05."""
    year, week, _ = pickup.isocalendar()
    return f"{year}-W{week:02}"


def encode(baseline: Mapping[str, Any]) -> bytes:
    """Return the bytes of the file, which are the same for the same baseline."""
    return msgspec.json.encode(baseline) + b"\n"


def _prepare(ride: Ride) -> Features:
    return prepare_features(ride, KNOWN)
