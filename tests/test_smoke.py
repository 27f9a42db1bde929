"""The smoke test of what was deployed, against a stack on moto and the mapping played here; and the deploy command."""

import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from scripts.event_source_mapping import EventSourceMapping
from tests.deployment import Stack, deploy
from tests.tools import failed, finish

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def deployed(
    kinesis: "KinesisClient", s3: "S3Client", cold_start: Callable[..., ModuleType]
) -> Iterator[tuple[Stack, EventSourceMapping]]:
    """Deploy a consumer, and let it work."""
    stack = deploy(ShardCount="2", RunId="abc", PredictionField="tip_amount")
    handler = cold_start(**stack.variables("Consumer")).lambda_handler
    stream, settings = stack.outputs["InputStreamName"], stack.mappings["ConsumerRides"]
    with EventSourceMapping(kinesis, s3, stream, lambda event: handler(event, None), settings) as mapping:
        yield stack, mapping


def test_a_ride_is_predicted_by_the_stacks_model(deployed: tuple[Stack, EventSourceMapping]) -> None:
    """One line says the number, the tag and the latency."""
    done = finish("smoke-test", "--stack", deployed[0].name)
    assert done.returncode == 0, done.stderr
    line = r"(\S+) [\d.]+ of smoke-test-[-0-9a-f]+ by (\S+) (\S+) after [\d.]+ s\n"
    found = re.fullmatch(line, done.stdout)
    assert found
    assert found.groups() == ("tip_amount", "ride_duration_prediction_model", "abc")


def test_another_models_prediction_fails(deployed: tuple[Stack, EventSourceMapping]) -> None:
    """With both names, in one line."""
    outputs = deployed[0].outputs
    streams = ("--input", outputs["InputStreamName"], "--output", outputs["PredictionsStreamName"])
    for option, expected, found in (("version", "xyz", "abc"), ("model", "tip", "ride_duration_prediction_model")):
        line = failed(finish("smoke-test", *streams, f"--{option}", expected))
        assert line == f"smoke-test: the prediction is of the {option} {found}, not {expected}"


def test_a_ride_that_nobody_predicts_fails(kinesis: "KinesisClient", stream: str) -> None:
    """After the time that was given."""
    line = failed(finish("smoke-test", "--input", stream, "--output", stream, "--timeout", "0.5"))
    assert "no prediction of smoke-test-" in line
    assert f"came to {stream} in 0.5 seconds" in line


def test_a_stack_that_is_not_there_fails(endpoint: str) -> None:
    """With what CloudFormation says, in one line."""
    assert "nowhere" in failed(finish("smoke-test", "--stack", "nowhere"))
