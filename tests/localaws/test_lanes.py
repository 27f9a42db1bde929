"""How an event source mapping reads a shard: records as events have them, lanes, and reads that fail."""

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse, HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from scripts.localaws.lanes import ShardLanes, event_record, lane_of

from scripts.aws.shards import ShardReader

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/ride_events"


def test_a_record_without_partition_key_has_none_in_its_event() -> None:
    """A stream that distributes automatically gives records no key, and an event then lacks it."""
    record: RecordTypeDef = {
        "SequenceNumber": "1",
        "Data": b"",
        "ApproximateArrivalTimestamp": datetime(2026, 1, 1, tzinfo=UTC),
    }
    assert "partitionKey" not in event_record(record, "shardId-000000000000", ARN)["kinesis"]


def test_a_partition_key_has_one_lane_and_the_keys_use_all_lanes() -> None:
    """The same key is never in flight twice, and the factor is made use of."""
    keys = [str(number) for number in range(1000)]
    assert [lane_of(key, 10) for key in keys] == [lane_of(key, 10) for key in keys]
    assert {lane_of(key, 10) for key in keys} == set(range(10))
    assert {lane_of(key, 1) for key in keys} == {0}


def test_one_read_serves_all_lanes(kinesis: "KinesisClient", stream: str) -> None:
    """What a read finds for another lane waits for it and is not read again."""
    reads = []
    kinesis.meta.events.register("before-send.kinesis.GetRecords", lambda request, **_: reads.append(request))
    keys = [str(number) for number in range(20)]
    for key in keys:
        kinesis.put_record(StreamName=stream, PartitionKey=key, Data=b"")
    lanes = ShardLanes(ShardReader(kinesis, stream, "shardId-000000000000"), ARN, 4)
    found = [lanes.take(lane) or [] for lane in range(4)]
    assert len(reads) == 1
    for lane, records in enumerate(found):
        taken = [record["kinesis"]["partitionKey"] for record in records]
        assert taken == [key for key in keys if lane_of(key, 4) == lane]
        assert taken


def test_an_empty_shard_is_left_alone_for_a_while(kinesis: "KinesisClient", stream: str) -> None:
    """Lanes that find nothing do not ask for the shard's five reads a second over and over."""
    reads = []
    kinesis.meta.events.register("before-send.kinesis.GetRecords", lambda request, **_: reads.append(request))
    lanes = ShardLanes(ShardReader(kinesis, stream, "shardId-000000000000"), ARN, 10)
    assert [lanes.take(lane) for lane in range(10)] == [[]] * 10
    assert len(reads) < 10


def test_a_lane_of_a_closed_shard_ends_only_after_its_records(kinesis: "KinesisClient", stream: str) -> None:
    """A read that reaches the shard's end for one lane does not lose what it found for another."""
    # AWS gives no next iterator at the end of a closed shard; moto always gives one.
    kinesis.meta.events.register(
        "after-call.kinesis.GetRecords", lambda parsed, **_: parsed.pop("NextShardIterator") and None
    )
    first, second = "a", next(key for key in "bcdefgh" if lane_of(key, 2) != lane_of("a", 2))
    kinesis.put_record(StreamName=stream, PartitionKey=first, Data=b"")
    kinesis.put_record(StreamName=stream, PartitionKey=second, Data=b"")
    lanes = ShardLanes(ShardReader(kinesis, stream, "shardId-000000000000"), ARN, 2)
    for key in (first, second):
        assert len(lanes.take(lane_of(key, 2)) or []) == 1
    assert lanes.take(0) is None
    assert lanes.take(1) is None


def answer(status: HTTPStatus, code: str) -> Callable[..., Any]:
    """Answer a request as Kinesis answers with an error."""

    class Body:
        def stream(self) -> list[bytes]:
            return [f'{{"__type": "{code}", "message": "injected"}}'.encode()]

    return lambda request, **_: AWSResponse(request.url, status, HTTPHeaders(), Body())


def failure(error: Exception) -> Callable[..., None]:
    """Fail a request before it is answered."""

    def fail(**_: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "fault",
    [
        answer(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalFailure"),
        answer(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        answer(HTTPStatus.BAD_REQUEST, "KMSThrottlingException"),
        answer(HTTPStatus.BAD_REQUEST, "ProvisionedThroughputExceededException"),
        failure(EndpointConnectionError(endpoint_url="http://127.0.0.1:1")),
        failure(ConnectionClosedError(endpoint_url="http://127.0.0.1:1")),
    ],
    ids=["internal", "unavailable", "kms throttling", "throughput", "no connection", "connection closed"],
)
def test_a_read_that_fails_for_the_moment_is_a_read_of_nothing(
    endpoint: str, aws_environment: None, stream: str, fault: Callable[..., Any]
) -> None:
    """The records are read when the service answers again; none is skipped."""
    kinesis = boto3.client("kinesis", config=Config(retries={"total_max_attempts": 1}))
    kinesis.put_record(StreamName=stream, PartitionKey="key", Data=b"")
    reader = ShardReader(kinesis, stream, "shardId-000000000000")
    kinesis.meta.events.register("before-send.kinesis.GetRecords", fault)
    assert ShardLanes(reader, ARN, 1).take(0) == []
    kinesis.meta.events.unregister("before-send.kinesis.GetRecords", fault)
    assert len(ShardLanes(reader, ARN, 1).take(0) or []) == 1


def test_a_read_that_is_refused_is_raised(endpoint: str, aws_environment: None, stream: str) -> None:
    """What no later read can mend is not waited for."""
    kinesis = boto3.client("kinesis", config=Config(retries={"total_max_attempts": 1}))
    reader = ShardReader(kinesis, stream, "shardId-000000000000")
    refusal = answer(HTTPStatus.BAD_REQUEST, "AccessDeniedException")
    kinesis.meta.events.register("before-send.kinesis.GetRecords", refusal)
    with pytest.raises(ClientError, match="AccessDeniedException"):
        ShardLanes(reader, ARN, 1).take(0)
