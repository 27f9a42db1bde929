"""The rides of an input stream with their predictions on an output stream: each event_id counts once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rides import RideEvent, with_time
from scripts.aws.windows import read
from scripts.cli import CommandError
from scripts.models.comparing import MARGIN, JoinedRides, ReadStream
from scripts.models.comparing_actuals import ActualValues
from scripts.sources.events import event_record
from scripts.watching.windows import PredictedRides, WatchedModel, Window
from streaming.records import decode_event
from targets import find_target

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef


@dataclass
class ReadRides:
    """The rides of an input stream, in the order of reading."""

    events: list[RideEvent] = field(default_factory=list)
    """Each has a pickup: its own, or else the time when it arrived."""
    event_ids: list[str] = field(default_factory=list)
    refused: int = 0
    """The number of records, or parts of aggregated records, that are not rides. The function rejects them."""

    def read(self, rounds: "Iterable[list[tuple[str, RecordTypeDef]]]") -> Iterator[int]:
        """Add the rides of records, round after round, and yield the number of the records of each round."""
        now = datetime.now(UTC)
        for found in rounds:
            event = {"Records": [event_record(record, shard_id) for shard_id, record in found]}
            received, rejections = decode_event(event)
            self.refused += len(rejections)
            for one in received:
                arrived = now if one.record.arrival is None else datetime.fromtimestamp(one.record.arrival, UTC)
                self.events.append(RideEvent(with_time(one.event.ride, arrived), one.event.ride_id))
                self.event_ids.append(one.record.event_id)
            yield len(found)


def read_streams(
    model: WatchedModel, rides: str, predictions: str, since: datetime | None, until: datetime, actual: str | None
) -> Window:
    """Return the rides that arrived in a window of time.

    Args:
        model: the model whose predictions count.
        rides: the input stream.
        predictions: the output stream. It is read up to now, because predictions come after the rides.
        since: the window's start; None for the oldest record.
        until: its end.
        actual: a trip record file or a stream that has the actual values; None if they are not known.

    Raises CommandError if no ride of the window has a prediction by the model.
    """
    found = ReadRides()
    read(rides, since, until, found.read)
    output = ReadStream(predictions, model.version)
    # JoinedRides has a place for a second output stream, which stays empty here.
    joined = JoinedRides(output, ReadStream(""))
    now = datetime.now(UTC)
    read(predictions, since and since - MARGIN, now, partial(joined.read, output))
    rows = np.array([joined.rows.get(event_id, -1) for event_id in found.event_ids], int)
    chosen = np.flatnonzero(rows >= 0)
    if not len(chosen):
        raise CommandError(_explain_none(found, output, rides))
    events = [found.events[place] for place in chosen]
    predicted = np.array(output.values)[rows[chosen]]
    notes = _notes(found, output, len(chosen))
    values = None
    if actual:
        actuals = ActualValues(
            [event.ride_id for event in events],
            model.metadata.field,
            find_target(model.metadata.target, model.metadata.unit),
        )
        if is_file(actual):
            actuals.read_file(actual)
        else:
            read(actual, since, now, actuals.read_stream)
        values = actuals.values()
        notes.append(f"{np.count_nonzero(~np.isnan(values)):,} of the predicted rides have an actual value in {actual}")
    predicted_rides = PredictedRides.of(model, [event.ride for event in events], predicted, values)
    counts = predicted_rides.count(model, rejected=found.refused)
    return Window(f"the streams {rides} and {predictions}", counts, notes, predicted_rides)


def is_file(source: str) -> bool:
    """Return whether actual values come from a file or a URL, and not from a stream."""
    return source.endswith(".parquet") or "://" in source or Path(source).is_file()


def _notes(found: ReadRides, output: ReadStream, predicted: int) -> list[str]:
    notes = [f"{predicted:,} of {len(found.events):,} rides have a prediction, and each counts once"]
    if found.refused:
        notes.append(f"{found.refused:,} records of the input stream are not rides: they count as rejected")
    if missing := len(found.events) - predicted:
        notes.append(
            f"{missing:,} rides have no prediction: they are not predicted yet, or the model has rejected them, which"
            " only the failures bucket and the function's metrics show; they do not count"
        )
    if output.repeats:
        notes.append(f"{output.repeats:,} predictions repeat an event_id, because Lambda redelivered the record")
    for version, count in output.other_versions.items():
        notes.append(f"{count:,} predictions of the version {version} are left out")
    if output.not_predictions:
        notes.append(f"{output.not_predictions:,} records of the output stream are not predictions")
    return notes


def _explain_none(found: ReadRides, output: ReadStream, rides: str) -> str:
    if not found.events:
        return f"{rides} has no ride in this time: choose a longer time"
    others = ", ".join(f"{count:,} of the version {version}" for version, count in output.other_versions.items())
    read_ones = np.count_nonzero(~np.isnan(np.array(output.values))) if output.values else 0
    return (
        f"{output.name} has no prediction of the version {output.version} for the {len(found.events):,} rides"
        f" ({others or '0'} of other versions, {read_ones:,} of other rides): name the model that predicts with"
        " --model, or the streams of one consumer"
    )
