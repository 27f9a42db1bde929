"""Reading the records of an output stream, whatever name the predicted value has in them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from rides import RIDE_ID, Prediction
from scripts.cli import printable

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

SHOWN_BYTES = 200
"""A warning shows this much of data that is not a prediction."""

_log = logging.getLogger(__name__)


class NotAPredictionError(Exception):
    """A record's data is not a prediction; the message says why."""


@dataclass(frozen=True)
class ReadPrediction:
    """A prediction, the data that it was read from, and the time when Kinesis received it."""

    prediction: Prediction
    data: bytes
    arrived: datetime


class _Record(msgspec.Struct):
    model: str
    version: str
    prediction: dict[str, int | float | str]
    event_id: str


def read_prediction(data: bytes) -> Prediction:
    """Return the prediction in a record's data. Raises NotAPredictionError."""
    try:
        record = msgspec.json.decode(data, type=_Record)
    except (ValueError, RecursionError) as error:
        raise NotAPredictionError(str(error)) from error
    match [record.prediction.pop(RIDE_ID, None), *record.prediction.items()]:
        case [int() | str() as ride_id, (field, int() | float() as value)]:
            return Prediction(record.model, record.version, field, value, ride_id, record.event_id)
    raise NotAPredictionError(f"Expected a number and `{RIDE_ID}` - at `$.prediction`")


def read_predictions(found: "Iterable[tuple[str, RecordTypeDef]]") -> list[ReadPrediction]:
    """Return the predictions in pairs of shard id and record; log a warning for data that is not a prediction."""
    predictions = []
    for shard_id, record in found:
        data = record["Data"]
        try:
            prediction = read_prediction(data)
        except NotAPredictionError as error:
            place = f"{shard_id}:{record['SequenceNumber']}"
            _log.warning("%s is no prediction: %s: %r", place, printable(str(error)), data[:SHOWN_BYTES])
        else:
            predictions.append(ReadPrediction(prediction, data, record["ApproximateArrivalTimestamp"]))
    return predictions
