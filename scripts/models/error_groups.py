"""The errors of a model by groups of rides: by hour of the pickup, by distance, and by zone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scripts.models.evaluation import Evaluation

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The shares of a group's rides whose errors are at most its quantiles."""
LEAST_RIDES = 100
"""The errors of a group with fewer rides say little about the model."""
DISTANCES = 10
"""The number of groups of distances."""


@dataclass(frozen=True)
class ErrorGroup:
    """Some of the rides, and the errors of their predictions: predicted minus actual."""

    name: str
    """Such as "17" for an hour or a zone, and "0.9–1.2" for miles."""
    rides: int
    mae: float
    quantiles: tuple[float, ...]
    """The errors at ``SHARES``."""

    @property
    def median(self) -> float:
        """The median error: above zero if most predictions are too high."""
        return self.quantiles[2]


def group_by_hour(evaluation: Evaluation) -> list[ErrorGroup]:
    """Return the errors by the hour of the pickup, from 0 to 23."""
    hours = [ride.pickup_datetime.hour for ride in evaluation.rides if ride.pickup_datetime is not None]
    return _group(evaluation, np.asarray(hours))


def group_by_distance(evaluation: Evaluation) -> list[ErrorGroup]:
    """Return the errors of about equal numbers of rides, from short to long ones."""
    miles = np.asarray([ride.trip_distance for ride in evaluation.rides])
    edges = np.unique(np.quantile(miles, np.linspace(0, 1, DISTANCES + 1)[1:-1]))
    places = np.searchsorted(edges, miles, side="right")
    names = {}
    for place in np.unique(places):
        found = miles[places == place]
        least, most = f"{found.min():.1f}", f"{found.max():.1f}"
        names[int(place)] = least if least == most else f"{least}–{most}"
    return _group(evaluation, places, names)


def group_by_zone(evaluation: Evaluation, end: Literal["PULocationID", "DOLocationID"]) -> list[ErrorGroup]:
    """Return the errors by the zone of the pickup or of the dropoff."""
    return _group(evaluation, np.asarray([getattr(ride, end) for ride in evaluation.rides]))


def measure_group(name: str, errors: NDArray[Any]) -> ErrorGroup:
    """Return a group of rides with these errors."""
    quantiles = tuple(np.quantile(errors, SHARES).tolist())
    return ErrorGroup(name, len(errors), float(np.abs(errors).mean()), quantiles)


def find_weakest(groups: Iterable[ErrorGroup], least_rides: int, number: int) -> list[ErrorGroup]:
    """Return the groups with the largest mean absolute errors, of those that have enough rides to know them."""
    known = [group for group in groups if group.rides >= least_rides]
    return sorted(known, key=lambda group: group.mae, reverse=True)[:number]


def _group(evaluation: Evaluation, keys: NDArray[Any], names: dict[int, str] | None = None) -> list[ErrorGroup]:
    errors = evaluation.predicted - evaluation.actual
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    parts = np.split(errors[order], starts[1:])
    labels = [names[int(key)] if names else str(key) for key in found]
    return [measure_group(label, part) for label, part in zip(labels, parts, strict=True)]
