"""The event source mapping end to end: real clients, streams and buckets, and a function that is given to it."""

import base64
import json
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from scripts.aws.kept_objects import ON_FAILURE_PREFIX
from scripts.localaws.mapping import Counters, exponential
from scripts.sources.events import event_record
from tests.builders import SHARD
from tests.localaws.conftest import Function, Play, failing_on, put, texts
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


Deliver = Callable[..., Counters]


@pytest.fixture
def deliver(kinesis: "KinesisClient", stream: str, play: Play) -> Deliver:
    """Give a function that puts records, waits until they are settled, and returns the counters."""

    def run(invoke: Callable[[dict[str, Any]], object], *data: str, **settings: Any) -> Counters:
        put(kinesis, stream, data)
        with play(invoke, **settings) as mapping:
            assert mapping.wait_for(len(data), PATIENCE)
        return mapping.counters()

    return run


def failure_objects(s3: "S3Client", bucket: str) -> dict[str, dict[str, Any]]:
    """Return the objects in the on-failure bucket by key."""
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    return {key: json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in keys}


# Polling


def test_an_event_has_the_shape_of_lambda(kinesis: "KinesisClient", stream: str, deliver: Deliver) -> None:
    """A function that parses this event can parse events on AWS: real ARN, base64 data, arrival in float seconds."""
    function = Function()
    deliver(function, "é")
    [[record]] = [event["Records"] for event in function.events]
    arn = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    number = record["kinesis"]["sequenceNumber"]
    assert isinstance(record["kinesis"].pop("approximateArrivalTimestamp"), float)
    assert record == {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "é",
            "sequenceNumber": number,
            "data": base64.b64encode("é".encode()).decode(),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{SHARD}:{number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{arn.split(':')[4]}:role/lambda-role",
        "awsRegion": "us-east-1",
        "eventSourceARN": arn,
    }


def test_a_record_without_partition_key_has_none_in_its_event() -> None:
    """A stream that distributes automatically gives records no key, and an event then lacks it."""
    arrival = datetime(2026, 1, 1, tzinfo=UTC)
    record = event_record({"SequenceNumber": "1", "Data": b"", "ApproximateArrivalTimestamp": arrival})
    assert "partitionKey" not in record["kinesis"]


def test_shards_are_delivered_concurrently_and_each_in_order(kinesis: "KinesisClient", play: Play) -> None:
    """No batch mixes shards; a function that is busy with one shard's batch is invoked with another's."""
    name = f"stream-{uuid.uuid4().hex}"
    kinesis.create_stream(StreamName=name, ShardCount=2)
    put(kinesis, name, map(str, range(40)))
    both = threading.Barrier(2, timeout=PATIENCE)
    order: dict[str, list[int]] = {}

    def respond(event: dict[str, Any]) -> None:
        (shard,) = {record["eventID"].split(":")[0] for record in event["Records"]}
        if shard not in order:
            order[shard] = []
            both.wait()
        order[shard] += map(int, texts(event))

    function = Function(respond)
    with play(function, stream=name, batch_size=7) as mapping:
        assert mapping.wait_for(40, PATIENCE)
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert sorted(number for numbers in order.values() for number in numbers) == list(range(40))


def test_a_closed_shard_is_delivered_to_its_end(kinesis: "KinesisClient", deliver: Deliver) -> None:
    """Records that were read are delivered although no other can follow and the batch's window is still open."""
    # AWS gives no next iterator at the end of a closed shard; moto always gives one.
    kinesis.meta.events.register(
        "after-call.kinesis.GetRecords", lambda parsed, **_: parsed.pop("NextShardIterator") and None
    )
    function = Function()
    deliver(function, "1", "2", "3", batch_size=2, batching_window=1)
    assert function.batches == [["1", "2"], ["3"]]


def test_an_open_window_gathers_later_records(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A batch that was read in part waits for the rest as long as its window is open."""
    numbers_read: list[int] = []
    read_again = threading.Event()

    def look(parsed: dict[str, Any], **_: Any) -> None:
        if sum(numbers_read) == 2:
            read_again.set()
        numbers_read.append(len(parsed["Records"]))

    kinesis.meta.events.register("after-call.kinesis.GetRecords", look)
    function = Function()
    with play(function, batch_size=3, batching_window=300) as mapping:
        put(kinesis, stream, ["1", "2"])
        assert read_again.wait(PATIENCE)
        put(kinesis, stream, ["3"])
        assert mapping.wait_for(3, PATIENCE)
    assert function.batches == [["1", "2", "3"]]


def error(status: int, code: str) -> ClientError:
    """Build an error of Kinesis."""
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetRecords")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "failure",
    [
        error(503, "ServiceUnavailable"),
        error(400, "KMSThrottlingException"),
        error(400, "ProvisionedThroughputExceededException"),
        ConnectionClosedError(endpoint_url="http://127.0.0.1:1"),
    ],
    ids=["unavailable", "kms throttling", "throughput", "connection closed"],
)
def test_a_read_that_fails_for_the_moment_is_retried(
    kinesis: "KinesisClient", deliver: Deliver, failure: Exception
) -> None:
    """No record is skipped."""
    failures = [failure, failure]

    def fail_twice(**_: Any) -> None:
        if failures:
            raise failures.pop()

    kinesis.meta.events.register("before-call.kinesis.GetRecords", fail_twice)
    deliver(Function(), "1")
    assert not failures


# Failures


def test_a_checkpoint_redelivers_all_records_behind_it(deliver: Deliver) -> None:
    """Records behind the reported one come again though they had succeeded; records before it do not."""

    def report(event: dict[str, Any]) -> object:
        number = event["Records"][texts(event).index("poison")]["kinesis"]["sequenceNumber"]
        return {"batchItemFailures": [{"itemIdentifier": number}]}

    function, rest = Function(report), ["poison", "4", "5"]
    done: list[str] = []
    settings = {"report_batch_item_failures": True, "maximum_retry_attempts": 1}
    found = deliver(
        function, "1", "2", *rest, **settings, on_delivered=lambda records: done.extend(texts({"Records": records}))
    )
    assert done == ["1", "2"]
    assert function.batches == [["1", "2", *rest], rest, rest]
    assert found == Counters(invocations=3, delivered=2, redelivered=6, discarded=3)


def test_bisecting_isolates_a_poisonous_record(deliver: Deliver) -> None:
    """Halving discards that one record, delivers all others, and keeps the order."""
    function = Function(failing_on("poison"))
    found = deliver(function, "1", "2", "3", "poison", bisect_on_error=True, maximum_retry_attempts=0)
    assert function.batches[1:] == [["1", "2"], ["3", "poison"], ["3"], ["poison"]]
    assert found == Counters(invocations=5, delivered=3, redelivered=6, discarded=1)


def test_a_failing_batch_blocks_its_shard_by_default(deliver: Deliver) -> None:
    """Nothing behind a failing batch is delivered before it succeeds. Each delivery has an event of its own."""
    failures = [ValueError()] * 20

    def respond(event: dict[str, Any]) -> None:
        event["Records"].pop()["kinesis"].clear()
        if failures:
            raise failures.pop()

    function = Function(respond)
    deliver(function, "1", "2", batch_size=1)
    assert function.batches == [["1"]] * 21 + [["2"]]


def test_retries_wait_longer_and_longer(deliver: Deliver) -> None:
    """The pause depends on how often the batch was tried: 0.2 seconds, doubling to 51.2. A first delivery has none."""
    asked: list[int] = []

    def back_off(attempts: int) -> float:
        asked.append(attempts)
        return 0.0

    deliver(failing_on("poison"), "poison", "2", back_off=back_off, batch_size=1, maximum_retry_attempts=3)
    assert asked == [1, 2, 3]
    assert [exponential(attempts) for attempts in (1, 2, 3, 9, 1_000_000)] == [0.2, 0.4, 0.8, 51.2, 51.2]


# Giving up


def test_a_batch_without_retries_left_goes_to_the_bucket(deliver: Deliver, s3: "S3Client", bucket: str) -> None:
    """The bucket has the batch's position and its event, and the shard moves on."""
    function, settings = Function(failing_on("poison")), {"batch_size": 2, "maximum_retry_attempts": 2}
    found = deliver(function, "1", "poison", "3", **settings, on_failure=f"s3://{bucket}")
    assert function.batches == [["1", "poison"]] * 3 + [["3"]]
    assert found == Counters(invocations=4, delivered=1, redelivered=4, discarded=2)
    ((key, content),) = failure_objects(s3, bucket).items()
    assert re.match(rf"{ON_FAILURE_PREFIX}[0-9a-f-]{{36}}/{SHARD}/", key)
    assert json.loads(content["payload"]) == function.events[0]
    assert content["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert content["requestContext"]["approximateInvokeCount"] == 3


def test_old_records_are_discarded_without_an_invocation(deliver: Deliver, s3: "S3Client", bucket: str) -> None:
    """They go to the bucket too. Every record is older than the age of this mapping."""
    settings = {"batch_size": 1, "maximum_record_age": 0, "on_failure": f"s3://{bucket}"}
    assert deliver(Function(), "1", "2", **settings) == Counters(discarded=2)
    found = failure_objects(s3, bucket).values()
    assert {body["requestContext"]["condition"] for body in found} == {"RecordAgeExceeded"}


def test_a_destination_that_fails_is_logged_and_blocks_nothing(
    deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    """As on AWS, records that the destination does not take are lost, and the shard moves on."""
    settings = {"batch_size": 1, "maximum_retry_attempts": 0, "on_failure": "s3://no-such-bucket"}
    found = deliver(failing_on("poison"), "poison", "2", **settings)
    assert found == Counters(invocations=2, delivered=1, discarded=1)
    assert f"did not take s3://no-such-bucket/{ON_FAILURE_PREFIX}" in caplog.text
