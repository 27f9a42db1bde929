"""Requests to AWS side by side, each in a thread, so that a request that takes too long can be abandoned.

SDK timeouts limit a single socket read, not the whole call: a name lookup has none, and a response that arrives byte by
byte never runs into one. Nothing can interrupt a call that the main thread makes, so the main thread makes none.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from streaming.connections import UsedConnection

MAX_ABANDONED = 16
"""No request is started while this many abandoned ones have not ended. Each keeps a thread, a socket and its data."""

Response = TypeVar("Response")

_idle: list["_Worker"] = []
"""The workers that have no call. The worker that was added last is taken first, as with the SDK's connections."""

_abandoned: list[threading.Thread] = []
"""The threads of abandoned requests. They end soon, because their connections are closed."""


class StuckRequestsError(SystemExit):
    """Too many abandoned requests have not ended, although their connections are closed.

    This exception ends the process. After any other exception, the next batch would get the same process with the
    stuck threads. Lambda counts an error, redelivers the batch, and starts another process.
    """


class _Worker:
    """A thread that makes one call after another: a new thread for each call would take four times as long.

    It is not an executor of the standard library, because Python waits for an executor's threads when it ends.
    """

    def __init__(self) -> None:
        self._given: SimpleQueue[tuple[Callable[[], Any], Future[Any], UsedConnection] | None] = SimpleQueue()
        self._used = UsedConnection()
        # It is a daemon because Python does not wait for daemons when it ends.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def start(self, call: Callable[[], Response]) -> Future[Response]:
        """Give the thread a call, and return the call's future."""
        future: Future[Response] = Future()
        self._used = UsedConnection()
        self._given.put((call, future, self._used))
        return future

    def abandon(self) -> Future[Any]:
        """Close the connection of the current call, which ends the call, and let the thread end after the call.

        Return a new future with a TimeoutError. The call's own future gets another error, because its connection was
        closed.
        """
        self._used.close()
        self._given.put(None)
        _abandoned.append(self._thread)
        timed_out: Future[Any] = Future()
        timed_out.set_exception(TimeoutError())
        return timed_out

    def _work(self) -> None:
        while given := self._given.get():
            _make(*given)
            del given  # an idle worker keeps no request and no response in memory


def _make(call: Callable[[], Any], future: "Future[Any]", used: UsedConnection) -> None:
    used.follow_this_thread()
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
    finally:
        del future  # otherwise future, error, traceback and this frame are a cycle, which only GC would free


def run_side_by_side(calls: Sequence[Callable[[], Response]], seconds: float) -> list[Future[Response]]:
    """Start all calls at once, wait until they have ended or the time is over, and return their futures in order.

    A call that takes longer than ``seconds`` is abandoned: its connection is closed, and its future has a TimeoutError.
    If AWS applies its request nevertheless, a retry makes a duplicate. All other calls have ended when this function
    returns, so none of their requests is in flight when Lambda freezes the process.

    Raises:
        StuckRequestsError: if threads of abandoned calls have not ended.
    """
    _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
    if len(_abandoned) >= MAX_ABANDONED:
        raise StuckRequestsError(f"{len(_abandoned)} requests were abandoned and have not ended: starting afresh")
    end = time.monotonic() + seconds
    workers: list[_Worker] = []
    futures: list[Future[Response]] = []
    try:
        for call in calls:
            workers.append(_take_worker())
            futures.append(workers[-1].start(call))
        for future in futures:
            with contextlib.suppress(TimeoutError):
                # Not result(), which would raise the call's error before the other calls have ended.
                future.exception(max(0.0, end - time.monotonic()))
    finally:
        for place, future in enumerate(futures):
            if future.done():
                _idle.append(workers[place])
            else:
                futures[place] = workers[place].abandon()
    return futures


def _take_worker() -> _Worker:
    try:
        return _idle.pop()  # atomic: threads of the local mapping share the workers
    except IndexError:
        return _Worker()
