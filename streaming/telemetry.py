"""What operators see of a batch: one JSON log line, and one line of metrics that CloudWatch extracts from the log.

Neither ever holds a ride. Ids, zones and partition keys appear only in log lines of the level DEBUG.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from streaming.delivery import Delivery
from streaming.records import ReceivedRide, Rejection

FAILED = "the invocation failed: Lambda delivers the whole batch again"
LEFT = "records are left for redelivery"
DONE = "batch done"


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
    rejections: Sequence[Rejection] = ()
    """All rejections, whether or not S3 holds them."""
    put_again: int = 0
    """Entries that were put once more, counted each time."""
    undelivered: int = 0
    """Rides and rejections that Lambda redelivers; all Kinesis records if the invocation fails."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failures over all attempts, by the name that AWS or the SDK gives them; each entry of PutRecords counts."""
    predict_seconds: float = 0.0
    oldest_arrival: float | None = None
    """Seconds since the epoch at which Kinesis got the oldest record."""

    def decoded(self, records: int, received: Sequence[ReceivedRide], rejections: Sequence[Rejection]) -> None:
        """Count what the records of the event hold."""
        self.records = records
        self.rides = len(received)
        user_records = [ride.record for ride in received] + [rejection.record for rejection in rejections]
        arrivals = [record.arrival for record in user_records if record.arrival is not None]
        self.oldest_arrival = min(arrivals, default=None)
        self.shard = user_records[0].event_id.partition(":")[0] if user_records else ""

    @contextlib.contextmanager
    def predicting(self) -> Iterator[None]:
        """Measure the block as the time that the model needs."""
        began = time.perf_counter()
        yield
        self.predict_seconds = time.perf_counter() - began

    def delivered(self, entries: int, delivery: Delivery) -> None:
        """Count what became of the entries for the output stream."""
        self.predictions = entries - len(delivery.undelivered)
        self.put_again = delivery.put_again
        self.errors.update(delivery.errors)

    def stored(self, rejections: Sequence[Rejection], error: str | None) -> None:
        """Count the rejections, and the error if S3 does not hold them."""
        self.rejections = rejections
        if error:
            self.errors[error] += len(rejections)


class Telemetry:
    """The log and the metrics of the function, one for each sandbox."""

    def __init__(self, service: str, *, level: str, namespace: str | None) -> None:
        """Log as ``service``, which is also the metrics' one dimension. Without a namespace there are no metrics."""
        self.logger = Logger(service=service, level=level)
        self._metrics = Metrics(namespace=namespace, service=service) if namespace else None
        self._model_load_seconds: float | None = None

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Measure the block as the model's load time. The first invocation reports it as a cold start."""
        began = time.perf_counter()
        yield
        self._model_load_seconds = time.perf_counter() - began

    @contextlib.contextmanager
    def invocation(self, context: Any) -> Iterator[Tally]:
        """Give the tally of an invocation, and report it when the block ends, also if it raises."""
        tally = Tally(request_id=getattr(context, "aws_request_id", None))
        try:
            yield tally
        except Exception as error:
            tally.undelivered = tally.records
            tally.errors[getattr(error, "code", type(error).__name__)] += 1
            self.logger.error(FAILED, **_counts(tally))  # noqa: TRY400 - Lambda itself logs the traceback
            raise
        else:
            log = self.logger.warning if tally.undelivered else self.logger.info
            log(LEFT if tally.undelivered else DONE, **_counts(tally))
        finally:
            for rejection in tally.rejections:
                self.logger.debug("rejected", event_id=rejection.record.event_id, reason=rejection.reason)
            self._emit(tally)

    def _emit(self, tally: Tally) -> None:
        if self._metrics is None:
            return
        for name, number in _numbers(tally).items():
            self._metrics.add_metric(name=name, unit=MetricUnit.Count, value=number)
        self._metrics.add_metric(name="PredictTime", unit=MetricUnit.Milliseconds, value=tally.predict_seconds * 1000)
        if tally.oldest_arrival is not None:
            age = time.time() - tally.oldest_arrival
            self._metrics.add_metric(name="OldestRecordAge", unit=MetricUnit.Milliseconds, value=age * 1000)
        if self._model_load_seconds is not None:
            load = self._model_load_seconds * 1000
            self._metrics.add_metric(name="ModelLoadTime", unit=MetricUnit.Milliseconds, value=load)
            self._metrics.add_metric(name="ColdStart", unit=MetricUnit.Count, value=1)
            self._model_load_seconds = None
        self._metrics.flush_metrics()


def _counts(tally: Tally) -> dict[str, Any]:
    """Return the fields of a batch's log line."""
    return {
        "function_request_id": tally.request_id,
        "shard": tally.shard,
        "records": tally.records,
        "rides": tally.rides,
        "predictions": tally.predictions,
        "rejections": dict(_kinds(tally)),
        "put_again": tally.put_again,
        "undelivered": tally.undelivered,
        "errors": dict(tally.errors),
    }


def _numbers(tally: Tally) -> dict[str, int]:
    """Return the metrics that are counts, by name. Only the kinds of rejections vary from batch to batch."""
    kinds = {f"Rejections{kind.title().replace('-', '')}": number for kind, number in _kinds(tally).items()}
    return {
        "Records": tally.records,
        "Rides": tally.rides,
        "Predictions": tally.predictions,
        "Rejections": len(tally.rejections),
        **kinds,
        "EntriesPutAgain": tally.put_again,
        "Undelivered": tally.undelivered,
    }


def _kinds(tally: Tally) -> Counter[str]:
    return Counter(rejection.kind for rejection in tally.rejections)
