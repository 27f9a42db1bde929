"""Two models that predict the same rides: their predictions are read from two output streams and joined by event_id.

A million rides in both streams take about half a gigabyte, most of it for their event_ids and ride_ids.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rides import Prediction
from scripts.aws.predictions import NotAPredictionError, read_prediction
from scripts.cli import CommandError, printable
from served.arrays import Floats

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

MARGIN = timedelta(minutes=5)
"""At a window's edge, a ride's second prediction is found if it came at most this much later than the first one."""
MAX_VALUE = 1e100
"""The square of a larger value, or a sum of such squares, may be infinite."""
MAX_EXAMPLES = 3
"""Rides, or records, that are kept as examples."""
MISSING = math.nan


class PredictingModel(NamedTuple):
    """A model as its predictions name it, and the name of the predicted value."""

    name: str
    version: str
    field: str


@dataclass
class ReadStream:
    """What was read from one stream. A ride's first prediction counts."""

    name: str
    version: str | None = None
    """Predictions of other versions are left out. If this is None, all versions are kept."""
    values: "array[float]" = field(default_factory=lambda: array("d"))
    """The predicted values by the ride's row, NaN if the stream has none."""
    arrived: "array[float]" = field(default_factory=lambda: array("d"))
    """When the predictions arrived, in seconds since 1970."""
    models: "array[int]" = field(default_factory=lambda: array("i"))
    """The places in ``known_models`` of the models that predicted the rides."""
    known_models: dict[PredictingModel, int] = field(default_factory=dict)
    repeats: int = 0
    """Predictions that repeat an event_id, because the input record was redelivered."""
    other_versions: Counter[str] = field(default_factory=Counter)
    """Predictions that were left out, by version."""
    not_predictions: int = 0
    examples: list[str] = field(default_factory=list)
    """Why some of the records are not predictions."""

    def add(self, row: int, prediction: Prediction, arrived: float) -> None:
        """Keep the prediction for a row, unless there is one already."""
        if missing := row + 1 - len(self.values):
            self.values.extend([MISSING] * missing)
            self.arrived.extend([MISSING] * missing)
            self.models.extend([-1] * missing)
        if not math.isnan(self.values[row]):
            self.repeats += 1
            return
        model = PredictingModel(prediction.model, prediction.version, prediction.field)
        self.values[row], self.arrived[row] = prediction.value, arrived
        self.models[row] = self.known_models.setdefault(model, len(self.known_models))

    def refuse(self, place: str, reason: str) -> None:
        """Count a record that is not a prediction."""
        self.not_predictions += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(printable(f"{place}: {reason}"))


@dataclass
class JoinedRides:
    """The rides of two streams: each has a row, in the order of reading."""

    live: ReadStream
    shadow: ReadStream
    rows: dict[str, int] = field(default_factory=dict)
    """The row of each ride by its event_id."""
    ride_ids: list[int | str] = field(default_factory=list)

    def read(self, stream: ReadStream, rounds: "Iterable[list[tuple[str, RecordTypeDef]]]") -> Iterator[int]:
        """Add the predictions of ``stream``, round after round, and yield the number of the records of each round.

        Raises CommandError if both streams have one event_id for different rides.
        """
        for found in rounds:
            for shard_id, record in found:
                try:
                    prediction = _usable(read_prediction(record["Data"]))
                except NotAPredictionError as error:
                    stream.refuse(f"{shard_id}:{record['SequenceNumber']}", str(error))
                    continue
                if stream.version not in (None, prediction.version):
                    stream.other_versions[prediction.version] += 1
                    continue
                row = self._row(prediction)
                stream.add(row, prediction, record["ApproximateArrivalTimestamp"].timestamp())
            yield len(found)

    def _row(self, prediction: Prediction) -> int:
        row = self.rows.setdefault(prediction.event_id, len(self.ride_ids))
        if row == len(self.ride_ids):
            self.ride_ids.append(prediction.ride_id)
        elif self.ride_ids[row] != prediction.ride_id:
            rides = f"{self.ride_ids[row]!r} and of {prediction.ride_id!r}"
            raise CommandError(
                f"{self.live.name} and {self.shadow.name} have predictions of the ride {rides} for the event_id"
                f" {prediction.event_id}: compare consumers of the same input stream"
            )
        return row

    def join(self, since: datetime | None, until: datetime) -> "Comparison":
        """Return the comparison of the rides whose first prediction arrived from ``since`` on and before ``until``.

        Raises CommandError if there is nothing to compare, or if it cannot be compared.
        """
        count = len(self.ride_ids)
        live, shadow = (_fill(stream.values, count) for stream in (self.live, self.shadow))
        first = np.fmin(_fill(self.live.arrived, count), _fill(self.shadow.arrived, count))
        is_within = (first < until.timestamp()) & (first >= (since.timestamp() if since else -math.inf))
        has_live, has_shadow = ~np.isnan(live) & is_within, ~np.isnan(shadow) & is_within
        sides = (
            _describe(self.live, np.flatnonzero(has_live), "--live-version"),
            _describe(self.shadow, np.flatnonzero(has_shadow), "--shadow-version"),
        )
        fields = [side.model.field for side in sides]
        if fields[0] != fields[1]:
            raise CommandError(
                f"{self.live.name} predicts {fields[0]} and {self.shadow.name} {fields[1]}: compare two models of the"
                " same target, with the same PREDICTION_FIELD"
            )
        both = np.flatnonzero(has_live & has_shadow)
        event_ids = list(self.rows)
        only = tuple(np.flatnonzero(one & ~other) for one, other in ((has_live, has_shadow), (has_shadow, has_live)))
        if not len(both):
            examples = ", ".join(
                f"{side.stream.name} has {event_ids[rows[0]]}" for side, rows in zip(sides, only, strict=True)
            )
            raise CommandError(
                f"no event_id is in both streams ({examples}): compare consumers of the same input stream, in a window"
                " in which both were running"
            )
        return Comparison(
            *sides,
            only_live=OnlyIn.of(only[0], event_ids),
            only_shadow=OnlyIn.of(only[1], event_ids),
            event_ids=[event_ids[row] for row in both],
            ride_ids=[self.ride_ids[row] for row in both],
            live_values=live[both],
            shadow_values=shadow[both],
        )


