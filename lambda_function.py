"""The Lambda function: ride events in from Kinesis, predicted durations out to Kinesis.

    Records     -- decode  --> rides       | rejections
    rides       -- predict --> predictions | rejections     one model call for the whole batch
    predictions -- deliver --> accepted    | undelivered    by PutRecords, again and again within the time left
    rejections  -- store   --> kept in S3  | undelivered
    undelivered -- answer  --> batchItemFailures            Lambda delivers again from the lowest sequence number

Every record ends as a prediction that Kinesis accepted, as a rejection that S3 holds, or in the answer.
"""

import gc

# Until all is loaded: what a cold start makes stays, and looking through it takes a tenth of the time.
gc.disable()

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from artifacts import find_run
from model import PredictionError, load_model
from rides import ReceivedRide, Rejection, decode, encode_prediction, partition_key, rejections_object
from settings import Settings
from streaming.delivery import MAX_ENTRY_BYTES, Context, Deadline, Delivery, Entry, FailuresBucket, OutputStream
from streaming.telemetry import Tally, Telemetry

SETTINGS = Settings.from_environment(os.environ)
TELEMETRY = Telemetry(SETTINGS.model_name, level=SETTINGS.log_level, namespace=SETTINGS.metrics_namespace)
with TELEMETRY.loading():
    MODEL = load_model(
        SETTINGS.model_location or find_run(SETTINGS.model_bucket, SETTINGS.experiment_id, SETTINGS.run_id),
        sha256=SETTINGS.model_sha256,
        version=SETTINGS.run_id,
    )
STREAM = None if SETTINGS.dry_run else OutputStream.connect(SETTINGS.predictions_stream)
FAILURES = None
if SETTINGS.failures_location and not SETTINGS.dry_run:
    FAILURES = FailuresBucket(SETTINGS.failures_location)
# Nor is it looked through for each large batch again, which takes a third of the batch's time.
gc.freeze()
gc.enable()


def lambda_handler(event: Mapping[str, Any], context: Context | None = None) -> dict[str, Any]:
    """Predict the rides of a Kinesis event and answer which records Lambda must deliver again.

    Raises:
        NotAKinesisEventError: where the event is none.
        DeliveryError: where the output stream takes nothing, and no retry would change that.
            In both cases Lambda counts an error and delivers the whole batch again.
    """
    deadline = Deadline.of(context)
    with TELEMETRY.invocation(context) as tally:
        received, rejections = decode(event)
        tally.decoded(len(event["Records"]), received, rejections)
        with tally.predicting():
            entries, unpredictable, untried = predict(received, deadline.earlier(0.5))
        undelivered = untried + deliver(entries, deadline.earlier(0.25, most=5.0), tally)
        undelivered += store([*rejections, *unpredictable], deadline, tally)
        tally.undelivered = len(undelivered)
    return answer(undelivered, entries)


def predict(received: Sequence[ReceivedRide], deadline: Deadline) -> tuple[list[Entry], list[Rejection], list[str]]:
    """Return the predictions to put, the rejections of rides without one, and the numbers of rides left untried."""
    entries, rejections, untried = [], [], []
    values = MODEL.predict([ride.event.ride for ride in received], deadline.is_over)
    for ride, value in zip(received, values, strict=True):
        number = ride.record.kinesis.sequence_number
        if value is None:
            untried.append(number)
            continue
        if isinstance(value, PredictionError):
            rejections.append(Rejection(ride.record, "prediction", str(value)))
            continue
        data = encode_prediction(
            ride, value, field=SETTINGS.prediction_field, model=SETTINGS.model_name, version=MODEL.version
        )
        entry = Entry(number, partition_key(ride.event.ride_id), data)
        if len(entry) <= MAX_ENTRY_BYTES:
            entries.append(entry)
        else:
            reason = f"the prediction takes {len(entry)} bytes, and a stream {MAX_ENTRY_BYTES} at most"
            rejections.append(Rejection(ride.record, "prediction", reason))
    return entries, rejections, untried


def deliver(entries: Sequence[Entry], deadline: Deadline, tally: Tally) -> list[str]:
    """Put the entries on the output stream; return the sequence numbers of those that it did not accept."""
    delivery = Delivery() if STREAM is None else STREAM.put(entries, deadline)
    tally.predictions = len(entries) - len(delivery.undelivered)
    tally.put_again = delivery.put_again
    tally.errors.update(delivery.errors)
    return [entry.sequence_number for entry in delivery.undelivered]


def store(rejections: Sequence[Rejection], deadline: Deadline, tally: Tally) -> list[str]:
    """Keep the rejections in the failures bucket; return the sequence numbers of those that it does not hold."""
    tally.rejections = rejections
    if not rejections or (SETTINGS.dry_run and SETTINGS.failures_location):
        return []
    error = FAILURES.store(*rejections_object(rejections), deadline) if FAILURES else "NoFailuresLocation"
    if error is None:
        return []
    tally.errors[error] += len(rejections)
    return [rejection.record.kinesis.sequence_number for rejection in rejections]


def answer(undelivered: Sequence[str], entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the function's response: the undelivered records, lowest first; in a dry run the predictions too."""
    failures = [{"itemIdentifier": number} for number in sorted(set(undelivered), key=int)]
    if SETTINGS.dry_run:
        return {"batchItemFailures": failures, "predictions": [msgspec.json.decode(entry.data) for entry in entries]}
    return {"batchItemFailures": failures}
