"""What operators see of a batch: one JSON log line, and one line of metrics that CloudWatch extracts from the log.

Neither ever holds a ride. Ids, zones and partition keys appear only in log lines of the level DEBUG.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aws_lambda_powertools import Logger

from baselines import Bins
from ride_counts import KEY, RideCounts
from ride_counts import Counter as RideCounter
from rides import RejectionKind
from streaming.delivery import Delivery, DeliveryError
from streaming.records import ReceivedRide, Rejection
from streaming.windows import DriftWindows

DURATIONS = dict.fromkeys(("PredictTime", "OldestRecordAge", "ModelLoadTime"), "Milliseconds")
UNITS = {**DURATIONS, "Drift": "None"}
"""The metrics that are not counts, with their unit."""

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class Tally:
    """The numbers of one invocation. They count user records unless a comment says otherwise."""

    request_id: str | None = None
    shard: str = ""
    records: int = 0
    """Kinesis records. An aggregated one holds many user records."""
    rides: int = 0
    """Valid rides."""
    predictions: int = 0
    """Predictions that the output stream accepted; in a dry run, all."""
    rejections: Counter[RejectionKind] = field(default_factory=Counter)
    """All rejections, whether or not S3 holds them, by kind."""
    put_again: int = 0
    """Entries that were put once more, counted each time."""
    undelivered: int = 0
    """Rides and rejections that Lambda redelivers; all Kinesis records if the invocation fails."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failures over all attempts, by the name that AWS or the SDK gives them; each entry of PutRecords counts."""
    predict_seconds: float = 0.0
    counter: RideCounter | None = None
    """Counts the rides in the bins of the model's baseline; None if the model has none, or was not called."""
    oldest_arrival: float | None = None
    """Seconds since the epoch at which Kinesis got the oldest record."""
    debug: Callable[..., None] = lambda *_, **__: None
    """Log at the level DEBUG."""

    def decoded(self, records: int, received: Sequence[ReceivedRide], rejections: Sequence[Rejection]) -> None:
        """Count the event's Kinesis records and a part's rides, and keep the shard and the oldest record's arrival."""
        self.records = records
        self.rides += len(received)
        user_records = [ride.record for ride in received] + [rejection.record for rejection in rejections]
        oldest = min((one.arrival for one in user_records if one.arrival is not None), default=None)
        if oldest is not None:
            self.oldest_arrival = oldest if self.oldest_arrival is None else min(oldest, self.oldest_arrival)
        self.shard = user_records[0].event_id.partition(":")[0] if user_records else self.shard

    @contextlib.contextmanager
    def predicting(self, bins: Bins | None) -> Iterator[RideCounter | None]:
        """Measure the block as the time that the model needs. Give the counter of its rides if there are ``bins``."""
        began = time.perf_counter()
        if bins and not self.counter:
            self.counter = RideCounter(bins)
        yield self.counter
        self.predict_seconds += time.perf_counter() - began

    def delivered(self, entries: int, delivery: Delivery) -> None:
        """Count the accepted entries, the retries and the errors of the output stream."""
        self.predictions += entries - len(delivery.undelivered)
        self.put_again += delivery.put_again
        self.errors.update(delivery.errors)

    def stored(self, rejections: Sequence[Rejection], not_stored: Sequence[Rejection], error: str | None) -> None:
        """Count the rejections, and the error for those that S3 does not hold."""
        self.rejections.update(rejection.kind for rejection in rejections)
        with contextlib.suppress(Exception):  # as in ``Telemetry.invocation``
            for rejection in rejections:
                self.debug("rejected", event_id=rejection.record.event_id, reason=rejection.reason)
        if error and not_stored:
            self.errors[error] += len(not_stored)


