"""The Lambda function: ride events in from Kinesis, predicted durations out to Kinesis.

    Records     -- decode  --> rides       | rejections
    rides       -- predict --> predictions | rejections     one model call for the whole batch
    predictions -- deliver --> accepted    | undelivered    by PutRecords, again and again within the time left
    rejections  -- store   --> kept in S3  | undelivered
    undelivered -- answer  --> batchItemFailures            Lambda delivers again from the lowest sequence number

Every record ends as a prediction that Kinesis accepted, as a rejection that S3 holds, or in the answer.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers

from artifacts import find_run
from delivery import Context, Deadline, Entry, FailuresBucket, OutputStream
from model import PredictionError, load_model
from rides import (
    Prediction,
    ReceivedRide,
    Rejection,
    decode,
    encode_prediction,
    prediction_of,
    rejections_object,
)
from settings import Settings

SETTINGS = Settings.from_environment(os.environ)
LOGGER = Logger(service=SETTINGS.model_name, level=SETTINGS.log_level)
copy_config_to_registered_loggers(LOGGER, include={"delivery"})

MODEL = load_model(
    SETTINGS.model_location or find_run(SETTINGS.model_bucket, SETTINGS.experiment_id, SETTINGS.run_id),
    sha256=SETTINGS.model_sha256,
    version=SETTINGS.run_id,
)
STREAM = None if SETTINGS.dry_run else OutputStream.connect(SETTINGS.predictions_stream)
FAILURES = None
if SETTINGS.failures_location and not SETTINGS.dry_run:
    FAILURES = FailuresBucket.connect(SETTINGS.failures_location)


def lambda_handler(event: Mapping[str, Any], context: Context | None = None) -> dict[str, Any]:
    """Predict the rides of a Kinesis event and answer which records Lambda must deliver again.

    Raises:
        NotAKinesisEventError: where the event is none; Lambda then counts an error and delivers all of it again.
    """
    deadline = Deadline.of(context)
    received, rejections = decode(event)
    predictions, unpredictable = predict(received)
    undelivered = deliver(predictions, deadline)
    undelivered += store([*rejections, *unpredictable])
    LOGGER.info(
        "batch done",
        records=len(event["Records"]),
        predictions=len(predictions),
        rejections=len(rejections) + len(unpredictable),
        undelivered=len(undelivered),
    )
    return answer(undelivered, [prediction for _, prediction in predictions])


def predict(received: Sequence[ReceivedRide]) -> tuple[list[tuple[ReceivedRide, Prediction]], list[Rejection]]:
    """Return the rides with their predictions, and the rejections of those that the model has none for."""
    predictions, rejections = [], []
    durations = MODEL.predict([ride.event.ride for ride in received])
    for ride, duration in zip(received, durations, strict=True):
        if isinstance(duration, PredictionError):
            rejections.append(Rejection(ride.record, "prediction", str(duration)))
        else:
            predictions.append((ride, prediction_of(ride, duration, SETTINGS.model_name, MODEL.version)))
    return predictions, rejections


def deliver(predictions: Sequence[tuple[ReceivedRide, Prediction]], deadline: Deadline) -> list[str]:
    """Put the predictions on the output stream; return the sequence numbers of those that it did not accept."""
    if STREAM is None:
        return []
    entries = [
        Entry(ride.record.kinesis.sequence_number, str(ride.event.ride_id), encode_prediction(prediction))
        for ride, prediction in predictions
    ]
    return [entry.sequence_number for entry in STREAM.put(entries, deadline)]


def store(rejections: Sequence[Rejection]) -> list[str]:
    """Keep the rejections in the failures bucket; return the sequence numbers of those that it does not hold."""
    for rejection in rejections:
        LOGGER.debug("rejected", event_id=rejection.record.event_id, kind=rejection.kind, reason=rejection.reason)
    if not rejections or kept(rejections):
        return []
    return [rejection.record.kinesis.sequence_number for rejection in rejections]


def kept(rejections: Sequence[Rejection]) -> bool:
    """Put the rejections into the failures bucket and return whether they are, or in a dry run would be, kept there."""
    if SETTINGS.dry_run:
        return SETTINGS.failures_location is not None
    return FAILURES is not None and FAILURES.store(*rejections_object(rejections))


def answer(undelivered: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the function's response: the undelivered records, lowest first; in a dry run the predictions too."""
    failures = [{"itemIdentifier": number} for number in sorted(set(undelivered), key=int)]
    if SETTINGS.dry_run:
        return {"batchItemFailures": failures, "predictions": msgspec.to_builtins(predictions)}
    return {"batchItemFailures": failures}
