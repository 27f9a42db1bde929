"""The chaos endpoint: what each fault does to a client and to the local AWS, and that all else passes unchanged."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from scripts.aws.shards import ShardReader
from scripts.localaws import chaos, faults
from scripts.localaws.faults import THROTTLED, Call, FailedEntries, FailedRequest, Fault, seeded
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

ONE_ATTEMPT = Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE)


def kinesis_at(url: str) -> "KinesisClient":
    """Make a Kinesis client that shows every fault instead of retrying."""
    return boto3.client("kinesis", endpoint_url=url, config=ONE_ATTEMPT)


def s3_at(url: str) -> "S3Client":
    """Make an S3 client that shows every fault instead of retrying."""
    return boto3.client("s3", endpoint_url=url, config=ONE_ATTEMPT)


def put(client: "KinesisClient", stream: str, *data: str) -> Any:
    """Put records with this data, which is their partition key too, and return the response."""
    return client.put_records(
        StreamName=stream, Records=[{"Data": item.encode(), "PartitionKey": item} for item in data]
    )


def held(client: "KinesisClient", stream: str) -> list[str]:
    """Return the data that the stream holds."""
    return [record["Data"].decode() for record in ShardReader(client, stream, "shardId-000000000000").read()]


def keys(s3: "S3Client", bucket: str) -> list[str]:
    """Return the keys that the bucket holds."""
    return [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.fixture
def passing(endpoint: str) -> Iterator[chaos.ChaosEndpoint]:
    """Give an endpoint that makes nothing fail."""
    with chaos.serve(endpoint, keeps_requests=True) as server:
        yield server


def test_records_and_errors_of_kinesis_pass_unchanged(passing: chaos.ChaosEndpoint, stream: str) -> None:
    """Records are put and read through the endpoint; an error has the status, code and message of the upstream."""
    client = kinesis_at(passing.url)
    assert put(client, stream, "a", "b")["FailedRecordCount"] == 0
    assert held(client, stream) == ["a", "b"]
    with pytest.raises(ClientError, match=r"ResourceNotFoundException.*no-such-stream"):
        put(client, "no-such-stream", "a")
    assert [request.status for request in passing.requests][-1] == 400
    assert b"no-such-stream" in passing.requests[-1].body


@pytest.mark.parametrize("failed", [{0}, {1, 3}, {0, 1, 2, 3}], ids=str)
def test_failed_entries_are_not_put_and_the_others_are(
    endpoint: str, kinesis: "KinesisClient", stream: str, failed: set[int]
) -> None:
    """The results are in the order of the request, each with a sequence number or an error."""
    with chaos.serve(endpoint, lambda call: FailedEntries(frozenset(failed))) as server:
        response = put(kinesis_at(server.url), stream, *"abcd")
    assert response["FailedRecordCount"] == len(failed)
    assert {place for place, result in enumerate(response["Records"]) if "ErrorCode" in result} == failed
    assert held(kinesis, stream) == [item for place, item in enumerate("abcd") if place not in failed]
    assert server.faults == Counter({f"PutRecords: entries answered {THROTTLED}": len(failed)})


@pytest.mark.parametrize(
    ("fault", "error", "is_applied"),
    [
        (FailedRequest(400, THROTTLED), ClientError, False),
        (FailedRequest(503, "SlowDown"), ClientError, False),
        (faults.DroppedBefore(), ConnectionClosedError, False),
        (faults.DroppedAfter(), ConnectionClosedError, True),
    ],
    ids=repr,
)
def test_a_failed_request_is_an_error_to_the_client(
    endpoint: str,
    kinesis: "KinesisClient",
    s3: "S3Client",
    stream: str,
    bucket: str,
    fault: Fault,
    error: type[Exception],
    is_applied: bool,
) -> None:
    """The stream or bucket holds the data only if the call was applied; the next call succeeds."""
    with chaos.serve(endpoint, lambda call: None if call.number else fault) as server:
        to_stream, to_bucket = kinesis_at(server.url), s3_at(server.url)
        with pytest.raises(error) as from_stream:
            put(to_stream, stream, "a")
        with pytest.raises(error) as from_bucket:
            to_bucket.put_object(Bucket=bucket, Key="a", Body=b"x")
        put(to_stream, stream, "b")
        to_bucket.put_object(Bucket=bucket, Key="b", Body=b"x")
    for raised in (from_stream.value, from_bucket.value):
        if isinstance(raised, ClientError) and isinstance(fault, FailedRequest):
            assert raised.response["Error"]["Code"] == fault.code
            assert raised.response["ResponseMetadata"]["HTTPStatusCode"] == fault.status
    assert held(kinesis, stream) == keys(s3, bucket) == (["a", "b"] if is_applied else ["b"])
    label = fault.label.format(fault)
    assert server.faults == Counter({f"PutRecords: {label}": 1, f"PutObject: {label}": 1})


def test_a_delayed_call_is_applied_before_its_response(endpoint: str, kinesis: "KinesisClient", stream: str) -> None:
    """The end of the block does not wait for the delay; the client sees its connection closed."""
    began = threading.Event()

    def delay(call: Call) -> Fault:
        began.set()
        return faults.Delayed(600)

    with ThreadPoolExecutor() as threads:
        with chaos.serve(endpoint, delay) as server:
            waiting = threads.submit(put, kinesis_at(server.url), stream, "a")
            assert began.wait(PATIENCE)
        assert isinstance(waiting.exception(PATIENCE), ConnectionClosedError)
    assert held(kinesis, stream) == ["a"]


def drawn(seed: int, calls: list[Call]) -> list[Fault | None]:
    """Draw the faults of calls at the hard rates."""
    decide = seeded(seed, 2.0)
    return [decide(call) for call in calls]


def test_a_seed_gives_the_same_faults_in_any_order() -> None:
    """Another seed gives others."""
    calls = [Call("PutRecords", number, [{}] * 10) for number in range(200)]
    assert drawn(3, calls[::-1])[::-1] == drawn(3, calls)
    assert drawn(3, calls) != drawn(4, calls)


def test_faults_come_at_their_rates() -> None:
    """Of 2,000 calls about a hundred get each fault, and of the entries of the others three tenths fail."""
    found = drawn(3, [Call("PutRecords", number, [{}] * 10) for number in range(2000)])
    names = Counter(type(fault).__name__ for fault in found)
    order = ("FailedRequest", "Delayed", "DroppedBefore", "DroppedAfter")
    assert [names[name] for name in order] == [192, 107, 106, 96]
    assert sum(len(fault.indexes) for fault in found if isinstance(fault, FailedEntries)) == 4439
    on_objects = Counter(type(fault).__name__ for fault in drawn(3, [Call("PutObject", one) for one in range(2000)]))
    assert on_objects == {"NoneType": 1900, "FailedRequest": 51, "DroppedBefore": 49}
