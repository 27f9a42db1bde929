"""Delivery within the invocation's time: deadlines, the time of one request, back-off, and the failures bucket."""

import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from scripts.localaws.faults import Call, Delayed, Dripping, DroppedBefore, FailedRequest, Fault
from scripts.localaws.sandbox import LambdaContext
from streaming import delivery, requests
from streaming.delivery import Deadline, Entry, FailuresBucket, OutputStream, backoff, request_seconds
from streaming.requests import run_side_by_side
from tests.conftest import Clock
from tests.flow import Chaos
from tests.streaming.conftest import Answering
from tests.tools import PATIENCE, wait_for

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between attempts."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)


class TestDeadline:
    """The time of an invocation."""

    def test_a_local_call_has_no_deadline(self) -> None:
        """Without a context, nobody ends the invocation."""
        assert Deadline.of(None).left() == math.inf
        assert Deadline().reserving(0.5).left() == math.inf

    @pytest.mark.parametrize(("seconds", "expected"), [(30, 29), (5, 4), (3, 2.4), (1, 0.8), (0, 0)])
    def test_deadline_leaves_a_margin_for_responding(self, clock: Clock, seconds: float, expected: float) -> None:
        """The margin is a second, or a fifth of a short time."""
        assert Deadline.of(LambdaContext(seconds)).left() == pytest.approx(expected)

    def test_an_earlier_deadline_reserves_time_for_later_steps(self, clock: Clock) -> None:
        """The reserved time is a share of the time left, or the maximum if that is less."""
        deadline = Deadline(100)
        clock.sleep(20)
        assert deadline.reserving(0.5).left() == 40
        assert deadline.reserving(0.5, most=5).left() == 75

    def test_deadline_is_over_when_no_time_is_left(self, clock: Clock) -> None:
        """The last moment is too late already."""
        deadline = Deadline(1)
        assert not deadline.is_over()
        clock.sleep(1)
        assert deadline.is_over()


class TestOneRequest:
    """The time that one request gets."""

    @pytest.mark.parametrize(
        ("left", "size", "expected"),
        [
            (math.inf, 0, 5),
            (60, 0, 5),
            (3, 0, 1),
            (0.3, 0, 0.25),
            (-1, 0, 0.25),
            (60, 3 * 2**20, 8),
            (12, 3 * 2**20, 4),
        ],
    )
    def test_a_request_gets_a_third_of_the_time(self, clock: Clock, left: float, size: int, expected: float) -> None:
        """At most five seconds and another for each MiB, and never too short a time for an ordinary request."""
        assert request_seconds(Deadline(left), size) == pytest.approx(expected)


