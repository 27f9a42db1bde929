"""Putting entries on the output stream and objects into the failures bucket."""

import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.faults import (
    Answered,
    Call,
    Delayed,
    DroppedAfter,
    DroppedBefore,
    FailedEntries,
    FailedRequest,
    Fault,
)
from settings import SettingsError
from streaming import delivery
from streaming.delivery import (
    Deadline,
    DeliveryError,
    Entry,
    FailuresBucket,
    OutputStream,
    backoff,
    first_of_each_key,
    split_into_requests,
)
from tests.flow import Chaos

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


def entries(count: int, size: int = 10) -> list[Entry]:
    """Build entries of so many bytes of data with sequence numbers from 0."""
    return [Entry(str(number), f"key-{number}", str(number).encode().ljust(size)) for number in range(count)]


def numbers(put: Sequence[Entry]) -> list[int]:
    """Return the entries' sequence numbers."""
    return [int(entry.sequence_number) for entry in put]


def on_stream(kinesis: "KinesisClient", stream: str) -> list[int]:
    """Read back the numbers that the stream holds."""
    reader = ShardReader(kinesis, stream, shard_ids(kinesis, stream)[0])
    return [int(record["Data"]) for record in reader.read()]


def failing(*indexes: int) -> FailedEntries:
    """Build the fault that throttles these entries of a request."""
    return FailedEntries(frozenset(indexes))


def all_failing(call: Call) -> FailedEntries:
    """Throttle every entry of every request."""
    return failing(*range(len(call.entries)))


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Run a server that gives every request this answer, and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between tries."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)


class TestChunks:
    """Cutting entries into requests."""

    @pytest.mark.parametrize(
        ("count", "sizes"), [(0, []), (1, [1]), (500, [500]), (501, [500, 1]), (1200, [500, 500, 200])]
    )
    def test_a_request_has_at_most_500_entries(self, count: int, sizes: list[int]) -> None:
        """And none is cut before it is full."""
        assert [len(chunk) for chunk in split_into_requests(entries(count))] == sizes

    def test_a_request_has_at_most_four_and_a_half_mebibytes(self) -> None:
        """Data and keys count, in bytes."""
        many = [Entry(str(number), "ü" * 10, b"x" * 1_000_000) for number in range(9)]
        chunks = list(split_into_requests(many))
        assert [len(chunk) for chunk in chunks] == [4, 4, 1]
        assert all(sum(entry.size for entry in chunk) <= 4.5 * 1024 * 1024 for chunk in chunks)

    def test_keys_count_too(self) -> None:
        """Five entries whose data alone would fit into one request."""
        many = [Entry(str(number), "k" * 256, b"x" * 943_700) for number in range(5)]
        assert [len(chunk) for chunk in split_into_requests(many)] == [4, 1]

    def test_order_is_kept(self) -> None:
        """Chunks one after the other are the entries again."""
        many = entries(1234)
        assert [entry for chunk in split_into_requests(many) for entry in chunk] == many


