"""template.yaml deployed onto moto: rides go through consumers with the deployed variables and mappings."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.sandbox import LambdaContext
from tests.deploy.deployment import TEMPLATE, Stack, deploy
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

RIDE = {"ride": {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}, "ride_id": 256}
RUN_ID = "a74aaab7ca9e444ca8fc468eb4bd20e7"
"""The run that logged the sample model."""


class Deployment:
    """A stack on moto whose consumers run in this process."""

    def __init__(
        self, kinesis: "KinesisClient", s3: "S3Client", cold_start: Callable[..., ModuleType], stack: Stack
    ) -> None:
        """Take a deployed stack."""
        self.stack = stack
        self._kinesis, self._s3, self._cold_start = kinesis, s3, cold_start

    def consume(self, function: str, *data: bytes, fails: bool = False) -> None:
        """Put records, and wait until the function's mapping is done with them and with all earlier ones."""
        module = self._cold_start(**{"MODEL_LOCATION": "", **self.stack.variables(function)})

        def invoke(event: dict[str, Any]) -> object:
            if fails:
                raise RuntimeError("the function ran out of memory")
            return module.lambda_handler(event, LambdaContext(60))

        stream, settings = self.stack.outputs["InputStreamName"], self.stack.mappings[f"{function}Rides"]
        with EventSourceMapping(
            self._kinesis, self._s3, stream, invoke, settings, back_off=lambda attempts: 0.01
        ) as mapping:
            for number, item in enumerate(data):
                self._kinesis.put_record(StreamName=stream, PartitionKey=str(number), Data=item)
            assert mapping.wait_for(len(data), PATIENCE)

    def predictions(self, stream: str) -> list[Any]:
        """Return the predictions on a stream."""
        readers = [ShardReader(self._kinesis, stream, shard_id) for shard_id in shard_ids(self._kinesis, stream)]
        return [json.loads(record["Data"]) for reader in readers for record in reader.read()]

    def failures(self) -> list[str]:
        """Return the first two parts of each key in the failures bucket."""
        found = self._s3.list_objects_v2(Bucket=self.stack.resources["FailuresBucket"]).get("Contents", [])
        return ["/".join(entry["Key"].split("/")[:2]) for entry in found]


@pytest.fixture
def deployed(
    kinesis: "KinesisClient", s3: "S3Client", cold_start: Callable[..., ModuleType], sample_in_s3: str
) -> Callable[..., Deployment]:
    """Give a function that deploys the template, with the sample model."""

    def make(**parameters: str) -> Deployment:
        stack = deploy(ModelBucket=sample_in_s3, ModelPath="model", **parameters)
        return Deployment(kinesis, s3, cold_start, stack)

    return make


@pytest.fixture
def sample_in_s3(s3: "S3Client", bucket: str) -> str:
    """Upload the sample model and give the bucket's name."""
    for path in (TEMPLATE.parent / "scripts/sample_model/model").iterdir():
        s3.put_object(Bucket=bucket, Key=f"model/{path.name}", Body=path.read_bytes())
    return bucket


def test_a_ride_becomes_a_prediction_and_a_bad_one_a_rejection(deployed: Callable[..., Deployment]) -> None:
    """The mapping and the variables are the deployed ones."""
    deployment = deployed()
    deployment.consume("Consumer", json.dumps(RIDE).encode(), b"no ride")
    (prediction,) = deployment.predictions(deployment.stack.outputs["PredictionsStreamName"])
    assert prediction["prediction"]["ride_id"] == 256
    assert (prediction["model"], prediction["version"]) == ("ride_duration_prediction_model", RUN_ID)
    assert deployment.failures() == [f"rejections/{deployment.stack.outputs['InputStreamName']}"]


def test_a_discarded_batch_is_stored_where_replay_looks(deployed: Callable[..., Deployment]) -> None:
    """The mapping discards the batch after as many retries as the parameter says."""
    deployment = deployed(RetryAttempts="1")
    assert deployment.stack.mappings["ConsumerRides"].maximum_retry_attempts == 1
    deployment.consume("Consumer", json.dumps(RIDE).encode(), fails=True)
    assert deployment.failures() == ["aws/lambda"]


def test_a_shadow_consumer_does_not_affect_the_live_one(deployed: Callable[..., Deployment]) -> None:
    """It has its own stream of predictions and its own rejections, which replay does not read, and no destination."""
    deployment = deployed(ShadowModelPath="model")
    deployment.consume("ShadowConsumer", json.dumps(RIDE).encode(), b"no ride")
    outputs = deployment.stack.outputs
    (prediction,) = deployment.predictions(outputs["ShadowPredictionsStreamName"])
    assert prediction["version"] == RUN_ID
    assert deployment.predictions(outputs["PredictionsStreamName"]) == []
    assert deployment.failures() == ["shadow/rejections"]
    assert deployment.stack.mappings["ShadowConsumerRides"].on_failure is None


def test_a_second_consumer_reads_the_same_rides(deployed: Callable[..., Deployment]) -> None:
    """Another stack has created the input stream, and this stack creates none."""
    first = deployed().stack
    second = deployed(InputStreamArn=first.outputs["InputStreamArn"], ModelName="tip")
    assert "InputStream" not in second.stack.resources
    assert second.stack.outputs["InputStreamName"] == first.outputs["InputStreamName"]
    second.consume("Consumer", json.dumps(RIDE).encode())
    (prediction,) = second.predictions(second.stack.outputs["PredictionsStreamName"])
    assert prediction["model"] == "tip"


def test_streams_have_the_given_shards_and_retention(
    deployed: Callable[..., Deployment], kinesis: "KinesisClient"
) -> None:
    """Without these parameters a stream is on demand and keeps records for a day."""
    stack = deployed(ShardCount="3", RetentionHours="48").stack
    name = stack.outputs["PredictionsStreamName"]
    stream = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    assert (stream["OpenShardCount"], stream["RetentionPeriodHours"]) == (3, 48)
