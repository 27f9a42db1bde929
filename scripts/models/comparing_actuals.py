"""The actual values of rides, from a trip record file or from a stream, and the errors of two models against them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rides import RIDE_ID
from scripts.cli import CommandError
from scripts.models.comparing import MAX_VALUE, MISSING, Comparison
from scripts.models.evaluation import Errors, measure_errors
from scripts.models.verdicts import Verdict, judge
from scripts.sources.download import open_trips
from served.arrays import Floats
from targets import TARGETS, Target
from trips import is_usual, ride_events

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef


@dataclass(frozen=True)
class Judgement:
    """The errors of two models on the rides whose actual values are known, and how many rides those are."""

    live: Errors
    shadow: Errors
    verdict: Verdict
    rides: int
    missing: int
    """Rides of both models without an actual value."""
    unusual: int
    """Rides that were left out because no model is trained on such: the actual value is outside of the target's range,
    or the distance is 0, which only a trip record file tells."""
    repeated_rides: int
    """Predicted rides that were left out because their ride_id occurs before."""
    unknown: int
    """Actual values of rides that are not among those of both models."""
    repeated_actuals: int
    """Actual values that were given again. The last one counts."""
    not_actuals: int
    """Records that are not actual values."""


class ActualValues:
    """Takes the actual values of rides that were predicted. If a ride gets several, the last one counts."""

    def __init__(self, ride_ids: Sequence[int | str], field: str, target: Target | None) -> None:
        """Prepare for the rides, whose predicted value is ``field``; without a target, all values are usual."""
        self._field = field
        self._target = target
        self._places: dict[int | str, int] = {}
        for place, ride_id in enumerate(ride_ids):
            self._places.setdefault(ride_id, place)
        self._values = np.full(len(ride_ids), MISSING)
        self._is_usual = np.ones(len(ride_ids), bool)
        self._unknown = self._repeated = self._not_actuals = 0

    def add(self, ride_id: int | str, value: float, *, is_usual: bool) -> None:
        """Take the actual value of a ride. If it is not usual, models are neither trained nor measured on the ride."""
        place = self._places.get(ride_id)
        if place is None:
            self._unknown += 1
            return
        self._repeated += not math.isnan(self._values[place])
        self._values[place], self._is_usual[place] = value, is_usual

    def read_file(self, source: str) -> None:
        """Take the values of a trip record file, whose rides have the ids that they get on a stream.

        Raises TripRecordError if the file cannot be read, and CommandError if it does not have the target.
        """
        if self._target is None:
            raise CommandError(
                f"the predicted value {self._field} is of no known target: say with --target"
                f" which column of {source} has the actual values"
            )
        with open_trips(source) as path:
            trips = ride_events(path, self._target)
        for event, value in zip(trips.events, trips.actual, strict=True):
            if value is not None:
                self.add(event.ride_id, value, is_usual=is_usual(event.ride, value, self._target))

    def read_stream(self, rounds: "Iterable[list[tuple[str, RecordTypeDef]]]") -> Iterator[int]:
        """Take the values of a stream, round after round, and yield the number of the records of each round.

        The value has the name that it has in the predictions; other fields are ignored.
        """
        form: Any = msgspec.defstruct("Actual", [(RIDE_ID, int | str), ("value", float)], rename={"value": self._field})
        decoder = msgspec.json.Decoder(form)
        for found in rounds:
            for _, record in found:
                try:
                    actual: Any = decoder.decode(record["Data"])
                except (ValueError, RecursionError):
                    self._not_actuals += 1
                    continue
                if abs(actual.value) <= MAX_VALUE:
                    target = self._target
                    usual = target is None or target.least <= actual.value <= target.most
                    self.add(actual.ride_id, actual.value, is_usual=usual)
                else:
                    self._not_actuals += 1
            yield len(found)

    def judge(self, comparison: Comparison) -> Judgement:
        """Return the errors of the models whose rides these are, and the verdict.

        Raises CommandError if no ride has a usual actual value.
        """
        is_known = ~np.isnan(self._values)
        is_judged = is_known & self._is_usual
        actual = self._values[is_judged]
        if not len(actual):
            raise CommandError(
                f"no ride of both models has a usable actual value ({self._unknown:,} are of other rides,"
                f" {is_known.sum():,} are not usual, {self._not_actuals:,} records are not actual values):"
                " give the actual values of the rides that were put, by the same ride_ids"
            )
        live, shadow = (values[is_judged] for values in (comparison.live_values, comparison.shadow_values))
        return Judgement(
            live=measure_errors(actual, live),
            shadow=measure_errors(actual, shadow),
            verdict=judge(live - actual, shadow - actual),
            rides=len(actual),
            missing=len(self._places) - int(is_known.sum()),
            unusual=int(is_known.sum()) - len(actual),
            repeated_rides=len(self._values) - len(self._places),
            unknown=self._unknown,
            repeated_actuals=self._repeated,
            not_actuals=self._not_actuals,
        )

    def values(self) -> Floats:
        """Return the actual value of each ride, NaN if it is not known."""
        return self._values


def find_target(field: str, name: str | None) -> Target | None:
    """Return the target with the name, or else the target whose predictions have this field; None if there is none."""
    if name:
        return TARGETS[name]
    return next((target for target in TARGETS.values() if target.field == field), None)
