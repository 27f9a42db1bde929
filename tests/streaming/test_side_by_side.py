"""Requests of one batch in flight side by side: their number, and the result if one of them fails."""

import functools
import gc
import json
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from scripts.localaws.faults import Call, FailedEntries, FailedRequest, Fault
from streaming import delivery, requests
from streaming.delivery import Deadline, DeliveryError, Entry, OutputStream
from streaming.requests import run_side_by_side
from tests.conftest import Clock
from tests.flow import Chaos
from tests.streaming.conftest import Answering
from tests.streaming.test_output_stream import entries, numbers, on_stream
from tests.tools import PATIENCE, wait_for

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

SIZE, AT_ONCE = 5, 4
"""The entries of a request and the requests in flight: so small that a small batch takes several groups."""
GROUP = SIZE * AT_ONCE


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make requests small, and the waits between attempts short."""
    monkeypatch.setattr(delivery, "MAX_ENTRIES", SIZE)
    monkeypatch.setattr(delivery, "MAX_IN_FLIGHT", AT_ONCE)
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)


def keys_of(body: bytes) -> list[str]:
    """Return the partition keys in the body of a request."""
    return [entry["PartitionKey"] for entry in json.loads(body)["Records"]]


def accept_all(body: bytes) -> bytes:
    """Build the response that confirms all entries of a request."""
    return json.dumps({"Records": [{"SequenceNumber": "1"} for _ in keys_of(body)]}).encode()


def throttle(call: Call, *keys: str) -> FailedEntries:
    """Build the fault that throttles the entries of a call that have one of these keys."""
    return FailedEntries(frozenset(i for i, entry in enumerate(call.entries) if entry["PartitionKey"] in keys))


def test_as_many_requests_as_allowed_are_in_flight_and_no_more(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers only when four requests are there. If a fifth request were sent, the server would see it."""
    barrier, lock = threading.Barrier(AT_ONCE), threading.Lock()
    inside, most = 0, 0

    def accept_together(body: bytes) -> bytes:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        barrier.wait(PATIENCE)
        with lock:
            inside -= 1
        return accept_all(body)

    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", answering(200, accept_together))
    monkeypatch.setattr(delivery, "REQUEST_SECONDS", PATIENCE)
    done = OutputStream.connect("any").put(entries(3 * GROUP), Deadline())
    assert (done.undelivered, done.errors, most) == ([], Counter(), AT_ONCE)


