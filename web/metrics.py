"""Counts of the web service for Prometheus, in memory of a fixed size that all workers share.

Every worker writes into a slot of its own, and any worker adds up all slots. When a worker ends, even by SIGKILL, its
slot keeps its counts, and the next worker goes on counting there. Prometheus' own client library instead keeps files of
each process that has ever counted, so a server that replaces its workers would fill the disk.
"""

import fcntl
import mmap
import os
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from baselines import Bins
from ride_counts import Counter
from web.ride_metrics import write_counts

MAX_WORKERS = 128
"""The number of slots."""

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of request durations. OpenTelemetry's begin at 5 ms, too late for a small model."""

BATCH_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""Upper bounds of the buckets of rides in a request."""

OUTCOMES = ("predicted", "json", "utf-8", "ride", "prediction")
"""What becomes of a ride: a prediction, or a rejection of one of the stream's kinds."""

OTHER = "other"
"""The route and the method of requests that no route takes, and the status of unexpected ones."""

TEXT = CONTENT_TYPE_PLAIN_0_0_4
"""The media type of the metrics. Every scraper reads this format."""

Request = tuple[str, str, str]
"""Method, route and status of a request."""


class SharedCells:
    """Numbers in shared memory: a slot of cells for each worker. Processes that are forked later share all slots."""

    def __init__(self, size: int, gauge: int) -> None:
        """Make slots of ``size`` cells, all zero. The cell ``gauge`` is set to zero when its worker ends."""
        self._size, self._gauge = size, gauge
        # Not a file: if the disk is full, the first write to a part of a mapped file kills the process (SIGBUS).
        memory = mmap.mmap(-1, MAX_WORKERS * size * 8)
        self._memory = memoryview(memory).cast("d")  # faster than numpy for single numbers
        self._slots = np.frombuffer(memory).reshape(MAX_WORKERS, size)
        # An empty file without a name, for locks on its bytes. The kernel removes it with the last process that has it.
        self._locks = tempfile.TemporaryFile()  # noqa: SIM115 - kept as long as the process
        self._own_slot: int | None = None
        self._own: memoryview[float] | None = None
        os.register_at_fork(after_in_child=self._forget)

    @property
    def own(self) -> "memoryview[float]":
        """This process's slot, which may begin with the counts of a worker that has ended."""
        if self._own is None:
            self._own = self._claim()
        return self._own

    def totals(self) -> list[float]:
        """Return the sum of all slots, cell by cell."""
        self._end_gauges()
        totals: list[float] = self._slots.sum(axis=0).tolist()
        return totals

    def _claim(self) -> "memoryview[float]":
        for slot in range(MAX_WORKERS):
            if self._lock(slot):
                self._own_slot = slot
                own = self._memory[slot * self._size : (slot + 1) * self._size]
                own[self._gauge] = 0.0
                return own
        raise RuntimeError(f"there are more than {MAX_WORKERS} workers: lower WEB_CONCURRENCY")

    def _lock(self, slot: int) -> bool:
        """Lock the slot for this process. Returns False if another process has it."""
        try:
            # The kernel drops the lock when this process ends, and a forked process does not inherit it.
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:
            return False
        return True

    def _end_gauges(self) -> None:
        """Set the gauges of killed workers to zero. If a new worker has taken a slot, ``_claim`` has done it there."""
        for slot in np.flatnonzero(self._slots[:, self._gauge]).tolist():
            if slot != self._own_slot and self._lock(slot):
                self._slots[slot, self._gauge] = 0.0
                fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, slot)

    def _forget(self) -> None:
        self._own = self._own_slot = None


class Metrics(Collector):
    """What the service counts, as metrics that ``exposition`` writes."""

    def __init__(self, requests: Sequence[Request], info: Mapping[str, str], bins: Bins | None = None) -> None:
        """Count each of ``requests`` by itself, and all others together. ``info`` has the labels of ``model_info``.

        Rides are counted in ``bins`` if there are any.
        """
        self._requests = list(dict.fromkeys([*requests, (OTHER, OTHER, OTHER)]))
        self._info = dict(info)
        self._width = len(SECONDS) + 2  # a last bucket for longer durations, and the sum
        self._starts = {request: self._width * number for number, request in enumerate(self._requests)}
        self._outcomes = self._width * len(self._requests)
        self._batches = self._outcomes + len(OUTCOMES)
        self._in_flight = self._batches + len(BATCH_SIZES) + 2
        self._bins, self._in_bins = bins, self._in_flight + 1
        self._cells = SharedCells(self._in_bins + (bins.size if bins else 0), gauge=self._in_flight)
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def begin(self) -> None:
        """Count a request in flight."""
        with self._lock:
            self._cells.own[self._in_flight] += 1

    def end(self, request: Request, seconds: float) -> None:
        """Count a request that is about to be answered."""
        start = self._starts.get(request)
        if start is None:
            start = self._starts.get((OTHER, OTHER, request[2]), self._starts[OTHER, OTHER, OTHER])
        with self._lock:
            cells = self._cells.own
            cells[start + bisect_left(SECONDS, seconds)] += 1
            cells[start + self._width - 1] += seconds
            cells[self._in_flight] -= 1

    def count_rides(self, outcomes: Mapping[str, int], counter: Counter | None = None) -> None:
        """Count the rides of a request by outcome. The ``counter`` has counted them in the bins."""
        rides = sum(outcomes.values())
        with self._lock:
            cells = self._cells.own
            for outcome, number in outcomes.items():
                cells[self._outcomes + OUTCOMES.index(outcome)] += number
            cells[self._batches + bisect_left(BATCH_SIZES, rides)] += 1
            cells[self._batches + len(BATCH_SIZES) + 1] += rides
            if counter:
                for cell in counter.few:
                    cells[self._in_bins + cell] += 1
                if counter.many is not None:
                    np.asarray(cells)[self._in_bins :] += counter.many

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format, whose media type is ``TEXT``."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, for prometheus_client."""
        totals = self._cells.totals()
        seconds = HistogramMetricFamily(
            "http_server_request_duration_seconds",
            "From the request to its answer, as the application sees it.",
            labels=("method", "route", "status"),
        )
        for request, start in self._starts.items():
            buckets, total = _histogram(SECONDS, totals[start : start + self._width])
            seconds.add_metric(request, buckets, total)
        yield seconds
        in_flight = max(0.0, totals[self._in_flight])
        yield GaugeMetricFamily("http_server_active_requests", "Requests that the application is answering.", in_flight)
        rides = CounterMetricFamily("predictions", "Rides by what became of them.", labels=("outcome",))
        for number, outcome in enumerate(OUTCOMES):
            rides.add_metric((outcome,), totals[self._outcomes + number])
        yield rides
        if self._bins:
            # Each rejection has an outcome, also that of a whole request.
            rejected = sum(totals[self._outcomes + 1 : self._outcomes + len(OUTCOMES)])
            yield from write_counts(self._bins, totals[self._in_bins :], rejected)
        buckets, total = _histogram(BATCH_SIZES, totals[self._batches : self._in_flight])
        yield HistogramMetricFamily("ride_batch_size", "Rides of a request.", buckets, total)
        yield InfoMetricFamily("model", "The model that predicts.", self._info)


def _histogram(bounds: Sequence[float], cells: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets and the sum of a histogram whose last cell is the sum."""
    names = [*(repr(bound) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(cells[:-1]), strict=True)), cells[-1]
