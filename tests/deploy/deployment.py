"""template.yaml as SAM expands it, deployed onto moto's server."""

import ast
import copy
import functools
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from scripts.localaws.rules import MappingSettings
from tests.deploy.cloudformation import Evaluation

TEMPLATE = Path(__file__).parents[2] / "template.yaml"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/ride-duration:latest"
"""The image's URI, which ``sam build`` and ``sam deploy`` set after they have built and pushed the image."""
LEAST = {"ModelBucket": "models", "RunId": "abc"}
"""Parameters that are enough, besides Release: all others have defaults."""
UNUSUAL = {
    "Release": "42",
    "InputStreamName": "in",
    "PredictionsStreamName": "out",
    "ShardCount": "3",
    "RetentionHours": "49",
    "ModelBucket": "models",
    "ModelPath": "some/model",
    "PreviousModelPath": "its/predecessor",
    "ExperimentId": "17",
    "ModelSha256": "a" * 64,
    "ModelName": "tip",
    "PredictionField": "tip_amount",
    "TimeZone": "Asia/Kolkata",
    "ShadowModelPath": "its/challenger",
    "ShadowModelSha256": "b" * 64,
    "Architecture": "x86_64",
    "MemorySize": "2050",
    "Timeout": "70",
    "ReservedConcurrency": "11",
    "LogLevel": "ERROR",
    "LogRetentionDays": "14",
    "DeploymentType": "Canary10Percent30Minutes",
    "BatchSize": "71",
    "BatchingWindowSeconds": "5",
    "ParallelizationFactor": "4",
    "RetryAttempts": "6",
    "RecordAgeSeconds": "6100",
    "FailuresRetentionDays": "91",
    "InputKeyArn": "arn:aws:kms:us-east-1:123456789012:key/input",
    "OutputKeyArn": "arn:aws:kms:us-east-1:123456789012:key/output",
    "FailuresKeyArn": "arn:aws:kms:us-east-1:123456789012:key/failures",
    "ModelKeyArn": "arn:aws:kms:us-east-1:123456789012:key/model",
    "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
    "RejectionsPercent": "8",
}
"""Values for all parameters that can be set together. No value is a default, and each is unlike all others."""
NOT_IN_MOTO = {
    "AWS::CloudWatch::Alarm": "moto's CloudFormation does not know it",
    "AWS::CodeDeploy::Application": "a canary needs invocations, which moto cannot make of an image",
    "AWS::CodeDeploy::DeploymentGroup": "as above",
    "AWS::Lambda::Alias": "moto's CloudFormation does not know it; the mapping is put on the function itself",
    "AWS::S3::BucketPolicy": "moto's CloudFormation does not know it",
}
"""The types of resources that are left out on moto, with the reason."""


class ManagedPolicies:
    """The names of AWS's managed policies, for which SAM would ask IAM."""

    def load(self) -> dict[str, str]:
        """Return the only policy that is used: SAM attaches it to CodeDeploy's role."""
        name = "AWSCodeDeployRoleForLambda"
        return {name: f"arn:aws:iam::aws:policy/service-role/{name}"}


@dataclass(frozen=True)
class Stack:
    """A deployed stack."""

    outputs: dict[str, str]
    resources: dict[str, str]
    """The physical ids of the resources, by logical name."""
    mappings: dict[str, MappingSettings]
    """The settings of the event source mappings, by logical name."""
    name: str

    def variables(self, function: str) -> dict[str, str]:
        """Return the environment variables of a function."""
        configuration = boto3.client("lambda").get_function_configuration(FunctionName=self.resources[function])
        return dict(configuration["Environment"]["Variables"])

    def policy(self, role: str) -> list[dict[str, Any]]:
        """Return the statements of all policies of a role."""
        iam, name = boto3.client("iam"), self.resources[role]
        assert not iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        policies = iam.list_role_policies(RoleName=name)["PolicyNames"]
        texts = [str(iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]) for policy in policies]
        # moto returns a document in Python's notation, with None in the place of AWS::NoValue.
        statements = [statement for text in texts for statement in ast.literal_eval(text)["Statement"]]
        return [statement for statement in statements if statement is not None]


@functools.cache
def parsed() -> dict[str, Any]:
    """Return the template as it is written. It is read once, because reading takes longer than all other steps."""
    template: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return template


def expanded(**parameters: str) -> dict[str, Any]:
    """Return the template that CloudFormation gets from the SAM transform."""
    template = copy.deepcopy(parsed())
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["ImageUri"] = IMAGE
    result: dict[str, Any] = transform(template, {"Release": "1", **parameters}, ManagedPolicies())
    return result


def evaluated(**parameters: str) -> Evaluation:
    """Return the evaluation of the template with these parameters, and defaults for the others."""
    values = {"Release": "1", **parameters}
    return Evaluation(expanded(**values), values)


def resources_of(kind: str, **parameters: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of a type that are created with these parameters, by logical name."""
    resources = evaluated(**parameters).resources().items()
    return {name: resource["Properties"] for name, resource in resources if resource["Type"] == kind}


def deploy(**parameters: str) -> Stack:
    """Deploy the resources that moto can play, with streams of the stack's own, and return the stack."""
    name = f"stack-{uuid.uuid4().hex[:12]}"
    streams = {"InputStreamName": f"{name}-in", "PredictionsStreamName": f"{name}-out"}
    values = {"Release": "1", **streams, **parameters}
    assert evaluated(**values).broken_rules() == []
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(playable(expanded(**values))),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack.get("StackStatusReason")
    found = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    # moto also lists the resources whose condition does not hold, but without an id.
    resources = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found if "PhysicalResourceId" in one}
    mappings = {name: read_mapping(resources[name]) for name in resources if name.endswith("Rides")}
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    renew(outputs["InputStreamName"])
    return Stack(outputs, resources, mappings, name)


def read_mapping(identifier: str) -> MappingSettings:
    """Return the settings of an event source mapping."""
    found = boto3.client("lambda").get_event_source_mapping(UUID=identifier)
    destination = found.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    return MappingSettings(
        batch_size=found["BatchSize"],
        batching_window=found["MaximumBatchingWindowInSeconds"],
        bisect_on_error=found["BisectBatchOnFunctionError"],
        maximum_retry_attempts=found["MaximumRetryAttempts"],
        maximum_record_age=found["MaximumRecordAgeInSeconds"],
        report_batch_item_failures=found["FunctionResponseTypes"] == ["ReportBatchItemFailures"],
        on_failure=destination and destination.replace("arn:aws:s3:::", "s3://"),
    )


def renew(stream: str) -> None:
    """Create the stream again: at each put to the deployed one, moto would try to run the image, and fail."""
    client = boto3.client("kinesis")
    shards = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["OpenShardCount"]
    client.delete_stream(StreamName=stream)
    client.create_stream(StreamName=stream, ShardCount=shards)


def playable(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template with the resources that moto can play. Mappings invoke functions in place of aliases."""
    resources = template["Resources"]
    functions = {
        name: resource["Properties"]["FunctionName"]
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Lambda::Alias"
    }
    kept = {name: resource for name, resource in resources.items() if resource["Type"] not in NOT_IN_MOTO}
    for resource in kept.values():
        if resource["Type"] == "AWS::Lambda::EventSourceMapping":
            resource["Properties"]["FunctionName"] = functions[resource["Properties"]["FunctionName"]["Ref"]]
    return {**template, "Resources": kept}
