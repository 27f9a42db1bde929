"""What tests share: builders of the failures bucket's objects and a bucket for replaying; a watched model for drift."""

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from batch.outputs import OutputError
from scripts.aws.kept_objects import ON_FAILURE_PREFIX, KeptObjects, KeptRecord
from scripts.aws.replaying import ReplayFilter, ReplayPlan, plan_replay, replay
from scripts.aws.shards import ShardReader
from scripts.cli import CommandError
from scripts.commands import drift as drift_command
from scripts.sources.records import RideRecord
from streaming.delivery import OutputStream
from tests.builders import SHARD, kinesis_event
from tests.commands.watching import save_watched

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

Run = Callable[..., tuple[int, Any]]
"""The type of the ``drift`` fixture."""
Refuse = Callable[..., str]
"""The type of the ``refuse_drift`` fixture."""
EVERYTHING = ReplayFilter()
REJECTIONS = f"rejections/ride_events/{SHARD}"
REPLAYED = f"rejections/replayed/ride_events/{SHARD}"
ON_FAILURE = f"{ON_FAILURE_PREFIX}11111111-2222-3333-4444-555555555555/{SHARD}/2026/02/03/2026-02-03T04.05.06-id"
ARRIVAL = 1_770_000_000.5


def rejection(number: int, data: bytes | str = b"{", **changes: object) -> bytes:
    """Build a line as the function writes it; text is taken as base64 already."""
    line = {
        "kind": "json",
        "reason": "Input data was truncated",
        "event_id": f"{SHARD}:{number}",
        "sequence_number": str(number),
        "partition_key": f"key-{number}",
        "arrival": ARRIVAL,
        "data": data if isinstance(data, str) else base64.b64encode(data).decode(),
    }
    return json.dumps(line | changes).encode() + b"\n"


def discarded(*data: object, arrivals: tuple[float, ...] = (), **changes: object) -> bytes:
    """Build what of an on-failure object matters; tests of faults replay those of the local mapping as a whole."""
    records = kinesis_event(*data)["Records"]
    for record, arrival in zip(records, arrivals, strict=False):
        record["kinesis"]["approximateArrivalTimestamp"] = arrival
    context = {"condition": "RetryAttemptsExhausted", "approximateInvokeCount": 3}
    batch = {"shardId": SHARD, "batchSize": len(records)}
    content = {
        "requestContext": context,
        "KinesisBatchInfo": batch,
        "payload": msgspec.json.encode({"Records": records}).decode(),
    }
    return json.dumps(content | changes).encode()


def kept(kind: str, reason: str, arrival: datetime = datetime(2026, 2, 3, tzinfo=UTC)) -> KeptRecord:
    """Build a record as it is when it is read."""
    return KeptRecord(kind, reason, "ride_events", arrival, RideRecord("key", b""), "", b"")


@dataclass(frozen=True)
class Bucket:
    """A failures bucket, and the stream that its records are replayed to."""

    kinesis: "KinesisClient"
    s3: "S3Client"
    stream: str
    name: str
    prefix: str = "/rejections"

    def keep(self, **bodies: bytes) -> None:
        """Write objects of rejections, by the last part of their key."""
        self.write({f"{REJECTIONS}/{name}.jsonl": body for name, body in bodies.items()})

    def write(self, bodies: dict[str, bytes], **options: Any) -> None:
        """Write objects by key."""
        for key, body in bodies.items():
            self.s3.put_object(Bucket=self.name, Key=key, Body=body, **options)

    def content(self) -> dict[str, bytes]:
        """Return all objects by key."""
        keys = [found["Key"] for found in self.s3.list_objects_v2(Bucket=self.name).get("Contents", [])]
        return {key: self.s3.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def on_stream(self) -> list[tuple[str, bytes]]:
        """Return the partition keys and the data on the stream."""
        records = ShardReader(self.kinesis, self.stream, SHARD).read()
        return [(record["PartitionKey"], record["Data"]) for record in records]

    @property
    def objects(self) -> KeptObjects:
        """The objects of the failures location."""
        return KeptObjects(self.s3, f"s3://{self.name}{self.prefix}")

    def plan(self, condition: ReplayFilter = EVERYTHING) -> ReplayPlan:
        """Make the plan."""
        return plan_replay(self.objects, condition)

    def replay(self, condition: ReplayFilter = EVERYTHING, plan: ReplayPlan | None = None) -> int:
        """Replay the selected records, or a plan, and return the number of records put."""
        return replay(self.objects, OutputStream(self.kinesis, self.stream), plan or self.plan(condition))


@pytest.fixture
def failures(kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str) -> Bucket:
    """Give an empty failures bucket and its stream."""
    return Bucket(kinesis, s3, stream, bucket)


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a model with a baseline, and give its folder."""
    return save_watched(tmp_path_factory.mktemp("watched") / "model")


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], watched: str) -> Run:
    """Give a function that runs the command in this process, and returns the exit code and the JSON."""

    def call(*arguments: str, model: str = watched) -> tuple[int, Any]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["drift", "--json", "--model", model, *arguments])
        code = drift_command.main()
        return code, json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def refuse_drift(drift: Run) -> Refuse:
    """Give a function that runs the command, which raises an error, and returns the error's message."""

    def call(*arguments: str, **options: str) -> str:
        with pytest.raises((CommandError, OutputError)) as raised:
            drift(*arguments, **options)
        return str(raised.value)

    return call
