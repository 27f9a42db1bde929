"""The Lambda function: ride events in from Kinesis, predictions out to Kinesis.

    Records     -- decode  --> rides       | rejections
    rides       -- predict --> predictions | rejections     one model call for the whole batch
    predictions -- deliver --> accepted    | undelivered    PutRecords, with retries within the time left
    rejections  -- store   --> stored      | undelivered    one S3 object for the batch, if it is not too large
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
from ride_counts import Counter
from rides import Prediction, encode_prediction
from settings import StreamSettings
from streaming.delivery import MAX_ENTRY_BYTES, Context, Deadline, Delivery, Entry, FailuresBucket, OutputStream
from streaming.envelope import partition_key
from streaming.records import DecodedPart, ReceivedRide, Rejection, decode_parts, rides_of
from streaming.telemetry import Tally, Telemetry

SETTINGS = StreamSettings.from_environment(os.environ)
TELEMETRY = Telemetry(SETTINGS.model.name, level=SETTINGS.log_level, namespace=SETTINGS.metrics_namespace)
with TELEMETRY.loading():
    MODEL = load_from_settings(SETTINGS.model)
FIELD = SETTINGS.model.prediction_field or MODEL.metadata.field
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
        StuckRequestsError: if abandoned requests do not end; it ends the process, and Lambda starts another.
            In all cases Lambda counts an error and redelivers the whole batch.
    """
    deadline = Deadline.of(context)
    undelivered: list[str] = []
    shown: dict[str, list[Any]] = {"predictions": [], "rejections": []} if SETTINGS.dry_run else {}
    with TELEMETRY.invocation(context) as tally:
        # One part, unless aggregated records hold more rides than should be in memory at once: see ``decode_parts``.
        for part in decode_parts(event, deadline.is_over):
            tally.decoded(len(event["Records"]), part.received, part.rejections)
            undelivered += process(part, deadline, tally, shown)
            if undelivered:
                break
        # The time was over, or something is undelivered: Lambda redelivers what follows it anyway.
        undelivered += part.rest
        tally.undelivered = len(undelivered)
    failures = [{"itemIdentifier": number} for number in sorted(set(undelivered), key=int)]
    return {"batchItemFailures": failures, **shown}


def process(part: DecodedPart, deadline: Deadline, tally: Tally, shown: dict[str, list[Any]]) -> list[str]:
    """Predict, deliver and store a part of an event; return the numbers of the records to deliver again."""
    # Predicting leaves half of the time to delivery; delivery leaves a quarter, five seconds at most, to storing.
    with tally.predicting(MODEL.bins) as counter:
        entries, unpredictable, not_tried = predict(part.received, deadline.reserving(0.5), counter)
    delivery = STREAM.put(entries, deadline.reserving(0.25, most=5.0)) if STREAM else Delivery()
    tally.delivered(len(entries), delivery)
    rejections = part.rejections + unpredictable
    not_stored, storage_error = store(rejections, deadline)
    tally.stored(rejections, not_stored, storage_error)
    if SETTINGS.dry_run:  # the response shows them
        shown["predictions"] += [msgspec.json.decode(entry.data) for entry in entries]
        shown["rejections"] += [rejection.summary for rejection in rejections]
    undelivered = not_tried + [entry.sequence_number for entry in delivery.undelivered]
    return undelivered + [rejection.record.sequence_number for rejection in not_stored]


def predict(
    received: Sequence[ReceivedRide], deadline: Deadline, counter: Counter | None = None
) -> tuple[list[Entry], list[Rejection], list[str]]:
    """Return the predictions to put, the rejections of rides without one, and the numbers of rides not tried."""
    entries, rejections, not_tried = [], [], []
    values = MODEL.predict(rides_of(received, with_times=MODEL.metadata.wants_time), deadline.is_over, counter)
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
    prediction = Prediction(SETTINGS.model.name, MODEL.version, FIELD, value, ride.event.ride_id, ride.record.event_id)
    return Entry(ride.record.sequence_number, partition_key(ride.event.ride_id), encode_prediction(prediction))


def store(rejections: Sequence[Rejection], deadline: Deadline) -> tuple[Sequence[Rejection], str | None]:
    """Keep the rejections in the failures bucket; return those that it does not hold, and the name of the error."""
    # A dry run responds as if the bucket held them.
    if SETTINGS.dry_run and SETTINGS.failures_location:
        return [], None
    return FAILURES.keep(rejections, deadline) if FAILURES else (rejections, "NoFailuresLocation")
