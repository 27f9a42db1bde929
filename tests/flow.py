"""A whole flow for tests: an input stream, the event source mapping, the function, an output stream, a bucket."""

import base64
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.chaos import ChaosEndpoint
from scripts.localaws.mapping import Counters, EventSourceMapping
from scripts.localaws.rules import MappingSettings
from scripts.localaws.sandbox import LambdaContext
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

Chaos = Callable[..., AbstractContextManager[ChaosEndpoint]]
"""The type of the ``chaos`` fixture."""
RETRY = MappingSettings(report_batch_item_failures=True)
"""A mapping that retries for ever."""


@dataclass
class Flow:
    """An input stream, a function, an output stream and a failures bucket."""

    kinesis: "KinesisClient"
    s3: "S3Client"
    input: str
    output: str
    bucket: str
    cold_start: Callable[..., ModuleType]
    capsys: pytest.CaptureFixture[str]
    printed: list[dict[str, Any]] = field(default_factory=list)

    def function(self, **variables: str) -> ModuleType:
        """Cold-start the function, with these variables in place of the usual ones."""
        usual = {"PREDICTIONS_STREAM_NAME": self.output, "FAILURES_LOCATION": f"s3://{self.bucket}/rejections"}
        return self.cold_start(**{**usual, "MODEL_NAME": f"flow-{self.output}", **variables})

    def put(self, *data: object) -> int:
        """Put records of bytes, or of JSON for other values, and return their number."""
        for number, item in enumerate(data):
            content = item if isinstance(item, bytes) else json.dumps(item).encode()
            self.kinesis.put_record(StreamName=self.input, PartitionKey=str(number), Data=content)
        return len(data)

    def deliver(
        self, function: ModuleType, records: int, settings: MappingSettings = RETRY, seconds: float = 60
    ) -> Counters:
        """Let the mapping hand this many records to the function until it is done with them; return its counters."""

        def invoke(event: dict[str, Any]) -> object:
            return function.lambda_handler(event, LambdaContext(seconds))

        with EventSourceMapping(
            self.kinesis, self.s3, self.input, invoke, settings, back_off=lambda attempts: 0.01
        ) as mapping:
            assert mapping.wait_for(records, PATIENCE)
        self.printed += [json.loads(line) for line in self.capsys.readouterr().out.splitlines()]
        return mapping.counters()

    def predicted(self) -> list[int]:
        """Return the ride_ids on the output stream, in order."""
        (shard_id,) = shard_ids(self.kinesis, self.output)
        records = ShardReader(self.kinesis, self.output, shard_id).read()
        return [json.loads(record["Data"])["prediction"]["ride_id"] for record in records]

    def rejections(self) -> list[dict[str, Any]]:
        """Return the rejections in the bucket that have not been replayed."""
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="rejections/").get("Contents", [])
        keys = [entry["Key"] for entry in found if "/replayed/" not in entry["Key"]]
        bodies = [self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys]
        return [json.loads(line) for body in bodies for line in body.splitlines()]

    def rejected(self) -> list[str]:
        """Return the kinds of the rejections."""
        return [line["kind"] for line in self.rejections()]

    def rejected_data(self) -> set[bytes]:
        """Return the data of the rejections."""
        return {base64.b64decode(line["data"]) for line in self.rejections()}

    def errors(self) -> dict[str, int]:
        """Return the sums of the errors in the log lines of all batches."""
        return {
            name: sum(line["errors"].get(name, 0) for line in self.printed if "errors" in line)
            for name in {name for line in self.printed for name in line.get("errors", {})}
        }

    def metric(self, name: str) -> float:
        """Return the sum of a metric over all batches."""
        values: list[float] = [value for line in self.printed if "_aws" in line for value in line.get(name, ())]
        return sum(values)