class TestAbandonedRequests:
    """Requests that took too long."""

    @pytest.mark.parametrize("fault", [Dripping(), Delayed(60)], ids=str)
    @pytest.mark.parametrize("service", ["kinesis", "s3"])
    def test_an_abandoned_request_ends(
        self, chaos: Chaos, stream: str, bucket: str, service: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its connection is closed, so its thread ends. The next request has a new connection."""
        monkeypatch.setattr(delivery, "REQUEST_SECONDS", 0.3)
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 3)
        with chaos(lambda call: fault if call.number < 3 else None, service) as server:
            output, failures = OutputStream.connect(stream), FailuresBucket(f"s3://{bucket}")
            entry = Entry("1", "key", b"data")

            def put() -> list[Entry] | str | None:
                if service == "kinesis":
                    return output.put([entry], Deadline()).undelivered
                return failures.store("key", b"lines", Deadline())

            assert put() in ([entry], "TimeoutError")
            assert server.faults.total() == 3
            wait_for(lambda: not any(thread.is_alive() for thread in requests._abandoned))
            monkeypatch.setattr(delivery, "REQUEST_SECONDS", 60)
            assert not put()

    def test_too_many_requests_that_do_not_end_end_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lambda starts another process only if this one ends. Some requests never end, such as lookups of a name."""
        monkeypatch.setattr(requests, "_abandoned", [])
        monkeypatch.setattr(requests, "MAX_ABANDONED", 3)
        release = threading.Event()
        for count in (2, 1):
            for outcome in run_side_by_side([release.wait] * count, 0.01):
                assert isinstance(outcome.exception(0), TimeoutError)
        with pytest.raises(SystemExit, match="3 requests were abandoned"):
            run_side_by_side([release.wait], 0.01)
        release.set()
        wait_for(lambda: not any(thread.is_alive() for thread in requests._abandoned))
        (outcome,) = run_side_by_side([lambda: True], PATIENCE)
        assert outcome.result()


class TestBackoff:
    """The wait between attempts."""

    def test_the_first_attempt_does_not_wait(self) -> None:
        """No attempt has failed yet."""
        assert backoff(0) == 0

    def test_waits_have_full_jitter_up_to_a_maximum(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wait is between zero and a limit, which doubles with every attempt up to the maximum."""
        monkeypatch.setattr("random.uniform", lambda low, high: (low, high))
        monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.1)
        bounds: list[object] = [backoff(attempts) for attempts in (1, 3, 30)]
        assert bounds == [(0, 0.2), (0, 0.8), (0, delivery.MAX_BACKOFF_SECONDS)]


class TestFailuresBucket:
    """Storing rejections."""

    @pytest.mark.parametrize("prefix", ["", "/rejections", "/a/b"])
    def test_an_object_is_written_under_the_prefix(self, s3: "S3Client", bucket: str, prefix: str) -> None:
        """The prefix may be empty."""
        failures = FailuresBucket(f"s3://{bucket}{prefix}")
        assert failures.store("stream/shard/1-2.jsonl", b"lines", Deadline()) is None
        key = f"{prefix}/stream/shard/1-2.jsonl".lstrip("/")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"lines"

    def test_a_missing_bucket_is_not_retried(self, chaos: Chaos) -> None:
        """The caller reports the records instead."""
        calls: list[Call] = []
        with chaos(calls.append, "s3"):
            failures = FailuresBucket("s3://no-such-bucket/prefix")
            assert failures.store("key", b"lines", Deadline()) == "NoSuchBucket"
        assert len(calls) == 1

    @pytest.mark.parametrize("fault", [FailedRequest(503, "SlowDown"), DroppedBefore()], ids=str)
    def test_a_passing_failure_is_retried(self, chaos: Chaos, s3: "S3Client", bucket: str, fault: Fault) -> None:
        """The retries end when S3 holds the object."""
        with chaos(lambda call: fault if call.number < 2 else None, "s3"):
            assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", Deadline()) is None
        assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == b"lines"

    @pytest.mark.parametrize(("status", "body"), [(403, b"<Error/>"), (500, b"<Error><Code/></Error>"), (403, b"no")])
    def test_a_response_that_is_not_from_s3_is_an_error(
        self, status: int, body: bytes, answering: Answering, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy between the function and S3 may respond anything."""
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", answering(status, body))
        assert FailuresBucket("s3://failures").store("key", b"lines", Deadline())

    def test_an_outage_ends_the_attempts(self, chaos: Chaos, bucket: str) -> None:
        """After the last attempt, the name of the error is returned."""
        with chaos(lambda call: FailedRequest(503, "SlowDown"), "s3") as server:
            assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", Deadline()) == "SlowDown"
        assert server.faults.total() == delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS

    def test_no_request_is_started_without_time(self, s3: "S3Client", bucket: str) -> None:
        """The bucket stays empty, and the caller reports the records."""
        assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", Deadline(0)) == "OutOfTime"
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)

    def test_a_request_that_hangs_is_abandoned(
        self, chaos: Chaos, bucket: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The attempts end although S3 never responds."""
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
        with chaos(lambda call: Delayed(60), "s3"):
            assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", Deadline(1)) == "TimeoutError"

    def test_the_sdk_leaves_time_for_a_large_object(self, bucket: str) -> None:
        """The SDK's connect timeout limits how long the whole body may take to send, not only the connection."""
        config: Any = FailuresBucket(f"s3://{bucket}")._client.meta.config
        longest = delivery.REQUEST_SECONDS + 6_291_456 / delivery.BYTES_PER_SECOND
        assert min(config.connect_timeout, config.read_timeout) > longest

    @pytest.mark.parametrize(
        ("url", "error"), [("http://127.0.0.1:1", "EndpointConnectionError"), ("no URL", "SDKSettingsError")]
    )
    def test_an_endpoint_that_cannot_be_reached_is_an_error(
        self, url: str, error: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The exceptions of the SDK itself are reported like those of S3."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert FailuresBucket("s3://failures").store("key", b"lines", Deadline()) == error
