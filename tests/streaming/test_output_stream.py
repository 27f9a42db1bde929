"""Putting entries on the output stream: requests, retries, order, and the end of the time."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from clients import SDKSettingsError
from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.faults import (
    Answered,
    Call,
    Delayed,
    Dripping,
    DroppedAfter,
    DroppedBefore,
    FailedEntries,
    FailedRequest,
    Fault,
)
from streaming import delivery
from streaming.delivery import Deadline, DeliveryError, Entry, OutputStream, first_of_each_key, split_into_requests
from tests.conftest import Clock
from tests.flow import Chaos
from tests.streaming.conftest import Answering

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient


pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


def entries(count: int, size: int = 10) -> list[Entry]:
    """Build ``count`` entries of ``size`` bytes of data, with sequence numbers from 0."""
    return [Entry(str(number), f"key-{number}", str(number).encode().ljust(size)) for number in range(count)]


def numbers(put: Sequence[Entry]) -> list[int]:
    """Return the entries' sequence numbers."""
    return [int(entry.sequence_number) for entry in put]


def on_stream(kinesis: "KinesisClient", stream: str) -> list[int]:
    """Read back the numbers that the stream holds."""
    reader = ShardReader(kinesis, stream, shard_ids(kinesis, stream)[0])
    return [int(record["Data"]) for record in reader.read()]


def failing(*indexes: int) -> FailedEntries:
    """Build the fault that throttles the entries with these indexes in a request."""
    return FailedEntries(frozenset(indexes))


