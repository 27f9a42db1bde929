"""The Lambda function: ride events in from Kinesis, predicted durations out to Kinesis.

    Records     -- decode  --> rides       | rejections
    rides       -- predict --> predictions | rejections     one model call for the whole batch
    predictions -- deliver --> accepted    | undelivered    PutRecords, with retries within the time left
    rejections  -- store   --> stored      | undelivered    one S3 object for the batch
    undelivered -- respond --> batchItemFailures            Lambda redelivers from the lowest sequence number

Every record is predicted and accepted by the output stream, rejected and stored in S3, or reported in the response.
"""

import gc

# GC is off while loading: nothing created here is ever freed, and scanning it would make cold starts about 10 % longer.
gc.disable()

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from model import NotTriedError, load_from_settings
from rides import Prediction, encode_prediction
from settings import StreamSettings
from streaming.delivery import MAX_ENTRY_BYTES, Context, Deadline, Delivery, Entry, FailuresBucket, OutputStream
from streaming.envelope import partition_key
from streaming.records import ReceivedRide, Rejection, decode_event, rejections_object
from streaming.telemetry import Telemetry

SETTINGS = StreamSettings.from_environment(os.environ)
TELEMETRY = Telemetry(SETTINGS.model.name, level=SETTINGS.log_level, namespace=SETTINGS.metrics_namespace)
with TELEMETRY.loading():
    MODEL = load_from_settings(SETTINGS.model)
STREAM = None if SETTINGS.dry_run else OutputStream.connect(SETTINGS.predictions_stream)
FAILURES = FailuresBucket(SETTINGS.failures_location) if SETTINGS.failures_location and not SETTINGS.dry_run else None
# GC never scans again what was loaded. Otherwise it would take a third of the time of each large batch.
gc.freeze()
gc.enable()


def lambda_handler(event: Mapping[str, Any], context: Context | None = None) -> dict[str, Any]:
    """Predict the rides of a Kinesis event and respond which records Lambda must deliver again.

    Raises:
        NotAKinesisEventError: if it is not a Kinesis event.
        DeliveryError: if the output stream accepts nothing, and no retry would change that.
            In both cases Lambda counts an error and redelivers the whole batch.
    """
    deadline = Deadline.of(context)
    with TELEMETRY.invocation(context) as tally:
        received, rejections = decode_event(event)
        tally.decoded(len(event["Records"]), received, rejections)
        # Predicting leaves half of the time to delivery; delivery leaves a quarter, five seconds at most, to storing.
        with tally.predicting():
            entries, unpredictable, not_tried = predict(received, deadline.reserving(0.5))
        rejections += unpredictable
        delivery = STREAM.put(entries, deadline.reserving(0.25, most=5.0)) if STREAM else Delivery()
        tally.delivered(len(entries), delivery)
        storage_error = store(rejections, deadline)
        tally.stored(rejections, storage_error)
        undelivered = not_tried + [entry.sequence_number for entry in delivery.undelivered]
        if storage_error:
            undelivered += [rejection.record.sequence_number for rejection in rejections]
        tally.undelivered = len(undelivered)
    return response(undelivered, entries, rejections)


def predict(received: Sequence[ReceivedRide], deadline: Deadline) -> tuple[list[Entry], list[Rejection], list[str]]:
    """Return the predictions to put, the rejections of rides without one, and the numbers of rides not tried."""
    entries, rejections, not_tried = [], [], []
    values = MODEL.predict([ride.event.ride for ride in received], deadline.is_over)
    for ride, value in zip(received, values, strict=True):
        if isinstance(value, float):
            entry = prediction_entry(ride, value)
            if entry.size <= MAX_ENTRY_BYTES:
                entries.append(entry)
            else:
                reason = f"the prediction takes {entry.size} bytes, and a stream {MAX_ENTRY_BYTES} at most"
                rejections.append(Rejection(ride.record, "prediction", reason))
        elif isinstance(value, NotTriedError):
            not_tried.append(ride.record.sequence_number)
        else:
            rejections.append(Rejection(ride.record, "prediction", str(value)))
    return entries, rejections, not_tried


def prediction_entry(ride: ReceivedRide, value: float) -> Entry:
    """Return the entry for PutRecords that carries a ride's predicted value."""
    model, record, ride_id = SETTINGS.model, ride.record, ride.event.ride_id
    prediction = Prediction(model.name, MODEL.version, model.prediction_field, value, ride_id, record.event_id)
    return Entry(record.sequence_number, partition_key(ride_id), encode_prediction(prediction))


def store(rejections: Sequence[Rejection], deadline: Deadline) -> str | None:
    """Keep the rejections in the failures bucket; return the name of the error if it does not hold them."""
    # A dry run responds as if the bucket held them.
    if not rejections or (SETTINGS.dry_run and SETTINGS.failures_location):
        return None
    return FAILURES.store(*rejections_object(rejections), deadline) if FAILURES else "NoFailuresLocation"


def response(undelivered: Sequence[str], entries: Sequence[Entry], rejections: Sequence[Rejection]) -> dict[str, Any]:
    """Return the undelivered records, lowest first; in a dry run the predictions and the rejections too."""
    failures = [{"itemIdentifier": number} for number in sorted(set(undelivered), key=int)]
    answer: dict[str, Any] = {"batchItemFailures": failures}
    if SETTINGS.dry_run:
        answer["predictions"] = [msgspec.json.decode(entry.data) for entry in entries]
        answer["rejections"] = [rejection.summary for rejection in rejections]
    return answer
