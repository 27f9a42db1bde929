"""template.yaml: what cfn-lint says of it, what SAM makes of it, and what it is like once moto has deployed it."""

import json
import re
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cfnlint.api import lint_file

from scripts.event_source_mapping import EventSourceMapping
from scripts.lambda_context import LambdaContext
from scripts.shards import ShardReader, shard_ids
from tests.deployment import TEMPLATE, Stack, deploy, expanded
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

RIDE = {"ride": {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}, "ride_id": 256}


def resources_of(template: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the properties of all resources of a type, by their logical names."""
    resources = template["Resources"].items()
    return {name: resource["Properties"] for name, resource in resources if resource["Type"] == kind}


class Deployment:
    """A stack on moto whose consumers are played here."""

    def __init__(
        self, kinesis: "KinesisClient", s3: "S3Client", cold_start: Callable[..., ModuleType], stack: Stack
    ) -> None:
        """Take a stack that is deployed."""
        self.stack = stack
        self._kinesis, self._s3, self._cold_start = kinesis, s3, cold_start

    def consume(self, function: str, *data: bytes, fails: bool = False) -> None:
        """Put records, and let a function's mapping be done with them, and with all that was put before."""
        module = self._cold_start(**{"MODEL_LOCATION": "", **self.stack.variables(function)})

        def invoke(event: dict[str, Any]) -> object:
            if fails:
                raise RuntimeError("as a function does that runs out of memory")
            return module.lambda_handler(event, LambdaContext(60))

        stream, settings = self.stack.outputs["InputStreamName"], self.stack.mappings[f"{function}Rides"]
        with EventSourceMapping(
            self._kinesis, self._s3, stream, invoke, settings, back_off=lambda attempts: 0.01
        ) as mapping:
            for number, item in enumerate(data):
                self._kinesis.put_record(StreamName=stream, PartitionKey=str(number), Data=item)
            assert mapping.wait_for(len(data), PATIENCE)

    def predictions(self, stream: str) -> list[Any]:
        """Return what a stream of predictions holds."""
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
        model = {"ModelBucket": sample_in_s3, "ModelPath": "model", "RunId": "abc"}
        return Deployment(kinesis, s3, cold_start, deploy(**{**model, **parameters}))

    return make


@pytest.fixture
def sample_in_s3(s3: "S3Client", bucket: str) -> str:
    """Upload the sample model and give the bucket's name."""
    for path in (TEMPLATE.parent / "scripts/sample_model/model").iterdir():
        s3.put_object(Bucket=bucket, Key=f"model/{path.name}", Body=path.read_bytes())
    return bucket


def test_cfn_lint_finds_nothing() -> None:
    """Neither errors nor warnings."""
    assert lint_file(TEMPLATE) == []


def test_every_parameter_is_described_and_has_a_default() -> None:
    """But for the release, which must be another one each time."""
    parameters = expanded()["Parameters"]
    assert [name for name, parameter in parameters.items() if not parameter.get("Description")] == []
    assert [name for name, parameter in parameters.items() if "Default" not in parameter] == ["Release"]


def test_a_release_publishes_a_version_that_the_alias_moves_to() -> None:
    """In a canary, which alarms roll back: so a new run goes live as carefully as a new image."""
    versions = [resources_of(expanded(Release=release), "AWS::Lambda::Version") for release in ("1", "2")]
    assert not set(versions[0]) & set(versions[1])
    alias = expanded(Release="2")["Resources"]["ConsumerAliaslive"]
    assert alias["Properties"]["FunctionVersion"] == {"Fn::GetAtt": ["ConsumerVersion2", "Version"]}
    assert "CodeDeployLambdaAliasUpdate" in alias["UpdatePolicy"]
    (group,) = resources_of(expanded(), "AWS::CodeDeploy::DeploymentGroup").values()
    assert group["AutoRollbackConfiguration"]["Enabled"]
    assert {"Ref": "ErrorsAlarm"} in [alarm["Name"] for alarm in group["AlarmConfiguration"]["Alarms"]]


def test_the_mapping_invokes_the_alias() -> None:
    """Not the newest code, which no canary has seen."""
    mappings = resources_of(expanded(), "AWS::Lambda::EventSourceMapping")
    assert {name: properties["FunctionName"] for name, properties in mappings.items()} == {
        "ConsumerRides": {"Ref": "ConsumerAliaslive"},
        "ShadowConsumerRides": {"Ref": "ShadowConsumerAliaslive"},
    }
    assert [properties["MetricsConfig"] for properties in mappings.values()] == [{"Metrics": ["EventCount"]}] * 2


def test_alarms_and_dashboard_watch_metrics_that_the_function_emits(
    deployed: Callable[..., Deployment], capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the very namespace and dimension; an alarm on another name would never be raised."""
    deployment = deployed(ModelName="tip")
    deployment.consume("Consumer", json.dumps(RIDE).encode())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (emitted,) = [line for line in lines if "_aws" in line]
    (directive,) = emitted["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == f"RidePredictions/{deployment.stack.name}"
    assert (directive["Dimensions"], emitted["service"]) == ([["service"]], "tip")

    template = expanded()
    alarms = resources_of(template, "AWS::CloudWatch::Alarm").values()
    ours = [alarm for alarm in alarms if "RidePredictions" in str(alarm.get("Namespace"))]
    assert [alarm["Namespace"] for alarm in ours] == [{"Fn::Sub": "RidePredictions/${AWS::StackName}"}] * 2
    assert [alarm["Dimensions"] for alarm in ours] == [[{"Name": "service", "Value": {"Ref": "ModelName"}}]] * 2

    body = boto3.client("cloudwatch").get_dashboard(DashboardName=deployment.stack.name)["DashboardBody"]
    metrics = [metric for widget in json.loads(body)["widgets"] for metric in widget["properties"]["metrics"]]
    shown = {metric[1] for metric in metrics if metric[:1] == [directive["Namespace"]]}
    assert {tuple(metric[2:4]) for metric in metrics if metric[0] == directive["Namespace"]} == {("service", "tip")}
    names = {metric["Name"] for metric in directive["Metrics"]}
    of_rejections = {name for name in shown if re.fullmatch("Rejections[A-Z].*", name)}
    assert shown - of_rejections <= names
    assert {alarm["MetricName"] for alarm in ours} <= names


def test_a_ride_becomes_a_prediction_and_a_bad_one_a_rejection(deployed: Callable[..., Deployment]) -> None:
    """With the mapping and the variables as they were deployed."""
    deployment = deployed()
    deployment.consume("Consumer", json.dumps(RIDE).encode(), b"no ride")
    (prediction,) = deployment.predictions(deployment.stack.outputs["PredictionsStreamName"])
    assert prediction["prediction"]["ride_id"] == 256
    assert (prediction["model"], prediction["version"]) == ("ride_duration_prediction_model", "abc")
    assert deployment.failures() == [f"rejections/{deployment.stack.outputs['InputStreamName']}"]


def test_what_the_mapping_gives_up_lies_where_replay_looks(deployed: Callable[..., Deployment]) -> None:
    """After as many retries as the parameter says."""
    deployment = deployed(RetryAttempts="1")
    assert deployment.stack.mappings["ConsumerRides"].maximum_retry_attempts == 1
    deployment.consume("Consumer", json.dumps(RIDE).encode(), fails=True)
    assert deployment.failures() == ["aws/lambda"]


def test_the_mapping_is_as_the_parameters_say(deployed: Callable[..., Deployment]) -> None:
    """Each of them; and it always bisects, reports item failures, and begins with the oldest ride."""
    parameters = {
        "BatchSize": "7",
        "BatchingWindowSeconds": "3",
        "ParallelizationFactor": "2",
        "RetryAttempts": "5",
        "RecordAgeSeconds": "600",
    }
    stack = deployed(**parameters).stack
    settings = stack.mappings["ConsumerRides"]
    assert (settings.batch_size, settings.batching_window, settings.parallelization_factor) == (7, 3, 2)
    assert (settings.maximum_retry_attempts, settings.maximum_record_age) == (5, 600)
    assert settings.on_failure == f"s3://{stack.resources['FailuresBucket']}"
    assert settings.bisect_on_error
    assert settings.report_batch_item_failures
    assert settings.starting_position == "TRIM_HORIZON"


def test_a_shadow_consumer_touches_nothing_of_the_other(deployed: Callable[..., Deployment]) -> None:
    """It writes predictions to a stream of its own, rejections to a place that replay does not read, and no more."""
    deployment = deployed(ShadowModelPath="model", ShadowRunId="challenger")
    deployment.consume("ShadowConsumer", json.dumps(RIDE).encode(), b"no ride")
    outputs = deployment.stack.outputs
    (prediction,) = deployment.predictions(outputs["ShadowPredictionsStreamName"])
    assert prediction["version"] == "challenger"
    assert deployment.predictions(outputs["PredictionsStreamName"]) == []
    assert deployment.failures() == ["shadow/rejections"]
    assert deployment.stack.mappings["ShadowConsumerRides"].on_failure is None


def test_without_a_shadow_model_there_is_no_shadow_consumer(deployed: Callable[..., Deployment]) -> None:
    """Nor anything that belongs to one."""
    assert [name for name in deployed().stack.resources if "Shadow" in name and not name.endswith("Version1")] == []


def test_a_second_consumer_reads_the_same_rides(deployed: Callable[..., Deployment]) -> None:
    """Of an input stream that another stack has created: this one creates none."""
    first = deployed().stack
    second = deployed(InputStreamArn=first.outputs["InputStreamArn"], ModelName="tip")
    assert "InputStream" not in second.stack.resources
    assert second.stack.outputs["InputStreamName"] == first.outputs["InputStreamName"]
    second.consume("Consumer", json.dumps(RIDE).encode())
    (prediction,) = second.predictions(second.stack.outputs["PredictionsStreamName"])
    assert prediction["model"] == "tip"


def test_streams_have_the_shards_and_the_retention_that_were_asked_for(
    deployed: Callable[..., Deployment], kinesis: "KinesisClient"
) -> None:
    """Where they are not left to Kinesis."""
    stack = deployed(ShardCount="3", RetentionHours="48").stack
    name = stack.outputs["PredictionsStreamName"]
    stream = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    assert (stream["OpenShardCount"], stream["RetentionPeriodHours"]) == (3, 48)


def test_the_failures_bucket_is_private_versioned_and_encrypted() -> None:
    """And reached over TLS alone; this much of a bucket moto does not take from CloudFormation."""
    (bucket,) = resources_of(expanded(), "AWS::S3::Bucket").values()
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    (policy,) = resources_of(expanded(), "AWS::S3::BucketPolicy").values()
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
