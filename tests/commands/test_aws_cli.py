"""One round trip as people do it by hand: the real AWS CLI puts a ride and reads its prediction."""

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import MappingSettings

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]


def aws(*arguments: str) -> str:
    """Run the AWS CLI and return what it prints."""
    command = [str(Path(sys.executable).parent / "aws"), *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_put_record_to_prediction(
    kinesis: "KinesisClient", s3: "S3Client", stream: str, cold_start: Callable[..., ModuleType]
) -> None:
    """The commands are put-record with fileb://, get-shard-iterator and get-records; base64 decodes the data."""
    predictions = f"predictions-{uuid.uuid4().hex}"
    aws("kinesis", "create-stream", "--stream-name", predictions, "--shard-count", "1")
    handler = cold_start(PREDICTIONS_STREAM_NAME=predictions, RUN_ID="abc").lambda_handler
    ride = "fileb://events/ride.json"
    aws("kinesis", "put-record", "--stream-name", stream, "--partition-key", "256", "--data", ride)

    settings = MappingSettings(report_batch_item_failures=True)
    with EventSourceMapping(kinesis, s3, stream, lambda event: handler(event, None), settings) as mapping:
        assert mapping.wait_for(1, timeout=60)

    iterator = aws(
        *("kinesis", "get-shard-iterator", "--stream-name", predictions, "--shard-id", "shardId-000000000000"),
        *("--shard-iterator-type", "TRIM_HORIZON", "--query", "ShardIterator", "--output", "text"),
    )
    data = aws(
        *("kinesis", "get-records", "--shard-iterator", iterator, "--query", "Records[0].Data", "--output", "text")
    )
    prediction = json.loads(base64.b64decode(data))
    assert prediction["prediction"]["ride_id"] == 256
    assert prediction["version"] == "abc"
    assert prediction["event_id"].startswith("shardId-000000000000:")
