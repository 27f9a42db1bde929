"""An output record as its readers take it, whatever the predicted value is called in it."""

import msgspec

from rides import RIDE_ID, Prediction


class NotAPredictionError(Exception):
    """A record's data is no prediction; the message says why."""


class _Record(msgspec.Struct):
    model: str
    version: str
    prediction: dict[str, int | float | str]
    event_id: str


def read_prediction(data: bytes) -> Prediction:
    """Return the prediction in a record's data. Raises NotAPredictionError."""
    try:
        record = msgspec.json.decode(data, type=_Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAPredictionError(str(error)) from error
    match [record.prediction.pop(RIDE_ID, None), *record.prediction.items()]:
        case [int() | str() as ride_id, (field, int() | float() as value)]:
            return Prediction(record.model, record.version, field, value, ride_id, record.event_id)
    raise NotAPredictionError(f"Expected a number and `{RIDE_ID}` - at `$.prediction`")
