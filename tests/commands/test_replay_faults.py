"""Replaying when one object or one record fails: it is named and counted, and the rest goes on."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from scripts.aws.replaying import ReplayFilter, replay
from scripts.localaws.faults import Call, FailedRequest, Fault
from streaming.delivery import OutputStream
from tests.builders import SHARD, kinesis_event
from tests.commands.conftest import ON_FAILURE, REJECTIONS, REPLAYED, Bucket, discarded, rejection
from tests.tools import finish

FAST_LANE = "/consumer/fast-lane:1712261124"
DENIED = ["AccessDenied", "KMS.DisabledException", "SlowDown", "InternalError"]


@pytest.fixture
def deny(failures: Bucket) -> Callable[[str, str, Exception], None]:
    """Give a function that makes an operation of the S3 client fail for keys with a text in them."""

    def fail(operation: str, text: str, error: Exception) -> None:
        def raise_error(params: dict[str, Any], **_: object) -> None:
            if text in params["url_path"]:
                raise error

        failures.s3.meta.events.register(f"before-call.s3.{operation}", raise_error)

    return fail


def s3_error(code: str) -> ClientError:
    """Build S3's error."""
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")


Deny = Callable[[str, str, Exception], None]


@pytest.mark.parametrize(
    "error", [*map(s3_error, DENIED), ReadTimeoutError(endpoint_url="http://s3")], ids=[*DENIED, "ReadTimeout"]
)
def test_an_object_that_s3_does_not_hand_out_stays(
    failures: Bucket, deny: Deny, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The objects before and after it are replayed, and the plan knows that something stays."""
    failures.keep(a=rejection(1), b=rejection(2), c=rejection(3))
    plan = failures.plan()
    deny("GetObject", "/b.jsonl", error)
    denied = failures.plan()
    assert (denied.complete, denied.left, denied.puttable) == (False, 1, 2)
    assert failures.replay(plan=plan) == 2
    assert (plan.complete, plan.left) == (False, 1)
    assert f"{REJECTIONS}/b.jsonl stays as it is: " in caplog.text
    assert [key for key, _ in failures.on_stream()] == ["key-1", "key-3"]


@pytest.mark.parametrize("operation", ["PutObject", "DeleteObject"])
def test_an_object_that_cannot_be_moved_stays(
    failures: Bucket, deny: Deny, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    """The object's records are put, and a warning says that the next replay puts them again."""
    failures.keep(a=rejection(1), b=rejection(2), c=rejection(3))
    plan = failures.plan()
    deny(operation, "/b.jsonl", s3_error("AccessDenied"))
    assert failures.replay(plan=plan) == 3
    assert (plan.complete, plan.left) == (False, 1)
    assert (
        "b.jsonl stays as it is: its records are put, but not moved, so the next replay puts them again" in caplog.text
    )
    kept = {key.removesuffix(".jsonl") for key in failures.content()}
    assert f"{REJECTIONS}/b" in kept
    assert {f"{REPLAYED}/a", f"{REPLAYED}/c"} <= kept


def test_credentials_that_expired_end_it(failures: Bucket, deny: Deny) -> None:
    """Every other object would have the same error."""
    failures.keep(a=rejection(1))
    plan = failures.plan()
    deny("GetObject", "", s3_error("ExpiredToken"))
    with pytest.raises(ClientError, match="ExpiredToken"):
        failures.replay(plan=plan)


def test_a_record_that_kinesis_refuses_leaves_its_object_alone(
    failures: Bucket, chaos: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The records of the other objects are put, whatever the reason of the refusal is."""
    failures.keep(a=rejection(1), b=rejection(2), c=rejection(3))
    plan = failures.plan()

    def refuse(call: Call) -> Fault | None:
        return FailedRequest(400, "ValidationException") if call.number == 1 else None

    with chaos(refuse):
        assert replay(failures.objects, OutputStream.connect(failures.stream), plan) == 2
    assert (plan.complete, plan.left) == (False, 1)
    assert "b.jsonl stays as it is: PutRecords of 1 entries" in caplog.text
    assert [key for key, _ in failures.on_stream()] == ["key-1", "key-3"]


def test_the_command_counts_what_stays_and_goes_on(failures: Bucket) -> None:
    """The exit code is 1. An escape sequence in a key does not reach the terminal."""
    year_one = rejection(3, arrival=-62135596800.0)
    failures.keep(
        **{"a": rejection(1, partition_key="\U0001f600" * 200) + rejection(2), "b\x1b[2J": b"{", "c": year_one}
    )
    location = f"s3://{failures.name}/rejections"
    done = finish("replay", "--stream", failures.stream, "--failures", location, TZ="America/New_York")
    assert done.returncode == 1
    last, before = done.stdout.splitlines()[-1], done.stdout.splitlines()[-2]
    assert before == f"put 2 records on {failures.stream}"
    assert last == f"left in {location}: 2 objects; the reasons are above; correct them, then run it again"
    assert f"warning: {location}/ride_events/{SHARD}/b\\x1b[2J.jsonl stays as it is: " in done.stderr
    assert "\x1b[2J" not in done.stdout + done.stderr
    assert [key for key, _ in failures.on_stream()] == ["key-2", "key-3"]


@pytest.mark.parametrize("arn_of", ["records", "batch"])
def test_the_records_of_a_consumer_come_from_its_stream(failures: Bucket, arn_of: str) -> None:
    """With enhanced fan-out, the records and the batch have the consumer's ARN; if records have none, the batch has."""
    arn = kinesis_event(b"{")["Records"][0]["eventSourceARN"]
    batch = json.loads(discarded(b"{", KinesisBatchInfo={"streamArn": arn + FAST_LANE}))
    there = arn + FAST_LANE if arn_of == "records" else ""
    batch["payload"] = batch["payload"].replace(arn, there)
    failures.write({ON_FAILURE: json.dumps(batch).encode()})
    (group,) = failures.plan(ReplayFilter(stream="ride_events")).groups
    assert group == ("ride_events", "discarded", "RetryAttemptsExhausted")


def test_an_odd_record_of_a_discarded_batch_does_not_hide_the_others(failures: Bucket) -> None:
    """The function takes such a batch too."""
    batch = json.loads(discarded(b"1", b"2", b"3"))
    event = json.loads(batch["payload"])
    event["Records"][0]["kinesis"].update(approximateArrivalTimestamp="noon", partitionKey=7)
    event["Records"][1]["kinesis"]["data"] = None
    del event["Records"][2]["eventSourceARN"]
    failures.write({ON_FAILURE: json.dumps({**batch, "payload": json.dumps(event)}).encode()})
    plan = failures.plan()
    assert (plan.puttable, plan.complete) == (2, False)
    failures.replay(plan=plan)
    assert failures.on_stream() == [("7", b"1"), ("key-3", b"3")]
