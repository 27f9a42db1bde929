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

from batch.manifests import Manifest, ModelIdentity
from batch.outputs import Place
from batch.tables import DIFFERENCE, select_usual
from scripts.cli import CommandError

STEPS, STEP_SIZES = 60, {"duration": 1.0, "tip": 0.5, "fare": 2.0, "total": 2.0}
"""Values are counted in this number of steps from 0, and a step has this size. So durations are counted by the minute,
up to the longest of a usual ride. A few amounts are larger than the last step."""
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
        """Add rides: the group of each, its actual value, and how much larger that is than the predicted one."""
        self.rides += np.bincount(groups, minlength=len(self.rides))
        # A model may predict numbers whose squares are infinite.
        with np.errstate(over="ignore"):
            squares = errors * errors
        for total, values in ((self._actual, actual), (self._errors, errors), (self._squares, squares)):
            total += np.bincount(groups, values, len(total))

    @property
    def actual(self) -> Numbers:
        """The mean value; NaN for a group without rides, here and below."""
        return self._mean(self._actual)

    @property
    def errors(self) -> Numbers:
        """The mean error."""
        return self._mean(self._errors)

    @property
    def rmse(self) -> Numbers:
        """The root of the mean squared error."""
        return np.sqrt(self._mean(self._squares))

    def _mean(self, total: Numbers) -> Numbers:
        with np.errstate(invalid="ignore"):
            return total / self.rides


class ValueSums:
    """Counts values, and adds up the errors of usual rides by hour, zone and distance, in the model's unit."""

    def __init__(self, model: ModelIdentity) -> None:
        """Begin with no rides. The model says what the values are."""
        self.target, self.unit = model.target, model.unit
        self.step = STEP_SIZES.get(model.target, 1.0)
        self.top = STEPS * self.step
        """The end of the last step."""
        self.predicted = np.zeros(STEPS + 2, np.int64)
        """All predictions, by ``indices``."""
        self.usual = np.zeros((STEPS + 2, STEPS + 2), np.int64)
        """Usual rides, by the indices of the actual and of the predicted value."""
        self.all = GroupErrors(1)
        self.hours = GroupErrors(24)
        self.distances = GroupErrors(len(MILES))
        self.pickups = GroupErrors(ZONES)
        self.pairs = GroupErrors(ZONES * ZONES)
        """By the pickup's zone times ``ZONES`` plus the dropoff's zone."""
        self.absolutes = 0.0

    @property
    def mae(self) -> float:
        """The mean absolute error. There must be a usual ride."""
        return self.absolutes / int(self.all.rides[0])

    def indices(self, values: Numbers) -> Indices:
        """Return the index of each value's step: 0 below 0, 1 in the first step, and so on, 61 above the last."""
        steps = np.where(values == self.top, STEPS - 1, np.floor(values / self.step))
        return np.clip(steps, -1, STEPS).astype(np.int64) + 1

    def add(self, table: Any, model: ModelIdentity) -> None:
        """Add rows of a file of predictions by the model."""
        self.predicted += np.bincount(self.indices(table[model.field].to_numpy()), minlength=len(self.predicted))
        usual = select_usual(table, model)
        actual, predicted, errors = (usual[name].to_numpy() for name in ("actual", "predicted", DIFFERENCE))
        pickups, dropoffs = (_zones(usual[name].to_numpy()) for name in ("PULocationID", "DOLocationID"))
        np.add.at(self.usual, (self.indices(actual), self.indices(predicted)), 1)
        self.absolutes += float(np.abs(errors).sum())
        self.all.add(np.zeros(len(errors), np.int64), actual, errors)
        self.hours.add(pc.hour(usual["pickup_datetime"]).to_numpy(), actual, errors)
        self.distances.add(np.searchsorted(MILES, usual["trip_distance"].to_numpy(), "right") - 1, actual, errors)
        self.pickups.add(pickups, actual, errors)
        self.pairs.add(pickups * ZONES + dropoffs, actual, errors)


def read_sums(months: Iterable[tuple[Place, Manifest]]) -> ValueSums:
    """Return the sums over the predictions of months, at least one.

    Raises CommandError if the months have predictions of several targets, or if a file cannot be read, and OutputError.
    """
    places = list(months)
    sums = ValueSums(places[0][1].model)
    for place, manifest in places:
        model, name = manifest.model, manifest.predictions.name
        if (model.target, model.unit) != (sums.target, sums.unit):
            reason = f"has predictions of the {model.target}, and another month of the {sums.target}"
            raise CommandError(f"{place.location}: {reason}: report on them apart")
        values = [model.field, model.actual_field, DIFFERENCE]
        columns = ["pickup_datetime", "PULocationID", "DOLocationID", "trip_distance", *values]
        try:
            with place.open(name) as file:
                # Not iter_batches, whose memory grows with the number of row groups. The job writes small row groups.
                predictions = pq.ParquetFile(file)
                for group in range(predictions.num_row_groups):
                    sums.add(predictions.read_row_group(group, columns, use_threads=False), model)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise CommandError(f"{place.location}/{name}: cannot be read as predictions: {reason}") from error
    return sums


def _zones(numbers: Indices) -> Indices:
    return np.where((numbers > 0) & (numbers < ZONES), numbers, 0)