class Telemetry:
    """The log and the metrics of the function, one for each sandbox."""

    def __init__(self, service: str, *, level: str, namespace: str | None) -> None:
        """Log as ``service``, which is also the one dimension of the metrics. No namespace means no metrics."""
        self.logger = Logger(service=service, level=level)
        self._service, self._namespace = service, namespace
        self._model_load_seconds: float | None = None
        self._windows = DriftWindows()

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Measure the block as the model's load time. The first invocation reports it as a cold start."""
        began = time.perf_counter()
        yield
        self._model_load_seconds = time.perf_counter() - began

    @contextlib.contextmanager
    def invocation(self, context: Any) -> Iterator[Tally]:
        """Give the tally of an invocation, and report it when the block ends, also if it raises.

        An error of the report itself is dropped: it must not turn a delivered batch into one that Lambda redelivers.
        """
        tally = Tally(request_id=getattr(context, "aws_request_id", None), debug=self.logger.debug)
        # The traceback is left out, because Lambda itself logs it.
        log, message = self.logger.error, "the invocation failed: Lambda delivers the whole batch again"
        try:
            yield tally
            log, message = self.logger.info, "batch done"
            if tally.undelivered:
                log, message = self.logger.warning, "records are left for redelivery"
        except BaseException as error:  # StuckRequestsError is a SystemExit
            tally.undelivered = tally.records
            tally.errors[error.code if isinstance(error, DeliveryError) else type(error).__name__] += 1
            raise
        finally:
            with contextlib.suppress(Exception):
                log(
                    message,
                    function_request_id=tally.request_id,
                    shard=tally.shard,
                    records=tally.records,
                    rides=tally.rides,
                    predictions=tally.predictions,
                    rejections=dict(tally.rejections),
                    put_again=tally.put_again,
                    undelivered=tally.undelivered,
                    errors=dict(tally.errors),
                )
            if self._namespace:
                with contextlib.suppress(Exception):
                    drift, counts = self._watch(tally)
                    line = metrics_line(self._namespace, self._service, self._values(tally) | drift, counts)
                    print(f"{line}\n", end="")  # in one write, because threads of the local mapping print side by side

    def _watch(self, tally: Tally) -> tuple[dict[str, float], RideCounts | None]:
        """Return the drift if a window of rides is complete, and the counts of the invocation's rides."""
        drift, counts = {}, None
        # If counting fails, the line still has its other metrics.
        with contextlib.suppress(Exception):
            if counter := tally.counter:
                counter.rejected = tally.rejections.total()
                counts = counter.total()
                if (excess := self._windows.add(counter)) is not None:
                    drift["Drift"] = excess
        return drift, counts

    def _values(self, tally: Tally) -> dict[str, float]:
        """Return the metrics. Their names are the same for every batch, except for the kinds of rejections."""
        values: dict[str, float] = {
            "Records": tally.records,
            "Rides": tally.rides,
            "Predictions": tally.predictions,
            "Rejections": tally.rejections.total(),
            **{f"Rejections{kind.title().replace('-', '')}": number for kind, number in tally.rejections.items()},
            "EntriesPutAgain": tally.put_again,
            "Undelivered": tally.undelivered,
            "PredictTime": tally.predict_seconds * 1000,
        }
        if tally.oldest_arrival is not None:
            # Kinesis' clock may be ahead of this one.
            values["OldestRecordAge"] = max(0.0, time.time() - tally.oldest_arrival) * 1000
        if self._model_load_seconds is not None:
            values |= {"ModelLoadTime": self._model_load_seconds * 1000, "ColdStart": 1}
            self._model_load_seconds = None
        return values


def metrics_line(namespace: str, service: str, values: Mapping[str, float], counts: RideCounts | None = None) -> str:
    """Return the metrics in CloudWatch's embedded metric format (CloudWatch's user guide), as Powertools writes them.

    ``counts`` is not a metric. CloudWatch keeps it in the log with the rest of the line.

    Powertools itself takes ten times as long as a prediction, because it checks each name, unit and value again.
    """
    definitions = [{"Name": name, "Unit": UNITS.get(name, "Count")} for name in values]
    declared = {"Namespace": namespace, "Dimensions": [["service"]], "Metrics": definitions}
    line = {
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [declared]},
        "service": service,
        **{name: [float(value)] for name, value in values.items()},
        **({KEY: counts} if counts else {}),
    }
    return _encoder.encode(line).decode()
