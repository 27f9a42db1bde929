"""The sums that a report shows. The predictions of its months are read row group by row group.

Their size does not depend on the number of rows.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch.manifests import Manifest
from batch.outputs import Place
from batch.tables import ACTUAL, DIFFERENCE
from scripts.cli import CommandError
from targets import DURATION
from trips import usual_trips

PREDICTED = "predicted"
MAX_MINUTES = 60
"""Durations are counted by the minute up to here, which is the longest of a usual ride."""
ZONES = 266
"""TLC's zones are 1 to 265. Index 0 stands for all other numbers, which a file may have any number of."""
MILES = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20)
"""Where the groups by distance begin."""
Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]


class GroupErrors:
    """Adds up the errors of rides by group. Each attribute is an array with an element for each group."""

    def __init__(self, groups: int) -> None:
        """Begin with no rides."""
        self.rides = np.zeros(groups, np.int64)
        self._actual, self._errors, self._squares = np.zeros((3, groups))

    def add(self, groups: Indices, actual: Numbers, errors: Numbers) -> None:
        """Add rides: the group of each, its duration, and how much longer it took than predicted."""
        self.rides += np.bincount(groups, minlength=len(self.rides))
        # A model may predict numbers whose squares are infinite.
        with np.errstate(over="ignore"):
            squares = errors * errors
        for total, values in ((self._actual, actual), (self._errors, errors), (self._squares, squares)):
            total += np.bincount(groups, values, len(total))

    @property
    def actual(self) -> Numbers:
        """The mean duration in minutes; NaN for a group without rides, here and below."""
        return self._mean(self._actual)

    @property
    def errors(self) -> Numbers:
        """The mean error in minutes."""
        return self._mean(self._errors)

    @property
    def rmse(self) -> Numbers:
        """The root of the mean squared error in minutes."""
        return np.sqrt(self._mean(self._squares))

    def _mean(self, total: Numbers) -> Numbers:
        with np.errstate(invalid="ignore"):
            return total / self.rides


class DurationSums:
    """Counts durations, and adds up errors by hour, zone and distance. The errors are of usual rides."""

    def __init__(self) -> None:
        """Begin with no rides."""
        self.predicted = np.zeros(MAX_MINUTES + 2, np.int64)
        """All predictions, by ``minute_indices``."""
        self.usual = np.zeros((MAX_MINUTES + 2, MAX_MINUTES + 2), np.int64)
        """Usual rides, by the indices of the actual and of the predicted duration."""
        self.all = GroupErrors(1)
        self.hours = GroupErrors(24)
        self.distances = GroupErrors(len(MILES))
        self.pickups = GroupErrors(ZONES)
        self.pairs = GroupErrors(ZONES * ZONES)
        """By the pickup's zone times ``ZONES`` plus the dropoff's zone."""
        self.absolutes = 0.0

    @property
    def mae(self) -> float:
        """The mean absolute error in minutes. There must be a usual ride."""
        return self.absolutes / int(self.all.rides[0])

    def add(self, table: Any, field: str) -> None:
        """Add rows of a file of predictions; ``field`` is the predicted value's column."""
        # Under names of their own, because PREDICTION_FIELD may be "actual".
        table = table.rename_columns({field: PREDICTED}).append_column("actual", table[ACTUAL])
        self.predicted += np.bincount(minute_indices(table[PREDICTED].to_numpy()), minlength=len(self.predicted))
        usual = table.filter(usual_trips(DURATION, "pickup_datetime"))
        actual, errors = usual[ACTUAL].to_numpy(), usual[DIFFERENCE].to_numpy()
        pickups, dropoffs = (_zones(usual[name].to_numpy()) for name in ("PULocationID", "DOLocationID"))
        np.add.at(self.usual, (minute_indices(actual), minute_indices(usual[PREDICTED].to_numpy())), 1)
        self.absolutes += float(np.abs(errors).sum())
        self.all.add(np.zeros(len(errors), np.int64), actual, errors)
        self.hours.add(pc.hour(usual["pickup_datetime"]).to_numpy(), actual, errors)
        self.distances.add(np.searchsorted(MILES, usual["trip_distance"].to_numpy(), "right") - 1, actual, errors)
        self.pickups.add(pickups, actual, errors)
        self.pairs.add(pickups * ZONES + dropoffs, actual, errors)


def read_sums(months: Iterable[tuple[Place, Manifest]]) -> DurationSums:
    """Return the sums over the predictions of months. Raises CommandError or OutputError if a file cannot be read."""
    sums = DurationSums()
    for place, manifest in months:
        field, name = manifest.model.field, manifest.predictions.name
        columns = ["pickup_datetime", "PULocationID", "DOLocationID", "trip_distance", field, ACTUAL, DIFFERENCE]
        try:
            with place.open(name) as file:
                # Not iter_batches, whose memory grows with the number of row groups. The job writes small row groups.
                predictions = pq.ParquetFile(file)
                for group in range(predictions.num_row_groups):
                    sums.add(predictions.read_row_group(group, columns, use_threads=False), field)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise CommandError(f"{place.location}/{name}: cannot be read as predictions: {reason}") from error
    return sums


def minute_indices(minutes: Numbers) -> Indices:
    """Return the index of each duration: 0 below 0 minutes, 1 in the first minute, and so on, 61 above 60 minutes."""
    whole = np.where(minutes == MAX_MINUTES, MAX_MINUTES - 1, np.floor(minutes))
    return np.clip(whole, -1, MAX_MINUTES).astype(np.int64) + 1


def _zones(numbers: Indices) -> Indices:
    return np.where((numbers > 0) & (numbers < ZONES), numbers, 0)
