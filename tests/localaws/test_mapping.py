"""The event source mapping end to end: real clients, streams and buckets, and a function that is given to it."""

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from scripts.localaws.lanes import lane_of

from scripts.localaws.mapping import Counters, EventSourceMapping, exponential
from scripts.localaws.rules import MAX_EVENT_BYTES, MappingSettings, Throttled

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")

PATIENCE = 60
"""Seconds after which a test that waits gives up: far more than anything here takes."""


class Function:
    """A function that keeps the events it is invoked with and answers as it is told to."""

    def __init__(self, answer: Callable[[dict[str, Any]], object] = lambda event: None) -> None:
        """Answer with null by default."""
        self.events: list[dict[str, Any]] = []
        self._answer = answer

    def __call__(self, event: dict[str, Any]) -> object:
        """Keep the event as it came, and answer."""
        self.events.append(json.loads(json.dumps(event)))
        return self._answer(event)

    @property
    def batches(self) -> list[list[str]]:
        """The data of the records, event by event."""
        return [texts(event) for event in self.events]


def texts(event: dict[str, Any]) -> list[str]:
    """Decode the data of an event's records."""
    return [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]


def number_of(event: dict[str, Any], text: str) -> str:
    """Find the sequence number of the record with this data."""
    return str(event["Records"][texts(event).index(text)]["kinesis"]["sequenceNumber"])


def failing_on(poison: str) -> Callable[[dict[str, Any]], object]:
    """Answer with an exception where the poison is among the records."""

    def answer(event: dict[str, Any]) -> None:
        if poison in texts(event):
            raise ValueError(poison)

    return answer


def reporting(poison: str) -> Callable[[dict[str, Any]], object]:
    """Answer with a partial batch response where the poison is among the records."""

    def answer(event: dict[str, Any]) -> object:
        poisoned = poison in texts(event)
        return {"batchItemFailures": [{"itemIdentifier": number_of(event, poison)}] if poisoned else []}

    return answer


def put(kinesis: "KinesisClient", stream: str, data: Iterable[str], key: str = "key") -> None:
    """Put records one after another, in order."""
    for text in data:
        kinesis.put_record(StreamName=stream, PartitionKey=key, Data=text.encode())


def stream_of(kinesis: "KinesisClient", shards: int) -> str:
    """Create a stream of several shards and return its name."""
    name = f"stream-{uuid.uuid4().hex}"
    kinesis.create_stream(StreamName=name, ShardCount=shards)
    return name


Play = Callable[..., EventSourceMapping]


@pytest.fixture
def play(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> Play:
    """Give a mapping of the test's stream, without pauses between retries."""

    def mapping(invoke: Callable[[dict[str, Any]], object], **settings: Any) -> EventSourceMapping:
        return EventSourceMapping(
            kinesis, s3, stream, invoke, MappingSettings(**settings), back_off=lambda attempts: 0.0
        )

    return mapping


def failure_objects(s3: "S3Client", bucket: str) -> list[tuple[str, dict[str, Any]]]:
    """Return keys and contents of what the on-failure bucket holds."""
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return [(key, json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())) for key in keys]


# Polling