def all_failing(call: Call) -> FailedEntries:
    """Throttle every entry of every request."""
    return failing(*range(len(call.entries)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between attempts."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)


class TestChunks:
    """Splitting entries into requests."""

    @pytest.mark.parametrize(
        ("count", "sizes"), [(0, []), (1, [1]), (500, [500]), (501, [500, 1]), (1200, [500, 500, 200])]
    )
    def test_a_request_has_at_most_500_entries(self, count: int, sizes: list[int]) -> None:
        """Every request but the last is full."""
        assert [len(chunk) for chunk in split_into_requests(entries(count))] == sizes

    def test_a_request_has_at_most_four_and_a_half_mebibytes(self) -> None:
        """Both the data and the keys count, in bytes."""
        many = [Entry(str(number), "ü" * 10, b"x" * 1_000_000) for number in range(9)]
        chunks = list(split_into_requests(many))
        assert [len(chunk) for chunk in chunks] == [4, 4, 1]
        assert all(sum(entry.size for entry in chunk) <= 4.5 * 1024 * 1024 for chunk in chunks)

    def test_partition_keys_count_in_the_size(self) -> None:
        """These five entries would fit into one request if only their data counted."""
        many = [Entry(str(number), "k" * 256, b"x" * 943_700) for number in range(5)]
        assert [len(chunk) for chunk in split_into_requests(many)] == [4, 1]

    def test_requests_keep_the_order_of_entries(self) -> None:
        """The requests together have the entries in the same order."""
        many = entries(1234)
        assert [entry for chunk in split_into_requests(many) for entry in chunk] == many


class TestPut:
    """Putting entries on a stream that accepts all, some or none of them."""

    @pytest.mark.parametrize("count", [0, 1, 1001])
    def test_a_stream_that_works_accepts_all_entries(self, kinesis: "KinesisClient", stream: str, count: int) -> None:
        """No entry is left over, and no entry is a duplicate."""
        done = OutputStream.connect(stream).put(entries(count), Deadline())
        assert (done.undelivered, done.put_again, done.errors) == ([], 0, Counter())
        assert sorted(on_stream(kinesis, stream)) == list(range(count))

    def test_only_failed_entries_are_put_again(self, chaos: Chaos, kinesis: "KinesisClient", stream: str) -> None:
        """An accepted entry is not written twice."""
        with chaos(lambda call: failing(0, 2) if call.number == 0 else None) as server:
            done = OutputStream.connect(stream).put(entries(4), Deadline())
        assert (done.undelivered, done.put_again) == ([], 2)
        assert done.errors == {"ProvisionedThroughputExceededException": 2}
        assert server.entry_counts == [4, 2]
        assert sorted(on_stream(kinesis, stream)) == [0, 1, 2, 3]

    def test_a_chunk_is_retried_as_long_as_entries_are_accepted(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """A stream that accepts one entry at a time gets more attempts than one that accepts none."""
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
    def test_a_passing_failure_is_retried(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str, fault: Fault
    ) -> None:
        """All entries of the request are put again."""
        with chaos(lambda call: fault if call.number < 2 else None) as server:
            assert OutputStream.connect(stream).put(entries(3), Deadline()).undelivered == []
        assert on_stream(kinesis, stream) == [0, 1, 2]
        assert server.entry_counts == [3, 3, 3]

    def test_a_lost_response_duplicates_entries_and_loses_no_entry(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """The function cannot know that Kinesis had accepted the entries."""
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
    def test_an_entry_without_confirmation_is_put_again(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str, answer: bytes
    ) -> None:
        """A truncated response confirms nothing, nor does one that is not from Kinesis."""
        with chaos(lambda call: Answered(answer) if call.number == 0 else None):
            assert OutputStream.connect(stream).put(entries(2), Deadline()).undelivered == []
        assert on_stream(kinesis, stream) == [0, 1]

    @pytest.mark.parametrize(
        "body", [b'{"__type":null}', b'{"__type":""}', b'{"__type":"com.amazon#"}', b"", b"<html>"]
    )
    def test_an_error_without_a_name_is_an_error(
        self, body: bytes, answering: Answering, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An entry counts as accepted only if Kinesis confirms it."""
        monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", answering(500, body))
        done = OutputStream.connect("any").put(entries(2), Deadline())
        assert numbers(done.undelivered) == [0, 1]
        assert done.errors.total() == 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS
        assert all(done.errors)

    def test_an_endpoint_that_is_gone_leaves_everything_undelivered(
        self, aws_environment: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A refused connection fails every entry and raises nothing."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        done = OutputStream.connect("nowhere").put(entries(2), Deadline())
        assert numbers(done.undelivered) == [0, 1]
        assert set(done.errors) == {"EndpointConnectionError"}

    @pytest.mark.parametrize(
        "code", ["AccessDeniedException", "ExpiredTokenException", "KMSAccessDeniedException", "ValidationException"]
    )
    def test_a_lasting_failure_is_raised_at_once(self, chaos: Chaos, stream: str, code: str) -> None:
        """The error has the name that AWS gives it."""
        told = f"2 entries to {stream} failed with {code}"
        with chaos(lambda call: FailedRequest(400, code)) as server, pytest.raises(DeliveryError, match=told) as raised:
            OutputStream.connect(stream).put(entries(2), Deadline())
        assert raised.value.code == code
        assert len(server.entry_counts) == 1

    def test_a_stream_that_does_not_exist_is_raised(self, kinesis_endpoint: str) -> None:
        """A retry would not create the stream."""
        with pytest.raises(DeliveryError, match="ResourceNotFoundException.*the stream's name and region"):
            OutputStream.connect("nowhere").put(entries(2), Deadline())

    def test_a_missing_region_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message of the SDK does not say which variable to set."""
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        with pytest.raises(SDKSettingsError, match="AWS_DEFAULT_REGION"):
            OutputStream.connect("stream")

    def test_missing_credentials_are_raised(
        self, kinesis_endpoint: str, stream: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A retry would not find them either."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setattr("clients._session", None)
        with pytest.raises(DeliveryError, match="NoCredentialsError"):
            OutputStream.connect(stream).put(entries(1), Deadline())


class TestOrder:
    """The order of entries with one partition key."""

    def repeated(self) -> list[Entry]:
        """Build entries 0 to 11, of which every third has the same key."""
        return [Entry(str(number), f"key-{number % 3}", str(number).encode()) for number in range(12)]

    def test_one_request_holds_each_key_once(self) -> None:
        """Kinesis does not promise any order within a request."""
        assert numbers(first_of_each_key(self.repeated())) == [0, 1, 2]

    @pytest.mark.parametrize("size", [1, 2, 500])
    def test_entries_of_a_key_stay_in_order(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An entry is sent only after the entry before it was accepted, however many entries a request has."""
        monkeypatch.setattr(delivery, "MAX_ENTRIES", size)

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

    def test_entries_behind_an_undelivered_one_are_undelivered(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str
    ) -> None:
        """Otherwise a reader would see the later prediction first."""

        def throttle_key_1(call: Call) -> Fault:
            return failing(*(i for i, entry in enumerate(call.entries) if entry["PartitionKey"] == "key-1"))

        with chaos(throttle_key_1):
            done = OutputStream.connect(stream).put(self.repeated(), Deadline())
        assert numbers(done.undelivered) == [1, 4, 7, 10]
        assert sorted(on_stream(kinesis, stream)) == [0, 2, 3, 5, 6, 8, 9, 11]


class TestTime:
    """The end of the invocation's time."""

    def test_no_request_is_started_without_time(self, stream: str, kinesis: "KinesisClient") -> None:
        """All entries are left to the next delivery."""
        done = OutputStream.connect(stream).put(entries(2), Deadline(delivery.MIN_REQUEST_SECONDS / 2))
        assert numbers(done.undelivered) == [0, 1]
        assert done.errors == {"OutOfTime": 2}
        assert on_stream(kinesis, stream) == []

    def test_attempts_end_before_the_deadline(
        self, chaos: Chaos, stream: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They end with the time even if their number is not limited."""
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1_000_000)
        monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.5)
        deadline = Deadline(5)
        with chaos(all_failing) as server:
            done = OutputStream.connect(stream).put(entries(2), deadline)
        assert numbers(done.undelivered) == [0, 1]
        assert done.errors["OutOfTime"] == 2
        assert len(server.entry_counts) > 1
        assert not deadline.is_over()

    def test_no_wait_is_longer_than_the_time_left(
        self, chaos: Chaos, stream: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such a wait does not begin, and the remaining entries are reported."""
        monkeypatch.setattr(delivery, "backoff", lambda attempts: [0, 1, 2, 1000][attempts])
        with chaos(all_failing) as server:
            done = OutputStream.connect(stream).put(entries(2), Deadline(500))
        assert numbers(done.undelivered) == [0, 1]
        assert clock.now == 3
        assert len(server.entry_counts) == 3

    def test_a_request_that_hangs_is_abandoned_and_retried(
        self, chaos: Chaos, kinesis: "KinesisClient", stream: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A retry delivers the entries of the request. The function waits for the other requests in flight."""
        monkeypatch.setattr(delivery, "REQUEST_SECONDS", 0.5)
        monkeypatch.setattr(delivery, "MAX_ENTRIES", 1)

        def hang_once(call: Call) -> Fault | None:
            # The retry may take as long as it needs, on a slow machine too.
            monkeypatch.setattr(delivery, "REQUEST_SECONDS", 60)
            return Delayed(60) if call.number == 0 else None

        with chaos(hang_once):
            done = OutputStream.connect(stream).put(entries(4), Deadline())
        assert done.undelivered == []
        assert set(done.errors) == {"TimeoutError"}
        assert set(on_stream(kinesis, stream)) == {0, 1, 2, 3}

    def test_a_response_without_end_is_abandoned(
        self, chaos: Chaos, stream: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each byte would start the SDK's own timeout anew."""
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
        with chaos(lambda call: Dripping()):
            done = OutputStream.connect(stream).put(entries(2), Deadline(1))
        assert numbers(done.undelivered) == [0, 1]
        assert done.errors == {"TimeoutError": 4}
