"""Putting entries on the output stream and objects into the failures bucket."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

import delivery
from delivery import Deadline, Entry, FailuresBucket, OutputStream, backoff, chunked
from scripts.shards import ShardReader, shard_ids
from settings import SettingsError
from tests.flaky_kinesis import flaky_kinesis

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


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
        assert [len(chunk) for chunk in chunked(entries(count))] == sizes

    def test_a_request_has_at_most_four_and_a_half_mebibytes(self) -> None:
        """Data and keys count, in bytes."""
        many = [Entry(str(number), "ü" * 10, b"x" * 1_000_000) for number in range(9)]
        chunks = list(chunked(many))
        assert [len(chunk) for chunk in chunks] == [4, 4, 1]
        assert all(sum(len(entry) for entry in chunk) <= 4.5 * 1024 * 1024 for chunk in chunks)

    def test_keys_count_too(self) -> None:
        """Five entries whose data alone would fit into one request."""
        many = [Entry(str(number), "k" * 256, b"x" * 943_700) for number in range(5)]
        assert [len(chunk) for chunk in chunked(many)] == [4, 1]

    def test_order_is_kept(self) -> None:
        """Chunks one after the other are the entries again."""
        many = entries(1234)
        assert [entry for chunk in chunked(many) for entry in chunk] == many


class TestPut:
    """Putting entries on a stream that works, fails in part, or fails."""

    @pytest.mark.parametrize("count", [0, 1, 1001])
    def test_all_are_accepted_by_a_stream_that_works(self, kinesis: "KinesisClient", stream: str, count: int) -> None:
        """Nothing is left and nothing is doubled."""
        assert OutputStream.connect(stream).put(entries(count), Deadline()) == []
        assert on_stream(kinesis, stream) == list(range(count))

    def test_only_failed_entries_are_put_again(
        self, endpoint: str, kinesis: "KinesisClient", stream: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was accepted once is not written twice."""
        with flaky_kinesis(endpoint, lambda number, _: {0, 2} if number == 0 else set()) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            assert OutputStream.connect(stream).put(entries(4), Deadline()) == []
        assert [len(request) for request in server.requests] == [4, 2]
        assert sorted(on_stream(kinesis, stream)) == [0, 1, 2, 3]

    def test_what_stays_throttled_is_returned_and_later_chunks_are_not_sent(
        self, endpoint: str, kinesis: "KinesisClient", stream: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lambda delivers everything from the first of them again."""

        def throttle_number_700(number: int, request: Sequence[dict[str, Any]]) -> set[int]:
            return {index for index, entry in enumerate(request) if entry["PartitionKey"] == "key-700"}

        with flaky_kinesis(endpoint, throttle_number_700) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            undelivered = OutputStream.connect(stream).put(entries(1500), Deadline())
        assert numbers(undelivered) == [700, *range(1000, 1500)]
        assert on_stream(kinesis, stream) == [number for number in range(1000) if number != 700]
        assert [len(request) for request in server.requests] == [500, 500] + [1] * (delivery.MAX_TRIES - 1)

    @pytest.mark.parametrize(
        "failure", [(500, "NeverHeardOf"), (503, "ServiceUnavailable"), (400, "ProvisionedThroughputExceededException")]
    )
    def test_a_request_that_fails_for_the_moment_is_tried_again(
        self,
        endpoint: str,
        kinesis: "KinesisClient",
        stream: str,
        failure: tuple[int, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It says nothing of the entries: all of them are put again."""
        with flaky_kinesis(endpoint, lambda number, _: failure if number < 2 else set()) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            assert OutputStream.connect(stream).put(entries(3), Deadline()) == []
        assert on_stream(kinesis, stream) == [0, 1, 2]
        assert len(server.requests) == 3

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
        self, endpoint: str, kinesis: "KinesisClient", stream: str, answer: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An answer that was cut off, or is none of Kinesis's, counts for nothing."""
        with flaky_kinesis(endpoint, lambda number, _: answer if number == 0 else set()) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            assert OutputStream.connect(stream).put(entries(2), Deadline()) == []
        assert on_stream(kinesis, stream) == [0, 1]

    def test_an_endpoint_that_is_gone_leaves_everything_undelivered(
        self, aws_environment: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A refused connection is a failure of every entry, not an exception."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert numbers(OutputStream.connect("nowhere").put(entries(2), Deadline())) == [0, 1]

    def test_a_stream_that_does_not_exist_is_not_tried_again(
        self, endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Waiting would not create it."""
        with flaky_kinesis(endpoint, lambda number, _: (400, "ResourceNotFoundException")) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            assert numbers(OutputStream.connect("nowhere").put(entries(2), Deadline())) == [0, 1]
        assert len(server.requests) == 1

    def test_without_time_nothing_is_begun(self, endpoint: str, stream: str, kinesis: "KinesisClient") -> None:
        """With less left than the margin, everything is for the next delivery."""
        assert numbers(OutputStream.connect(stream).put(entries(2), Deadline(0))) == [0, 1]
        assert on_stream(kinesis, stream) == []

    def test_tries_end_before_the_deadline(self, endpoint: str, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A back-off that would outlive the deadline is not slept."""
        monkeypatch.setattr(delivery, "MAX_TRIES", 1_000_000)
        monkeypatch.setattr(delivery, "MAX_BACKOFF_SECONDS", 0.05)
        deadline = Deadline(0.5)
        with flaky_kinesis(endpoint, lambda number, request: set(range(len(request)))) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            assert numbers(OutputStream.connect(stream).put(entries(2), deadline)) == [0, 1]
        assert len(server.requests) > 1

    def test_it_waits_between_tries_but_never_beyond_the_deadline(
        self, endpoint: str, stream: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wait that is longer than the time left is not begun."""
        slept: list[float] = []
        monkeypatch.setattr("time.sleep", slept.append)
        monkeypatch.setattr(delivery, "backoff", lambda tries: [0, 1, 2, 1000][tries])
        with flaky_kinesis(endpoint, lambda number, request: set(range(len(request)))) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            assert numbers(OutputStream.connect(stream).put(entries(2), Deadline(500))) == [0, 1]
        assert slept == [0, 1, 2]
        assert len(server.requests) == 3

    def test_a_missing_region_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The SDK's own words do not say what to set."""
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        with pytest.raises(SettingsError, match="AWS_DEFAULT_REGION"):
            OutputStream.connect("stream")


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

    def test_it_is_the_remaining_time_less_a_margin(self) -> None:
        """The margin is for storing rejections and for answering."""

        class Context:
            def get_remaining_time_in_millis(self) -> int:
                return 30_000

        before = time.monotonic()
        left = Deadline.of(Context()).left()
        assert 29 - (time.monotonic() - before) <= left <= 29


class TestFailuresBucket:
    """Keeping rejections."""

    @pytest.mark.parametrize("prefix", ["", "/rejections", "/a/b"])
    def test_an_object_is_written_under_the_prefix(self, s3: "S3Client", bucket: str, prefix: str) -> None:
        """A bucket alone will do."""
        assert FailuresBucket.connect(f"s3://{bucket}{prefix}").store("stream/shard/1-2.jsonl", b"lines")
        key = f"{prefix}/stream/shard/1-2.jsonl".lstrip("/")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"lines"

    def test_a_missing_bucket_is_a_failure_and_no_exception(self, endpoint: str) -> None:
        """The caller reports the records instead."""
        assert not FailuresBucket.connect("s3://no-such-bucket/prefix").store("key", b"lines")

    def test_an_endpoint_that_is_gone_is_one_too(self, aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """The SDK's own exceptions are other ones than S3's."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert not FailuresBucket.connect("s3://failures").store("key", b"lines")