@dataclass(frozen=True)
class Side:
    """One of the two models, with the number of its rides in the window."""

    stream: ReadStream
    model: PredictingModel
    rides: int


class OnlyIn(NamedTuple):
    """The rides that only one of the streams has: their number, and the event_ids of some of them."""

    rides: int
    examples: list[str]

    @classmethod
    def of(cls, rows: NDArray[np.intp], event_ids: list[str]) -> "OnlyIn":
        """Count the rows, and take the event_ids of the first ones."""
        return cls(len(rows), [event_ids[row] for row in rows[:MAX_EXAMPLES]])


@dataclass(frozen=True)
class Comparison:
    """Two models, and the rides that both predicted, of which there is at least one."""

    live: Side
    shadow: Side
    only_live: OnlyIn
    only_shadow: OnlyIn
    event_ids: list[str]
    ride_ids: list[int | str]
    live_values: Floats
    shadow_values: Floats

    @property
    def differences(self) -> Floats:
        """The shadow's value minus the live model's, for each ride of both."""
        return self.shadow_values - self.live_values

    def most_different(self, number: int) -> list[int]:
        """Return the places of this many rides at most whose values differ, the largest difference first."""
        size = np.abs(self.differences)
        places: list[int] = np.argsort(-size, kind="stable")[:number].tolist()
        return [place for place in places if size[place]]

    def coverage(self) -> tuple[float, float]:
        """Return the share of the live model's rides that the shadow predicted, and the reverse."""
        return len(self.ride_ids) / self.live.rides, len(self.ride_ids) / self.shadow.rides


def _usable(prediction: Prediction) -> Prediction:
    """Return a prediction whose value can be compared. Raises NotAPredictionError."""
    if not abs(prediction.value) <= MAX_VALUE:
        raise NotAPredictionError(f"Expected a number from -{MAX_VALUE:g} to {MAX_VALUE:g} - at `$.prediction`")
    return prediction


def _fill(values: "array[float]", count: int) -> Floats:
    """Return the values by row, with NaN for the last rows, which only the other stream has."""
    found = np.full(count, MISSING)
    found[: len(values)] = values
    return found


def _describe(stream: ReadStream, rows: NDArray[np.intp], option: str) -> Side:
    """Return the model that predicted the rows. Raises CommandError if there are none, or if there are several models.

    ``option`` is the command's option that chooses a version.
    """
    if not len(rows):
        wanted = f" of the version {stream.version}" if stream.version else ""
        left_out = [f"{count:,} of the version {version}" for version, count in stream.other_versions.items()]
        left_out += [f"{stream.not_predictions:,} records are not predictions"] if stream.not_predictions else []
        other = f" ({', '.join(left_out)})" if left_out else ""
        raise CommandError(f"{stream.name} has no prediction{wanted} in this time{other}: choose a longer time")
    models, arrived = np.array(stream.models)[rows], np.array(stream.arrived)[rows]
    places, counts = np.unique(models, return_counts=True)
    known = list(stream.known_models)
    if len(places) == 1:
        return Side(stream, known[places[0]], int(counts[0]))
    descriptions = []
    for place, count in zip(places, counts, strict=True):
        name, version, value = known[place]
        times = arrived[models == place]
        first, last = (f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%SZ}" for time in (times.min(), times.max()))
        descriptions.append(f"{name}, version {version}, {value}: {count:,} rides from {first} to {last}")
    raise CommandError(
        f"{stream.name} has predictions of {len(places)} models ({'; '.join(descriptions)}): choose one with"
        f" {option} VERSION, or a time with --since and --until"
    )
