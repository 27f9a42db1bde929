"""A mapping that is paused and resumed, and how a mapping ends."""

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from scripts.localaws.mapping import Counters
from tests.localaws.conftest import Function, Play, failing_on, put
from tests.tools import PATIENCE, wait_for

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


def test_leaving_waits_for_the_batch_in_flight(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A function is not abandoned in the middle of a batch, and the records that it delivered are counted."""
    started = threading.Event()

    def respond(event: dict[str, Any]) -> None:
        started.set()
        assert mapping._stopping.wait(PATIENCE)

    put(kinesis, stream, ["1", "2"])
    with play(respond, batch_size=1) as mapping:
        assert started.wait(PATIENCE)
    assert mapping.counters() == Counters(invocations=1, delivered=1)


def test_leaving_ends_endless_retries(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A batch that waits for an hour between retries does not hold the mapping up."""
    waiting = threading.Event()

    def back_off(attempts: int) -> float:
        waiting.set()
        return 3600.0

    put(kinesis, stream, ["poison"])
    with play(failing_on("poison"), back_off=back_off) as mapping:
        assert waiting.wait(PATIENCE)
        assert not mapping.wait_for(1, 0.01)
    assert mapping.counters() == Counters(invocations=1)


def test_a_paused_mapping_ends_its_batch_and_then_reads_nothing(
    kinesis: "KinesisClient", stream: str, play: Play
) -> None:
    """Records that are put meanwhile stay in the stream. After it is resumed, each record has come once, in order."""
    started, let_go = threading.Event(), threading.Event()
    reads: list[float] = []
    kinesis.meta.events.register("before-call.kinesis.GetRecords", lambda **_: reads.append(time.time()))

    def respond(event: dict[str, Any]) -> None:
        started.set()
        assert let_go.wait(PATIENCE)

    function = Function(respond)
    put(kinesis, stream, ["1", "2"])
    with play(function, batch_size=1) as mapping:
        assert started.wait(PATIENCE)
        mapping.pause()
        assert mapping.state == "Disabling"
        let_go.set()
        wait_for(lambda: mapping.state == "Disabled")
        count = len(reads)
        put(kinesis, stream, ["3", "4"])
        assert not mapping.wait_for(2, 0.5)
        assert (mapping.counters().invocations, function.batches, len(reads)) == (1, [["1"]], count)
        mapping.resume()
        assert mapping.wait_for(4, PATIENCE)
    assert function.batches == [["1"], ["2"], ["3"], ["4"]]
    assert mapping.counters() == Counters(invocations=4, delivered=4)


def test_a_batch_that_is_retried_stands_still_while_paused(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A batch keeps the number of its attempts during a pause, and is given up after the last attempt."""

    def back_off(attempts: int) -> float:
        mapping.pause()
        return 0.0

    function = Function(failing_on("poison"))
    put(kinesis, stream, ["poison", "2"])
    with play(function, back_off=back_off, batch_size=1, maximum_retry_attempts=2) as mapping:
        for attempts in (1, 2):
            wait_for(lambda: mapping.state == "Disabled")
            assert function.batches == [["poison"]] * attempts
            mapping.resume()
        assert mapping.wait_for(2, PATIENCE)
    assert mapping.counters() == Counters(invocations=4, delivered=1, redelivered=2, discarded=1)


def test_a_paused_mapping_can_be_left(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A mapping that is paused from the beginning never invokes its function."""
    put(kinesis, stream, ["1"])
    mapping = play(Function())
    mapping.pause()
    with mapping:
        assert not mapping.wait_for(1, 0.5)
    assert mapping.counters() == Counters()


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "leaving"])
def test_a_crash_of_a_polling_thread_is_raised(kinesis: "KinesisClient", stream: str, play: Play, waits: bool) -> None:
    """Nobody waits for the records of a stream that was deleted: the error of AWS is raised."""
    gone = "ResourceNotFoundException|ResourceInUseException"  # the latter while it is being deleted
    with pytest.raises(ClientError, match=gone), play(Function()) as mapping:  # noqa: PT012
        kinesis.delete_stream(StreamName=stream)
        if waits:
            mapping.wait_for(1, PATIENCE)
        else:
            wait_for(lambda: mapping._crash is not None)
