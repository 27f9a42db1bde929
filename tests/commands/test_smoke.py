"""The smoke test of a deployed stack, on moto and the local event source mapping."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from scripts.localaws.mapping import EventSourceMapping
from tests.conftest import SAMPLE_MODEL
from tests.deploy.deployment import Stack, deploy
from tests.tools import failed, finish

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def deployed(
    kinesis: "KinesisClient", s3: "S3Client", bucket: str, cold_start: Callable[..., ModuleType]
) -> Iterator[tuple[Stack, EventSourceMapping]]:
    """Deploy a consumer with a model in a bucket, and run its mapping."""
    for path in Path(SAMPLE_MODEL).iterdir():
        s3.upload_file(str(path), bucket, f"1/abc/artifacts/model/{path.name}")
    stack = deploy(ShardCount="2", ModelBucket=bucket, RunId="abc", PredictionField="tip_amount")
    handler = cold_start(**{"MODEL_LOCATION": "", **stack.variables("Consumer")}).lambda_handler
    stream, settings = stack.outputs["InputStreamName"], stack.mappings["ConsumerRides"]
    with EventSourceMapping(kinesis, s3, stream, lambda event: handler(event, None), settings) as mapping:
        yield stack, mapping


def test_a_ride_is_predicted_by_the_stacks_model(deployed: tuple[Stack, EventSourceMapping]) -> None:
    """The output is one line with the prediction, its tags and the latency."""
    done = finish("smoke-test", "--stack", deployed[0].name)
    assert done.returncode == 0, done.stderr
    line = r"(\S+) [\d.]+ of smoke-test-[-0-9a-f]+ by (\S+) (\S+) after [\d.]+ s\n"
    found = re.fullmatch(line, done.stdout)
    assert found
    assert found.groups() == ("tip_amount", "ride_duration_prediction_model", "abc")


def test_another_models_prediction_fails(deployed: tuple[Stack, EventSourceMapping]) -> None:
    """The error names both versions, or both models, in one line."""
    outputs = deployed[0].outputs
    streams = ("--input", outputs["InputStreamName"], "--output", outputs["PredictionsStreamName"])
    for option, expected, found in (("version", "xyz", "abc"), ("model", "tip", "ride_duration_prediction_model")):
        line = failed(finish("smoke-test", *streams, f"--{option}", expected))
        assert line == f"smoke-test: the prediction is of the {option} {found}, not {expected}"


def test_a_ride_that_nobody_predicts_fails(kinesis: "KinesisClient", stream: str) -> None:
    """The command waits for the given time."""
    line = failed(finish("smoke-test", "--input", stream, "--output", stream, "--timeout", "0.5"))
    assert "no prediction of smoke-test-" in line
    assert f"came to {stream} in 0.5 seconds" in line


def test_a_stack_that_is_not_there_fails(endpoint: str) -> None:
    """The error says in one line what to do."""
    assert "there is no stack nowhere in this account" in failed(finish("smoke-test", "--stack", "nowhere"))


def test_a_stream_that_is_not_there_fails(stream: str) -> None:
    """The missing stream may be the input or the output."""
    for arguments in (("--input", "nowhere", "--output", stream), ("--input", stream, "--output", "nowhere")):
        line = failed(finish("smoke-test", *arguments))
        assert "there is no stream" in line
        assert "nowhere" in line
        assert line.endswith("name both with --input and --output, or --stack")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--stack", "a", "--input", "b"), "--stack says what --input would: give one of them"),
        (("--version", "v", "--stack", "a"), "--stack says what --version would: give one of them"),
        (("--version", ""), "argument --version: it is empty: leave the option out, or say which"),
        (("--stack", ""), "argument --stack: it is empty: leave the option out, or say which"),
    ],
    ids=["stack and stream", "version and stack", "empty version", "empty stack"],
)
def test_what_contradicts_itself_or_says_nothing_is_refused(arguments: tuple[str, ...], complaint: str) -> None:
    """The command puts no ride."""
    done = finish("smoke-test", *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith(f"smoke-test: error: {complaint}\n")
