"""The function under the runtime client that Lambda itself starts it with, and under Lambda's timeout."""

import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.aws.shards import ShardReader
from scripts.localaws.chaos import serve
from scripts.localaws.faults import Dripping
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.streaming.runtime_api import CrashedError, TimedOutError, sandbox
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Lambda's runtime client is made for Linux alone")

NUMBERS = ["1", "2", "3"]
THREE_RIDES = kinesis_event(*(ride_event(number) for number in NUMBERS))


def test_a_batch_is_predicted_onto_the_stream(kinesis: "KinesisClient", stream: str) -> None:
    """And logged in lines of JSON that have the request's id."""
    with sandbox(PREDICTIONS_STREAM_NAME=stream, MODEL_LOCATION=SAMPLE_MODEL) as function:
        assert function.invoke(THREE_RIDES) == {"batchItemFailures": []}
        (done,) = [line for line in function.output().splitlines() if "batch done" in line]
    assert json.loads(done)["message"] == "batch done"
    records = ShardReader(kinesis, stream, "shardId-000000000000").read()
    assert [record["PartitionKey"] for record in records] == NUMBERS


def test_an_output_stream_whose_response_never_ends_is_reported_before_lambda_ends_the_function(
    kinesis: "KinesisClient", endpoint: str, stream: str
) -> None:
    """Its records come again, and the same sandbox delivers them when the stream has recovered."""
    variables = {"PREDICTIONS_STREAM_NAME": stream, "MODEL_LOCATION": SAMPLE_MODEL}
    has_recovered = threading.Event()
    with (
        serve(endpoint, lambda call: None if has_recovered.is_set() else Dripping()) as dripping,
        sandbox(**variables, AWS_ENDPOINT_URL_KINESIS=dripping.url) as function,
    ):
        reported = function.invoke(THREE_RIDES, timeout=4)["batchItemFailures"]
        assert reported[0] == {"itemIdentifier": "1"}
        has_recovered.set()
        assert function.invoke(THREE_RIDES, timeout=PATIENCE) == {"batchItemFailures": []}
    records = ShardReader(kinesis, stream, "shardId-000000000000").read()
    assert [record["PartitionKey"] for record in records] == NUMBERS


@pytest.mark.parametrize(
    ("body", "error"), [("time.sleep(600)", TimedOutError), ("os._exit(3)", CrashedError)], ids=["hang", "crash"]
)
def test_what_ends_a_function_is_told_apart(
    body: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above would not notice a sandbox that waits for ever."""
    (tmp_path / "ending.py").write_text(f"import os, time\ndef handler(event, context):\n    {body}\n")
    with sandbox("ending.handler", PYTHONPATH=str(tmp_path)) as function, pytest.raises(error):
        function.invoke({}, timeout=0.5)
