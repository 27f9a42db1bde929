"""A process that stays up with one consumer and one model loaded, and times batches on request."""

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from scripts.benchmark.consumers import OURS, prepared
from scripts.benchmark.steps import Stopwatches
from scripts.environment import ROOT

STEPWISE = "ours, step by step"
"""Ours with stopwatches in it."""

STDOUT_OF_LAMBDA = subprocess.DEVNULL
"""A function's log lines and metrics go to a file descriptor there, too, and cost what it takes to write them."""


class WorkerError(Exception):
    """A worker could not measure; the message says which."""


class Turn(msgspec.Struct, frozen=True):
    """What batches of one size took that followed each other; in seconds, for all of them together."""

    batches: int
    wall: float
    cpu: float
    """Of the worker's process alone, all its threads together."""
    steps: Mapping[str, float]
    """Wall time by step, where the consumer has stopwatches in it."""


class _Request(msgspec.Struct):
    rides: int
    seconds: float


class Worker:
    """A worker's process, from the outside, for the length of a ``with`` block."""

    def __init__(self, consumer: str, environment: Mapping[str, str], events: Path) -> None:
        """Start the process.

        Args:
            consumer: one of ``bench_consumers``, or ``STEPWISE``.
            environment: the process's whole environment, which names the model and the endpoint.
            events: the folder with an event for each number of rides, ``<rides>.json``.
        """
        self._consumer = consumer
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scripts.benchmark.worker", consumer, str(events), str(theirs.fileno())],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=STDOUT_OF_LAMBDA,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal goes to the whole group: the parent ends its workers itself.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        """Have the process already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def turn(self, rides: int, seconds: float) -> Turn:
        """Return what batches of so many rides take: as many as begin within the seconds, and at least one.

        Raises:
            WorkerError: where the process ended instead; what it said stands on stderr.
        """
        try:
            self._connection.send_bytes(msgspec.json.encode(_Request(rides, seconds)))
            return msgspec.json.decode(self._connection.recv_bytes(), type=Turn)
        except (EOFError, OSError) as error:
            raise WorkerError(f"{self._consumer} failed on a batch of {rides:,} rides: see above") from error


def main() -> None:
    """Be a worker's process: answer each request that comes over the connection with a turn."""
    _, consumer, events, descriptor = sys.argv
    stopwatches = Stopwatches() if consumer == STEPWISE else None

    # Only the event that is measured is in memory, as in Lambda: the garbage collector looks at all that is.
    @functools.lru_cache(maxsize=1)
    def handle(rides: int) -> Callable[[], object]:
        event = json.loads(Path(events, f"{rides}.json").read_bytes())
        return prepared(OURS if stopwatches else consumer, event)

    with Connection(int(descriptor)) as connection:
        while True:
            try:
                request = msgspec.json.decode(connection.recv_bytes(), type=_Request)
            except EOFError:
                return
            connection.send_bytes(msgspec.json.encode(timed(handle(request.rides), request.seconds, stopwatches)))


def timed(handle: Callable[[], object], seconds: float, stopwatches: Stopwatches | None = None) -> Turn:
    """Call until the seconds are over, once at least, and return the times."""
    if stopwatches:
        stopwatches.read()
    batches, began, cpu_began = 0, time.perf_counter(), time.process_time()
    while batches == 0 or time.perf_counter() - began < seconds:
        handle()
        batches += 1
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return Turn(batches, wall, cpu, stopwatches.read() if stopwatches else {})


if __name__ == "__main__":
    main()