def test_a_slow_request_keeps_back_only_entries_with_its_keys(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers the first request last. The last entry of the batch has a key of the first request."""
    others_done = threading.Semaphore(0)
    arrived: list[list[str]] = []

    def accept_first_last(body: bytes) -> bytes:
        arrived.append(keys := keys_of(body))
        if "key-1" not in keys:
            others_done.release()
            return accept_all(body)
        for _ in range(AT_ONCE - 1):
            assert others_done.acquire(timeout=PATIENCE)
        arrived.append(["answered"])
        return accept_all(body)

    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", answering(200, accept_first_last))
    monkeypatch.setattr(delivery, "REQUEST_SECONDS", PATIENCE)
    batch = [*entries(GROUP - 1), Entry("19", "key-0", b"later")]
    assert OutputStream.connect("any").put(batch, Deadline()).undelivered == []
    assert arrived[-2:] == [["answered"], ["key-0"]]
    assert sorted(len(keys) for keys in arrived[:-2]) == [4, 5, 5, 5]


def test_an_entry_that_fails_for_good_ends_the_delivery_after_the_requests_beside_its_own(
    chaos: Chaos, kinesis: "KinesisClient", stream: str
) -> None:
    """Lambda redelivers everything from this entry on, so later requests would only make duplicates."""
    with chaos(lambda call: throttle(call, "key-7")) as server:
        done = OutputStream.connect(stream).put(entries(GROUP + 12), Deadline())
    assert numbers(done.undelivered) == [7, *range(GROUP, GROUP + 12)]
    assert sorted(on_stream(kinesis, stream)) == [number for number in range(GROUP) if number != 7]
    assert server.entry_counts == [SIZE] * AT_ONCE + [1] * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS
    assert done.put_again == delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS


def test_a_throttled_stream_gets_one_request_at_a_time(chaos: Chaos, stream: str) -> None:
    """Each attempt has one request, and there are as many attempts as for a batch of one request."""
    with chaos(lambda call: throttle(call, *(entry["PartitionKey"] for entry in call.entries))) as server:
        done = OutputStream.connect(stream).put(entries(2 * GROUP), Deadline())
    assert numbers(done.undelivered) == list(range(2 * GROUP))
    retries = delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS - 1
    assert server.entry_counts == [SIZE] * (AT_ONCE + retries)
    assert done.put_again == SIZE * retries


def test_requests_side_by_side_come_back_step_by_step(
    chaos: Chaos, kinesis: "KinesisClient", stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure, the next attempts have one request, then two requests, and then four again."""
    sizes = []

    def note(calls: list[object], seconds: float) -> object:
        sizes.append(len(calls))
        return run_side_by_side(calls, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(delivery, "run_side_by_side", note)
    with chaos(lambda call: throttle(call, "key-7") if call.number < AT_ONCE else None):
        assert OutputStream.connect(stream).put(entries(4 * GROUP), Deadline()).undelivered == []
    assert sizes == [4, 1, 2, 4, 4, 2]
    assert sorted(on_stream(kinesis, stream)) == list(range(4 * GROUP))


def test_the_time_runs_out_between_groups(chaos: Chaos, kinesis: "KinesisClient", stream: str, clock: Clock) -> None:
    """A failed entry in the middle and all later requests are undelivered, in the order of the batch."""

    def be_slow(call: Call) -> Fault:
        clock.sleep(30)
        return throttle(call, "key-7")

    with chaos(be_slow):
        done = OutputStream.connect(stream).put(entries(3 * GROUP), Deadline(100))
    assert numbers(done.undelivered) == [7, *range(GROUP, 3 * GROUP)]
    assert done.errors == {"ProvisionedThroughputExceededException": 1, "OutOfTime": 1}
    assert sorted(on_stream(kinesis, stream)) == [number for number in range(GROUP) if number != 7]


def test_a_lasting_failure_is_raised_after_the_requests_beside_it(
    chaos: Chaos, kinesis: "KinesisClient", stream: str
) -> None:
    """No request is in flight when the function returns, and none is sent afterwards."""

    def deny_one(call: Call) -> Fault | None:
        return FailedRequest(400, "AccessDeniedException") if call.number == 1 else None

    with chaos(deny_one) as server, pytest.raises(DeliveryError, match="5 entries to .* with AccessDeniedException"):
        OutputStream.connect(stream).put(entries(2 * GROUP), Deadline())
    assert server.entry_counts == [SIZE] * AT_ONCE
    assert len(on_stream(kinesis, stream)) == GROUP - SIZE


def test_a_lack_of_memory_is_raised(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry would run out of memory too, so Lambda redelivers the batch."""

    def fail(self: OutputStream, chunk: list[Entry]) -> None:
        raise MemoryError

    monkeypatch.setattr(OutputStream, "_put_records", fail)
    with pytest.raises(MemoryError):
        OutputStream.connect(stream).put(entries(GROUP), Deadline())


class TestWorkers:
    """The threads in which calls are made."""

    def test_threads_are_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There are never more threads than calls at the same time."""
        monkeypatch.setattr(requests, "_idle", [])
        used: list[set[int]] = []

        def wait_for_the_others(barrier: threading.Barrier) -> int:
            barrier.wait(PATIENCE)  # so each call needs a thread of its own
            return threading.get_ident()

        for count in (4, 1, 4, 2):
            call = functools.partial(wait_for_the_others, threading.Barrier(count))
            used.append({outcome.result() for outcome in run_side_by_side([call] * count, PATIENCE)})
        assert [len(threads) for threads in used] == [4, 1, 4, 2]
        assert set.union(*used) == used[0]

    def test_an_idle_thread_keeps_nothing_of_its_last_call(self) -> None:
        """A request and its response may take megabytes, and Lambda keeps the process for hours."""

        class Response:
            pass

        kept: list[weakref.ref[Response]] = []

        def respond() -> Response:
            response = Response()
            kept.append(weakref.ref(response))
            return response

        def fail() -> None:
            request = respond()
            raise ZeroDivisionError(str(request))

        gc.disable()
        try:
            outcomes = run_side_by_side([respond, fail], PATIENCE)
            assert [type(outcome.exception()) for outcome in outcomes] == [type(None), ZeroDivisionError]
            del outcomes
            wait_for(lambda: [one() for one in kept] == [None, None])
        finally:
            gc.enable()

    def test_an_abandoned_call_leaves_the_others_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its thread gets no further call, and ends when the call ends."""
        monkeypatch.setattr(requests, "_idle", [])
        monkeypatch.setattr(requests, "_abandoned", [])
        release = threading.Event()
        with pytest.raises(ZeroDivisionError):
            run_side_by_side([lambda: 1 / 0], PATIENCE)[0].result()
        stuck, quick = run_side_by_side([release.wait, threading.get_ident], 1)
        assert isinstance(stuck.exception(0), TimeoutError)
        (thread,) = requests._abandoned
        assert quick.result() != thread.ident
        assert run_side_by_side([threading.get_ident], PATIENCE)[0].result() == quick.result()
        release.set()
        wait_for(lambda: not thread.is_alive())