class TestPut:
    """Putting entries on a stream that works, fails in part, or fails."""

    @pytest.mark.parametrize("count", [0, 1, 1001])
    def test_all_are_accepted_by_a_stream_that_works(self, kinesis: "KinesisClient", stream: str, count: int) -> None:
        """Nothing is left and nothing is doubled."""
        done = OutputStream.connect(stream).put(entries(count), Deadline())
        assert (done.undelivered, done.put_again, done.errors) == ([], 0, Counter())
        assert on_stream(kinesis, stream) == list(range(count))

    def test_only_failed_entries_are_put_again(self, chaos: Chaos, kinesis: "KinesisClient", stream: str) -> None:
        """What was accepted once is not written twice."""
        with chaos(lambda call: failing(0, 2) if call.number == 0 else None) as server:
            done = OutputStream.connect(stream).put(entries(4), Deadline())
        assert (done.undelivered, done.put_again) == ([], 2)
        assert done.errors == {"ProvisionedThroughputExceededException": 2}
        assert server.entry_counts == [4, 2]
        assert sorted(on_stream(kinesis, stream)) == [0, 1, 2, 3]

    def test_what_stays_throttled_is_returned_and_later_chunks_are_not_sent(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """Lambda delivers everything from the first of them again."""

        def throttle_number_700(call: Call) -> Fault:
            return failing(*(i for i, entry in enumerate(call.entries) if entry["PartitionKey"] == "key-700"))

        with chaos(throttle_number_700) as server:
            done = OutputStream.connect(stream).put(entries(1500), Deadline())
        assert numbers(done.undelivered) == [700, *range(1000, 1500)]
        assert on_stream(kinesis, stream) == [number for number in range(1000) if number != 700]
        assert server.entry_counts == [500, 500] + [1] * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS

    def test_a_chunk_is_tried_as_long_as_that_brings_something(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """A stream that takes one entry at a time takes them all, in more tries than a dead one is given."""
        many = 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS
        with chaos(lambda call: failing(*range(1, len(call.entries)))) as server:
            assert OutputStream.connect(stream).put(entries(many), Deadline()).undelivered == []
        assert server.entry_counts == list(range(many, 0, -1))
        assert on_stream(kinesis, stream) == list(range(many))

    @pytest.mark.parametrize(
        "fault",
        [
            FailedRequest(500, "NeverHeardOf"),
            FailedRequest(503, "ServiceUnavailable"),
            FailedRequest(400, "ProvisionedThroughputExceededException"),
            FailedRequest(400, "KMSThrottlingException"),
            FailedRequest(400, "RequestTimeout"),
            FailedRequest(429, "NeverHeardOf"),
            FailedRequest(500, ""),
            DroppedBefore(),
        ],
        ids=str,
    )
    def test_a_request_that_fails_for_the_moment_is_tried_again(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str, fault: Fault
    ) -> None:
        """It says nothing of the entries: all of them are put again."""
        with chaos(lambda call: fault if call.number < 2 else None) as server:
            assert OutputStream.connect(stream).put(entries(3), Deadline()).undelivered == []
        assert on_stream(kinesis, stream) == [0, 1, 2]
        assert server.entry_counts == [3, 3, 3]

    def test_an_answer_that_is_lost_doubles_entries_and_loses_none(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """Nobody can know that Kinesis had taken them."""
        with chaos(lambda call: DroppedAfter() if call.number == 0 else None):
            assert OutputStream.connect(stream).put(entries(3), Deadline()).undelivered == []
        assert on_stream(kinesis, stream) == [0, 1, 2, 0, 1, 2]

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"<html>",
            b"[]",
            b"{}",
            b'{"Records": null}',
            b'{"Records": []}',
            b'{"Records": [{}, {}, {}]}',
            b'{"Records": [{}, {"SequenceNumber": ""}]}',
            b'{"Records": [null, null]}',
            b'{"FailedRecordCount": 0, "Records": [{"SequenceNumber": "1", "Sha',
        ],
    )
    def test_what_is_not_said_to_be_accepted_is_put_again(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str, answer: bytes
    ) -> None:
        """An answer that was cut off, or is none of Kinesis's, counts for nothing."""
        with chaos(lambda call: Answered(answer) if call.number == 0 else None):
            assert OutputStream.connect(stream).put(entries(2), Deadline()).undelivered == []
        assert on_stream(kinesis, stream) == [0, 1]

    @pytest.mark.parametrize(
        "body", [b'{"__type":null}', b'{"__type":""}', b'{"__type":"com.amazon#"}', b"", b"<html>"]
    )
    def test_an_error_without_a_name_is_an_error(self, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is accepted that Kinesis does not say it holds."""
        with answering(500, body) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", url)
            done = OutputStream.connect("any").put(entries(2), Deadline())
        assert numbers(done.undelivered) == [0, 1]
        assert done.errors.total() == 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS
        assert all(done.errors)

    def test_an_endpoint_that_is_gone_leaves_everything_undelivered(
        self, aws_environment: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A refused connection is a failure of every entry, not an exception."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        done = OutputStream.connect("nowhere").put(entries(2), Deadline())
        assert numbers(done.undelivered) == [0, 1]
        assert set(done.errors) == {"EndpointConnectionError"}

    @pytest.mark.parametrize(
        "code", ["AccessDeniedException", "ExpiredTokenException", "KMSAccessDeniedException", "ValidationException"]
    )
    def test_what_no_wait_can_cure_is_raised_at_once(self, chaos: Chaos, stream: str, code: str) -> None:
        """And named."""
        told = f"2 entries to {stream} failed with {code}"
        with chaos(lambda call: FailedRequest(400, code)) as server, pytest.raises(DeliveryError, match=told) as raised:
            OutputStream.connect(stream).put(entries(2), Deadline())
        assert raised.value.code == code
        assert len(server.entry_counts) == 1

    def test_a_stream_that_does_not_exist_is_raised(self, kinesis_endpoint: str) -> None:
        """Waiting would not create it."""
        with pytest.raises(DeliveryError, match="ResourceNotFoundException.*the stream's name and region"):
            OutputStream.connect("nowhere").put(entries(2), Deadline())

    def test_a_missing_region_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The SDK's own words do not say what to set."""
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        with pytest.raises(SettingsError, match="AWS_DEFAULT_REGION"):
            OutputStream.connect("stream")

    def test_missing_credentials_are_raised(
        self, kinesis_endpoint: str, stream: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They will not come by waiting."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
        with pytest.raises(DeliveryError, match="NoCredentialsError"):
            OutputStream.connect(stream).put(entries(1), Deadline())


class TestOrder:
    """Entries of one partition key."""

    def repeated(self) -> list[Entry]:
        """Build entries 0 to 11 of which every third has the same key."""
        return [Entry(str(number), f"key-{number % 3}", str(number).encode()) for number in range(12)]

    def test_one_request_holds_each_key_once(self) -> None:
        """Kinesis promises no order within a request."""
        ready, held_back = first_of_each_key(self.repeated())
        assert numbers(ready) == [0, 1, 2]
        assert numbers(held_back) == list(range(3, 12))

    def test_they_stay_in_order_whatever_fails(self, chaos: Chaos, kinesis: "KinesisClient", stream: str) -> None:
        """None is sent before the one ahead of it is accepted."""

        def spoil(call: Call) -> Fault:
            """Fail the whole request, or every other entry of it."""
            if call.number % 3 == 0:
                return FailedRequest(500, "InternalFailure")
            return failing(*range(call.number % 2, len(call.entries), 2))

        with chaos(spoil):
            assert OutputStream.connect(stream).put(self.repeated(), Deadline()).undelivered == []
        found = on_stream(kinesis, stream)
        assert [[number for number in found if number % 3 == key] for key in range(3)] == [
            [0, 3, 6, 9],
            [1, 4, 7, 10],
            [2, 5, 8, 11],
        ]

    def test_what_waits_behind_an_undelivered_one_is_undelivered(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """Or a reader would see the later one first."""

        def throttle_key_1(call: Call) -> Fault:
            return failing(*(i for i, entry in enumerate(call.entries) if entry["PartitionKey"] == "key-1"))

        with chaos(throttle_key_1):
            done = OutputStream.connect(stream).put(self.repeated(), Deadline())
        assert sorted(numbers(done.undelivered)) == [1, 4, 7, 10]
        assert sorted(on_stream(kinesis, stream)) == [0, 2, 3, 5, 6, 8, 9, 11]


class TestTime:
    """Nothing outlives the deadline."""

    def test_without_time_nothing_is_begun(self, stream: str, kinesis: "KinesisClient") -> None:
        """Everything is for the next delivery."""
        done = OutputStream.connect(stream).put(entries(2), Deadline(delivery.MIN_REQUEST_SECONDS / 2))
        assert numbers(done.undelivered) == [0, 1]
        assert done.errors == {"OutOfTime": 2}
        assert on_stream(kinesis, stream) == []

    def test_tries_end_before_the_deadline(self, chaos: Chaos, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many there could be."""
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1_000_000)
        monkeypatch.setattr(delivery, "MAX_BACKOFF_SECONDS", 0.05)
        deadline = Deadline(0.5)
        with chaos(all_failing) as server:
            done = OutputStream.connect(stream).put(entries(2), deadline)
        assert numbers(done.undelivered) == [0, 1]
        assert len(server.entry_counts) > 1

    def test_a_wait_that_is_longer_than_the_time_left_is_not_begun(
        self, chaos: Chaos, stream: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rest is reported instead."""
        slept: list[float] = []
        monkeypatch.setattr("time.sleep", slept.append)
        monkeypatch.setattr(delivery, "backoff", lambda tries: [0, 1, 2, 1000][tries])
        with chaos(all_failing) as server:
            done = OutputStream.connect(stream).put(entries(2), Deadline(500))
        assert numbers(done.undelivered) == [0, 1]
        assert slept == [1, 2]
        assert len(server.entry_counts) == 3

    def test_a_request_that_hangs_is_left_behind_and_tried_again(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """It gets a third of the time, so the next one comes while there is some left."""
        deadline = Deadline(3)
        with chaos(lambda call: Delayed(60) if call.number == 0 else None):
            done = OutputStream.connect(stream).put(entries(2), deadline)
        assert done.undelivered == []
        assert done.errors == {"TimeoutError": 2}
        assert not deadline.is_over()
        assert set(on_stream(kinesis, stream)) == {0, 1}

    def test_an_answer_that_drips_does_not_outlive_the_deadline(
        self, dripping: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each byte would start the SDK's own timeout anew."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", dripping)
        began = time.monotonic()
        done = OutputStream.connect("any").put(entries(2), Deadline(1))
        assert numbers(done.undelivered) == [0, 1]
        assert time.monotonic() - began < 30

    @pytest.fixture
    def dripping(self) -> Iterator[str]:
        """Run a server that answers every connection with a byte every tenth of a second, without end."""
        closing = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def drip(connection: socket.socket) -> None:
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                    while not closing.wait(0.1):
                        connection.sendall(b" ")

            def accept() -> None:
                while not closing.is_set():
                    try:
                        connection, _ = listening.accept()
                    except OSError:
                        return
                    threading.Thread(target=drip, args=(connection,), daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            closing.set()


class TestBackoff:
    """The wait between tries."""

    def test_the_first_try_does_not_wait(self) -> None:
        """There is nothing to wait for yet."""
        assert backoff(0) == 0

    def test_it_has_full_jitter_under_a_cap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From nothing to a limit that doubles with every try, but never beyond the cap."""
        monkeypatch.setattr("random.uniform", lambda low, high: (low, high))
        monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.1)
        bounds: list[object] = [backoff(tries) for tries in (1, 3, 30)]
        assert bounds == [(0, 0.2), (0, 0.8), (0, delivery.MAX_BACKOFF_SECONDS)]


class TestDeadline:
    """The time of an invocation."""

    def test_a_local_call_has_no_deadline(self) -> None:
        """Without a context, nobody ends the invocation."""
        assert Deadline.of(None).left() == math.inf

    @pytest.mark.parametrize(("seconds", "less"), [(30, 29), (5, 4), (3, 2.4), (1, 0.8), (0, 0)])
    def test_it_is_the_remaining_time_less_a_margin(self, seconds: float, less: float) -> None:
        """The margin is for answering: a second, of short times a fifth."""

        class Context:
            def get_remaining_time_in_millis(self) -> int:
                return int(seconds * 1000)

        before = time.monotonic()
        left = Deadline.of(Context()).left()
        assert less - (time.monotonic() - before) <= left <= less

    def test_an_earlier_one_leaves_time_for_what_follows(self) -> None:
        """A share of what is left, under a bound."""
        deadline = Deadline(100)
        assert deadline.reserving(0.5).left() == pytest.approx(50, abs=1)
        assert deadline.reserving(0.5, most=5).left() == pytest.approx(95, abs=1)
        assert Deadline().reserving(0.5).left() == math.inf


class TestFailuresBucket:
    """Keeping rejections."""

    @pytest.mark.parametrize("prefix", ["", "/rejections", "/a/b"])
    def test_an_object_is_written_under_the_prefix(self, s3: "S3Client", bucket: str, prefix: str) -> None:
        """A bucket alone will do."""
        failures = FailuresBucket(f"s3://{bucket}{prefix}")
        assert failures.store("stream/shard/1-2.jsonl", b"lines", Deadline()) is None
        key = f"{prefix}/stream/shard/1-2.jsonl".lstrip("/")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"lines"

    def test_a_missing_bucket_is_not_tried_again(self, chaos: Chaos) -> None:
        """The caller reports the records instead."""
        calls: list[Call] = []
        with chaos(calls.append, "s3"):
            failures = FailuresBucket("s3://no-such-bucket/prefix")
            assert failures.store("key", b"lines", Deadline()) == "NoSuchBucket"
        assert len(calls) == 1

    @pytest.mark.parametrize("fault", [FailedRequest(503, "SlowDown"), DroppedBefore()], ids=str)
    def test_what_fails_for_the_moment_is_tried_again(
        self, chaos: Chaos, s3: "S3Client", bucket: str, fault: Fault
    ) -> None:
        """Until S3 holds it."""
        with chaos(lambda call: fault if call.number < 2 else None, "s3"):
            assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", Deadline()) is None
        assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == b"lines"

    @pytest.mark.parametrize(("status", "body"), [(403, b"<Error/>"), (500, b"<Error><Code/></Error>"), (403, b"no")])
    def test_an_odd_answer_is_a_reason_too(self, status: int, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """And no success: what stands between here and S3 may answer anything."""
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
        with answering(status, body) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
            assert FailuresBucket("s3://failures").store("key", b"lines", Deadline())

    def test_an_outage_ends_the_tries(self, chaos: Chaos, bucket: str) -> None:
        """With the reason."""
        with chaos(lambda call: FailedRequest(503, "SlowDown"), "s3") as server:
            assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", Deadline()) == "SlowDown"
        assert server.faults.total() == delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS

    def test_without_time_it_is_not_begun(self, s3: "S3Client", bucket: str) -> None:
        """As with PutRecords."""
        assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", Deadline(0)) == "OutOfTime"
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)

    def test_one_that_hangs_does_not_outlive_the_deadline(self, chaos: Chaos, bucket: str) -> None:
        """Not even with all its tries."""
        deadline = Deadline(1)
        with chaos(lambda call: Delayed(60), "s3"):
            assert FailuresBucket(f"s3://{bucket}").store("key", b"lines", deadline) == "TimeoutError"
        assert deadline.left() > -30

    def test_an_endpoint_that_is_gone_is_a_reason(self, aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """The SDK's own exceptions are other ones than S3's."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert FailuresBucket("s3://failures").store("key", b"lines", Deadline()) == "EndpointConnectionError"