def test_an_event_has_the_shape_that_lambda_gives_it(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """What a function parses here it can parse on AWS: the stream's own ARN, base64 data, arrival in float seconds."""
    function = Function()
    put(kinesis, stream, ["é"])
    before = time.time()
    with play(function) as mapping:
        assert mapping.wait_for(1, PATIENCE)
    [[record]] = [event["Records"] for event in function.events]
    arn = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    account = arn.split(":")[4]
    arrival = record["kinesis"].pop("approximateArrivalTimestamp")
    assert isinstance(arrival, float)
    assert before - 60 < arrival < before + 60
    number = record["kinesis"]["sequenceNumber"]
    assert record == {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "key",
            "sequenceNumber": number,
            "data": base64.b64encode("é".encode()).decode(),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"shardId-000000000000:{number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{account}:role/lambda-role",
        "awsRegion": "us-east-1",
        "eventSourceARN": arn,
    }


def test_every_shard_is_polled_and_no_batch_mixes_shards(kinesis: "KinesisClient", s3: "S3Client") -> None:
    """Each record of each shard is delivered once, in its shard's order."""
    stream = stream_of(kinesis, 3)
    for number in range(60):
        kinesis.put_record(StreamName=stream, PartitionKey=str(number), Data=str(number).encode())
    function = Function()
    with EventSourceMapping(kinesis, s3, stream, function, MappingSettings(batch_size=7)) as mapping:
        assert mapping.wait_for(60, PATIENCE)
    shards = [{record["eventID"].split(":")[0] for record in event["Records"]} for event in function.events]
    assert all(len(shard) == 1 for shard in shards)
    assert set.union(*shards) == {f"shardId-00000000000{shard}" for shard in range(3)}
    assert sorted(int(text) for batch in function.batches for text in batch) == list(range(60))
    for shard in set.union(*shards):
        events = [event for event, of in zip(function.events, shards, strict=True) if of == {shard}]
        numbers = [int(text) for event in events for text in texts(event)]
        assert numbers == sorted(numbers)


def test_shards_are_delivered_concurrently(kinesis: "KinesisClient", s3: "S3Client") -> None:
    """A function that is busy with one shard's batch is invoked with another's."""
    stream = stream_of(kinesis, 2)
    for number in range(20):
        kinesis.put_record(StreamName=stream, PartitionKey=str(number), Data=b"")
    both = threading.Barrier(2, timeout=PATIENCE)
    with EventSourceMapping(kinesis, s3, stream, lambda event: both.wait() and None, MappingSettings()) as mapping:
        assert mapping.wait_for(20, PATIENCE)
        assert mapping.counters().invocations == 2


def test_latest_delivers_only_what_comes_after_the_start(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """Records from before the mapping are left alone, and none put after its start is missed."""
    put(kinesis, stream, ["before"])
    function = Function()
    with play(function, starting_position="LATEST") as mapping:
        put(kinesis, stream, ["after"])
        assert mapping.wait_for(1, PATIENCE)
    assert function.batches == [["after"]]


def test_a_closed_shard_is_delivered_to_its_end(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """What was read of a shard is delivered although no record can follow and its batch's window is still open."""
    # AWS gives no next iterator at the end of a closed shard; moto always gives one.
    kinesis.meta.events.register(
        "after-call.kinesis.GetRecords", lambda parsed, **_: parsed.pop("NextShardIterator") and None
    )
    put(kinesis, stream, ["1", "2", "3"])
    function = Function()
    with play(function, batch_size=2, batching_window=1) as mapping:
        assert mapping.wait_for(3, PATIENCE)
    assert function.batches == [["1", "2"], ["3"]]


# Batching


def test_a_batch_has_at_most_batch_size_records(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """What was put at once comes in full batches and a rest."""
    put(kinesis, stream, map(str, range(25)))
    function = Function()
    with play(function, batch_size=10) as mapping:
        assert mapping.wait_for(25, PATIENCE)
    assert [len(batch) for batch in function.batches] == [10, 10, 5]
    assert [text for batch in function.batches for text in batch] == [str(number) for number in range(25)]


def test_an_open_window_gathers_what_comes_in(kinesis: "KinesisClient", stream: str, play: Play) -> None:
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


def test_a_batch_that_never_fills_comes_when_its_window_ends(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A window delays a batch and does not hold it back."""
    function = Function()
    with play(function, batching_window=1) as mapping:
        put(kinesis, stream, ["1"])
        assert mapping.wait_for(1, PATIENCE)
    assert function.batches == [["1"]]


def test_what_a_full_batch_leaves_over_gets_a_window_of_its_own(
    kinesis: "KinesisClient", stream: str, play: Play
) -> None:
    """A slow batch does not use up the time that the next one has to fill."""

    def answer(event: dict[str, Any]) -> None:
        if texts(event) == ["1", "2"]:
            time.sleep(1.1)
            put(kinesis, stream, ["4"])

    put(kinesis, stream, ["1", "2", "3"])
    function = Function(answer)
    with play(function, batch_size=2, batching_window=1) as mapping:
        assert mapping.wait_for(4, PATIENCE)
    assert function.batches == [["1", "2"], ["3", "4"]]


@pytest.mark.kinesis("moto", reason="kinesis-local takes a second to answer with five megabytes")
def test_no_event_exceeds_six_megabytes(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """Seven records of 0.7 MB, which base64 makes 0.93, come in two batches though one would not be full."""
    put(kinesis, stream, [str(number) * 700_000 for number in range(7)])
    function = Function()
    with play(function) as mapping:
        assert mapping.wait_for(7, PATIENCE)
    assert [[text[0] for text in batch] for batch in function.batches] == [["0", "1", "2", "3", "4", "5"], ["6"]]
    assert all(len(json.dumps(event, separators=(",", ":"))) <= MAX_EVENT_BYTES for event in function.events)


# Parallelization


def test_one_batch_of_a_shard_is_in_flight_at_a_time(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """By default a shard's next batch waits for the one before it."""
    running, most = [], 0

    def answer(event: dict[str, Any]) -> None:
        nonlocal most
        running.append(event)
        most = max(most, len(running))
        time.sleep(0.02)
        running.remove(event)

    for key in "abcdef":
        put(kinesis, stream, ["1", "2"], key)
    with play(answer, batch_size=1) as mapping:
        assert mapping.wait_for(12, PATIENCE)
    assert most == 1


def test_parallelization_delivers_partition_keys_concurrently(
    kinesis: "KinesisClient", stream: str, play: Play
) -> None:
    """With a factor of two, two keys of one shard can be in flight at once."""
    first, second = keys_of_different_lanes(2)
    put(kinesis, stream, ["1"], first)
    put(kinesis, stream, ["2"], second)
    both = threading.Barrier(2, timeout=PATIENCE)
    with play(lambda event: both.wait() and None, parallelization_factor=2) as mapping:
        assert mapping.wait_for(2, PATIENCE)
        assert mapping.counters().invocations == 2


def test_parallelization_keeps_the_order_of_each_partition_key(
    kinesis: "KinesisClient", stream: str, play: Play
) -> None:
    """However many lanes a shard has, a key's records come one after another, each once."""
    for number in range(10):
        for key in "abcdefgh":
            put(kinesis, stream, [str(number)], key)
    order: dict[str, list[str]] = {}

    def answer(event: dict[str, Any]) -> None:
        for record, text in zip(event["Records"], texts(event), strict=True):
            order.setdefault(record["kinesis"]["partitionKey"], []).append(text)

    with play(answer, parallelization_factor=10, batch_size=3) as mapping:
        assert mapping.wait_for(80, PATIENCE)
    assert order == {key: [str(number) for number in range(10)] for key in "abcdefgh"}


def test_a_blocked_partition_key_does_not_block_the_others(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """With parallelization a bad record holds up its own lane only."""
    first, second = keys_of_different_lanes(2)
    put(kinesis, stream, ["poison"], first)
    put(kinesis, stream, ["1", "2"], second)
    with play(failing_on("poison"), parallelization_factor=2) as mapping:
        assert mapping.wait_for(2, PATIENCE)
        assert mapping.counters().delivered == 2


def keys_of_different_lanes(lanes: int) -> tuple[str, str]:
    """Find two partition keys that are delivered independently."""
    return "a", next(key for key in "bcdefgh" if lane_of(key, lanes) != lane_of("a", lanes))


# Failures


def test_a_checkpoint_redelivers_everything_behind_it(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """Records behind the reported one come again though they had succeeded; those before it do not."""
    put(kinesis, stream, ["1", "2", "poison", "4", "5"])
    function = Function(reporting("poison"))
    settings = {"report_batch_item_failures": True, "maximum_retry_attempts": 1}
    with play(function, **settings) as mapping:
        assert mapping.wait_for(5, PATIENCE)
    rest = ["poison", "4", "5"]
    assert function.batches == [["1", "2", *rest], rest, rest]
    assert mapping.counters() == Counters(invocations=3, delivered=2, redelivered=6, discarded=3)


def test_bisecting_isolates_a_poisonous_record(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """Halving delivers everything but the one record, which alone is discarded, and keeps the order."""
    put(kinesis, stream, ["1", "2", "3", "4", "5", "poison", "7", "8"])
    function = Function(failing_on("poison"))
    with play(function, bisect_on_error=True, maximum_retry_attempts=0) as mapping:
        assert mapping.wait_for(8, PATIENCE)
    assert function.batches[1:] == [
        ["1", "2", "3", "4"],
        ["5", "poison", "7", "8"],
        ["5", "poison"],
        ["5"],
        ["poison"],
        ["7", "8"],
    ]
    assert mapping.counters() == Counters(invocations=7, delivered=7, redelivered=14, discarded=1)


def test_a_failing_batch_blocks_its_shard_by_default(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """Nothing behind a batch that fails is delivered before it succeeds."""
    put(kinesis, stream, ["1", "2"])

    failures = [ValueError()] * 20

    def answer(event: dict[str, Any]) -> None:
        if failures:
            raise failures.pop()

    function = Function(answer)
    with play(function, batch_size=1) as mapping:
        assert mapping.wait_for(2, PATIENCE)
    assert function.batches == [["1"]] * 21 + [["2"]]


def test_throttled_invocations_are_repeated_beyond_the_retry_quota(
    kinesis: "KinesisClient", stream: str, play: Play
) -> None:
    """A function without a retry to lose is invoked as soon as it is throttled no longer."""
    put(kinesis, stream, ["1", "2"])
    throttles = [Throttled()] * 5

    def answer(event: dict[str, Any]) -> None:
        if throttles:
            raise throttles.pop()

    with play(answer, maximum_retry_attempts=0) as mapping:
        assert mapping.wait_for(2, PATIENCE)
    assert mapping.counters() == Counters(invocations=1, delivered=2)


def test_each_delivery_has_an_event_of_its_own(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """What a function does to its event is not in the next one."""

    def answer(event: dict[str, Any]) -> None:
        event["Records"].pop()["kinesis"].clear()
        raise ValueError

    put(kinesis, stream, ["1", "2"])
    function = Function(answer)
    with play(function, maximum_retry_attempts=1) as mapping:
        assert mapping.wait_for(2, PATIENCE)
    assert function.batches == [["1", "2"], ["1", "2"]]


def test_retries_wait_longer_and_longer(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> None:
    """The pause before a delivery depends on how often the batch was tried; a first delivery has none."""
    asked: list[int] = []

    def back_off(attempts: int) -> float:
        asked.append(attempts)
        return 0.0

    put(kinesis, stream, ["poison", "2"])
    settings = MappingSettings(maximum_retry_attempts=3, batch_size=1)
    with EventSourceMapping(kinesis, s3, stream, failing_on("poison"), settings, back_off=back_off) as mapping:
        assert mapping.wait_for(2, PATIENCE)
    assert asked == [1, 2, 3]


def test_the_back_off_doubles_up_to_a_bound() -> None:
    """A batch that is retried for ever is tried about once a minute."""
    assert [exponential(attempts) for attempts in (1, 2, 3, 9)] == [0.2, 0.4, 0.8, 51.2]
    assert exponential(1_000_000) == 51.2


# Giving up


def test_a_batch_without_retries_left_goes_to_the_bucket(
    kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str, play: Play
) -> None:
    """The bucket has the batch's position and its event, and the shard moves on."""
    put(kinesis, stream, ["1", "poison", "3"])
    function = Function(failing_on("poison"))
    settings = {"batch_size": 2, "maximum_retry_attempts": 2, "on_failure": f"s3://{bucket}"}
    with play(function, **settings) as mapping:
        assert mapping.wait_for(3, PATIENCE)
    assert function.batches == [["1", "poison"]] * 3 + [["3"]]
    assert mapping.counters() == Counters(invocations=4, delivered=1, redelivered=4, discarded=2)
    [(key, found)] = failure_objects(s3, bucket)
    assert key.startswith(f"aws/lambda/{mapping.uuid}/shardId-000000000000/")
    assert json.loads(found["payload"]) == function.events[0]
    assert found["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert found["requestContext"]["approximateInvokeCount"] == 3
    assert found["requestContext"]["functionArn"].endswith(":function:lambda_handler")
    assert found["KinesisBatchInfo"]["batchSize"] == 2


def test_records_beyond_their_age_are_discarded_without_an_invocation(
    kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str
) -> None:
    """A function does not see what was too old before it could be delivered."""
    put(kinesis, stream, ["1", "2"])
    function = Function()
    settings = MappingSettings(maximum_record_age=60, on_failure=f"s3://{bucket}")
    later = EventSourceMapping(kinesis, s3, stream, function, settings, now=lambda: time.time() + 3600)
    with later as mapping:
        assert mapping.wait_for(2, PATIENCE)
    assert function.events == []
    assert mapping.counters() == Counters(discarded=2)
    [(_, found)] = failure_objects(s3, bucket)
    assert found["requestContext"]["condition"] == "RecordAgeExceeded"
    assert texts(json.loads(found["payload"])) == ["1", "2"]


def test_records_grow_too_old_while_they_are_retried(
    kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str
) -> None:
    """Endless retries end with the records' age, throttled ones too."""
    put(kinesis, stream, ["1"])
    errors: list[Exception] = [ValueError(), Throttled(), ValueError()]

    def answer(event: dict[str, Any]) -> None:
        raise errors.pop()

    def now() -> float:
        return time.time() if errors else time.time() + 3600

    settings = MappingSettings(maximum_record_age=60, on_failure=f"s3://{bucket}")
    with EventSourceMapping(kinesis, s3, stream, answer, settings, back_off=lambda attempts: 0.0, now=now) as mapping:
        assert mapping.wait_for(1, PATIENCE)
    assert mapping.counters() == Counters(invocations=2, redelivered=1, discarded=1)
    [(_, found)] = failure_objects(s3, bucket)
    assert found["requestContext"]["condition"] == "RecordAgeExceeded"


def test_a_destination_that_fails_is_counted_and_blocks_nothing(
    kinesis: "KinesisClient", stream: str, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    """As on AWS, records that the destination does not take are lost, and the shard moves on."""
    put(kinesis, stream, ["poison", "2"])
    settings = {"batch_size": 1, "maximum_retry_attempts": 0, "on_failure": "s3://no-such-bucket"}
    with play(failing_on("poison"), **settings) as mapping:
        assert mapping.wait_for(2, PATIENCE)
    assert mapping.counters() == Counters(invocations=2, delivered=1, discarded=1, destination_delivery_failures=1)
    assert "did not take s3://no-such-bucket/aws/lambda/" in caplog.text


# Starting and ending


def test_leaving_waits_for_the_batch_in_flight(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A function is not abandoned in the middle of a batch, and what it delivered is counted."""
    started, release = threading.Event(), threading.Event()

    def answer(event: dict[str, Any]) -> None:
        started.set()
        assert release.wait(PATIENCE)

    put(kinesis, stream, ["1", "2"])
    with play(answer, batch_size=1) as mapping:
        assert started.wait(PATIENCE)
        threading.Timer(0.1, release.set).start()
    assert mapping.counters() == Counters(invocations=1, delivered=1)


def test_leaving_ends_endless_retries(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> None:
    """A batch that fails for ever, and waits for an hour between retries, does not hold the mapping up."""
    waiting = threading.Event()

    def back_off(attempts: int) -> float:
        waiting.set()
        return 3600.0

    put(kinesis, stream, ["poison"])
    function = Function(failing_on("poison"))
    with EventSourceMapping(kinesis, s3, stream, function, MappingSettings(), back_off=back_off) as mapping:
        assert waiting.wait(PATIENCE)
    assert mapping.counters() == Counters(invocations=1)


def test_waiting_ends_where_the_records_do_not_come(play: Play) -> None:
    """Who waits for more than was put is told so in the end."""
    with play(Function()) as mapping:
        assert not mapping.wait_for(1, 0.01)


def test_a_crash_of_a_polling_thread_reaches_whoever_waits(kinesis: "KinesisClient", stream: str, play: Play) -> None:
    """A stream that vanishes is not waited for in vain: what AWS said about it is raised."""
    gone = "ResourceNotFoundException|ResourceInUseException"  # the latter while it is being deleted
    with pytest.raises(ClientError, match=gone), play(Function()) as mapping:  # noqa: PT012
        kinesis.delete_stream(StreamName=stream)
        mapping.wait_for(1, PATIENCE)


def test_a_crash_of_a_polling_thread_is_raised_on_leaving(
    kinesis: "KinesisClient", s3: "S3Client", stream: str
) -> None:
    """A crash does not vanish where nobody waited for records."""
    asked = threading.Event()

    def now() -> float:
        asked.set()
        raise OverflowError("no such time")

    put(kinesis, stream, ["1"])
    mapping = EventSourceMapping(kinesis, s3, stream, Function(), MappingSettings(), now=now)
    with pytest.raises(OverflowError, match="no such time"), mapping:
        assert asked.wait(PATIENCE)


def test_what_the_block_raises_is_not_replaced_by_a_crash(
    kinesis: "KinesisClient", s3: "S3Client", stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller's own error comes through; the crash is in the log."""

    def now() -> float:
        raise OverflowError("no such time")

    put(kinesis, stream, ["1"])
    mapping = EventSourceMapping(kinesis, s3, stream, Function(), MappingSettings(), now=now)
    with pytest.raises(KeyError, match="mine"), mapping:  # noqa: PT012
        with pytest.raises(OverflowError):
            mapping.wait_for(1, PATIENCE)
        raise KeyError("mine")
    assert "no such time" in caplog.text
