"""template.yaml: the findings of cfn-lint, and the resources that SAM and CloudFormation create.

The parameters have unusual values here, each unlike all others, so that a value shows its parameter.
"""

from typing import Any

import pytest
from cfnlint.api import lint_file

from tests.deploy.deployment import IMAGE, LEAST, TEMPLATE, UNUSUAL, evaluated, resources_of

KEPT = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
"""The policies of resources that hold data: they outlive their stack, unless creating the stack failed."""
MODEL_VARIABLES = ("MODEL_LOCATION", "MODEL_BUCKET", "MLFLOW_EXPERIMENT_ID", "RUN_ID", "MODEL_SHA256")


def test_cfn_lint_finds_nothing() -> None:
    """It reports neither errors nor warnings."""
    assert lint_file(TEMPLATE) == []


def test_the_functions_have_the_values_of_the_parameters() -> None:
    """The shadow consumer differs in its model, in the places that it writes to, and in its role and log."""
    variables = {
        "LOG_LEVEL": "ERROR",
        "MODEL_NAME": "tip",
        "PREDICTION_FIELD": "tip_amount",
        "TIME_ZONE": "Asia/Kolkata",
        "PREDICTIONS_STREAM_NAME": "<PredictionsStream>",
        "FAILURES_LOCATION": "s3://<FailuresBucket>/rejections",
        "MODEL_LOCATION": "s3://models/some/model",
        "RUN_ID": "",
        "MODEL_SHA256": "a" * 64,
        "POWERTOOLS_METRICS_NAMESPACE": "RidePredictions/my-stack",
    }
    consumer = {
        "PackageType": "Image",
        "Code": {"ImageUri": IMAGE},
        "Description": "42",  # SAM's way to make the release part of the version
        "Tags": [{"Key": "lambda:createdBy", "Value": "SAM"}],
        "Role": "<ConsumerRole.Arn>",
        "Architectures": ["x86_64"],
        "MemorySize": 2050,
        "Timeout": 70,
        "ReservedConcurrentExecutions": 11,
        "LoggingConfig": {"LogGroup": "<ConsumerLogs>"},
        "Environment": {"Variables": variables},
    }
    shadow_variables = {
        **variables,
        "PREDICTIONS_STREAM_NAME": "<ShadowPredictionsStream>",
        "FAILURES_LOCATION": "s3://<FailuresBucket>/shadow/rejections",
        "MODEL_LOCATION": "s3://models/its/challenger",
        "MODEL_SHA256": "b" * 64,
        "POWERTOOLS_METRICS_NAMESPACE": "RidePredictions/my-stack/shadow",
    }
    shadow = {
        **{name: value for name, value in consumer.items() if name != "ReservedConcurrentExecutions"},
        "Role": "<ShadowRole.Arn>",
        "LoggingConfig": {"LogGroup": "<ShadowLogs>"},
        "Environment": {"Variables": shadow_variables},
    }
    assert resources_of("AWS::Lambda::Function", **UNUSUAL) == {"Consumer": consumer, "ShadowConsumer": shadow}
    assert "ReservedConcurrentExecutions" not in resources_of("AWS::Lambda::Function", **LEAST)["Consumer"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"ModelBucket": "models", "RunId": "abc", "ExperimentId": "17", "ShadowRunId": "def"},
            {
                "Consumer": {"MODEL_BUCKET": "models", "MLFLOW_EXPERIMENT_ID": "17", "RUN_ID": "abc"},
                "ShadowConsumer": {"MODEL_BUCKET": "models", "MLFLOW_EXPERIMENT_ID": "17", "RUN_ID": "def"},
            },
        ),
        (
            {"ModelBucket": "models", "ModelPath": "a/model", "ShadowModelPath": "b/model"},
            {
                "Consumer": {"MODEL_LOCATION": "s3://models/a/model"},
                "ShadowConsumer": {"MODEL_LOCATION": "s3://models/b/model"},
            },
        ),
        ({"ImageModel": "folder"}, {"Consumer": {}}),
    ],
    ids=["by their runs", "in their places", "in the image, which names it itself"],
)
def test_functions_have_the_variables_of_their_models(parameters: dict[str, str], expected: dict[str, Any]) -> None:
    """A function gets the variables for its model's place, and no others."""
    functions = resources_of("AWS::Lambda::Function", **parameters).items()
    variables = {name: properties["Environment"]["Variables"] for name, properties in functions}
    found = {name: {key: of[key] for key in MODEL_VARIABLES if of.get(key)} for name, of in variables.items()}
    assert found == expected


def test_the_image_is_built_with_the_given_model_and_packages() -> None:
    """It is built from the project's own Dockerfile, and both consumers use it.

    Without the target, the SAM CLI, which does not use BuildKit by default, would also build the web service's image.
    """
    resources = evaluated(ImageModel="my/model", ImagePackages="packages training").resources()
    assert resources["Consumer"]["Metadata"] == {
        "Dockerfile": "Dockerfile",
        "DockerContext": ".",
        "DockerTag": "latest",
        "DockerBuildTarget": "lambda",
        "DockerBuildArgs": {"CATEGORIES": "packages training", "MODEL": "my/model"},
    }
    both = evaluated(**UNUSUAL).resources()
    assert both["ShadowConsumer"]["Metadata"] == both["Consumer"]["Metadata"]


def test_the_mappings_have_the_values_of_the_parameters() -> None:
    """They invoke the alias, because no canary has tried the newest code. The shadow's mapping has no destination."""
    consumer = {
        "EventSourceArn": "<InputStream.Arn>",
        "FunctionName": "<ConsumerAliaslive>",
        "StartingPosition": "TRIM_HORIZON",
        "BatchSize": 71,
        "MaximumBatchingWindowInSeconds": 5,
        "ParallelizationFactor": 4,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "BisectBatchOnFunctionError": True,
        "MaximumRetryAttempts": 6,
        "MaximumRecordAgeInSeconds": 6100,
        "DestinationConfig": {"OnFailure": {"Destination": "<FailuresBucket.Arn>"}},
        "MetricsConfig": {"Metrics": ["EventCount"]},
    }
    shadow = {
        **{name: value for name, value in consumer.items() if name != "DestinationConfig"},
        "FunctionName": "<ShadowConsumerAliaslive>",
        "StartingPosition": "LATEST",
    }
    mappings = resources_of("AWS::Lambda::EventSourceMapping", **UNUSUAL)
    assert mappings == {"ConsumerRides": consumer, "ShadowConsumerRides": shadow}


def test_a_given_input_stream_is_read_and_not_created() -> None:
    """Both consumers read it, and the outputs have its name."""
    arn = "arn:aws:kinesis:us-east-1:123456789012:stream/theirs"
    evaluation = evaluated(**UNUSUAL, InputStreamArn=arn)
    resources = evaluation.resources()
    assert "InputStream" not in resources
    assert {resources[name]["Properties"]["EventSourceArn"] for name in ("ConsumerRides", "ShadowConsumerRides")} == {
        arn
    }
    assert (evaluation.outputs()["InputStreamName"], evaluation.outputs()["InputStreamArn"]) == ("theirs", arn)


def test_a_release_publishes_a_version_that_the_alias_moves_to() -> None:
    """It moves in a canary, so a new run goes live as carefully as a new image. The challenger's moves at once."""
    assert not set(resources_of("AWS::Lambda::Version", **LEAST, Release="1")) & set(
        resources_of("AWS::Lambda::Version", **LEAST, Release="2")
    )
    resources = evaluated(**{**UNUSUAL, "Release": "2"}).resources()
    aliases = {name: resource for name, resource in resources.items() if resource["Type"] == "AWS::Lambda::Alias"}
    canary = {
        "CodeDeployLambdaAliasUpdate": {
            "ApplicationName": "<ServerlessDeploymentApplication>",
            "DeploymentGroupName": "<ConsumerDeploymentGroup>",
        }
    }
    assert aliases == {
        "ConsumerAliaslive": {
            "Type": "AWS::Lambda::Alias",
            "UpdatePolicy": canary,
            "Properties": {
                "Name": "live",
                "FunctionName": "<Consumer>",
                "FunctionVersion": "<ConsumerVersion2.Version>",
            },
        },
        "ShadowConsumerAliaslive": {
            "Type": "AWS::Lambda::Alias",
            "Properties": {
                "Name": "live",
                "FunctionName": "<ShadowConsumer>",
                "FunctionVersion": "<ShadowConsumerVersion2.Version>",
            },
        },
    }


def test_a_canary_has_the_type_of_the_parameter() -> None:
    """It is rolled back if it fails or if an alarm is raised."""
    group = resources_of("AWS::CodeDeploy::DeploymentGroup", **UNUSUAL)["ConsumerDeploymentGroup"]
    assert group["DeploymentConfigName"] == "CodeDeployDefault.LambdaCanary10Percent30Minutes"
    assert group["AutoRollbackConfiguration"]["Enabled"]
    assert {"DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM"} <= set(group["AutoRollbackConfiguration"]["Events"])


def test_the_streams_have_the_values_of_the_parameters() -> None:
    """They are encrypted. The challenger's stream is deleted with the stack, because no reader depends on it."""
    size = {"RetentionPeriodHours": 49, "StreamModeDetails": {"StreamMode": "PROVISIONED"}, "ShardCount": 3}
    mine = {**size, "StreamEncryption": {"EncryptionType": "KMS", "KeyId": UNUSUAL["InputKeyArn"]}}
    theirs = {**size, "StreamEncryption": {"EncryptionType": "KMS", "KeyId": UNUSUAL["OutputKeyArn"]}}
    stream = "AWS::Kinesis::Stream"
    resources = evaluated(**UNUSUAL).resources().items()
    assert {name: resource for name, resource in resources if resource["Type"] == stream} == {
        "InputStream": {"Type": stream, **KEPT, "Properties": {"Name": "in", **mine}},
        "PredictionsStream": {"Type": stream, **KEPT, "Properties": {"Name": "out", **theirs}},
        "ShadowPredictionsStream": {
            "Type": stream,
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": {"Name": "<PredictionsStream>-shadow", **theirs},
        },
    }


def test_streams_are_on_demand_and_encrypted_by_default() -> None:
    """The key is AWS's own. Their names begin with the stack's name, so that they never collide with another stack's.

    Without a key of their own, the roles need no permission: the policy of AWS's key allows what Kinesis does for them.
    """
    on_demand = {
        "RetentionPeriodHours": 24,
        "StreamModeDetails": {"StreamMode": "ON_DEMAND"},
        "StreamEncryption": {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"},
    }
    assert resources_of("AWS::Kinesis::Stream", **LEAST) == {
        "InputStream": {"Name": "my-stack-rides", **on_demand},
        "PredictionsStream": {"Name": "my-stack-predictions", **on_demand},
    }
    challenger = resources_of("AWS::Kinesis::Stream", **LEAST, ShadowRunId="def")["ShadowPredictionsStream"]
    assert challenger == {"Name": "<PredictionsStream>-shadow", **on_demand}


@pytest.mark.parametrize(
    ("parameters", "days", "encryption"),
    [
        (
            UNUSUAL,
            91,
            {
                "BucketKeyEnabled": True,
                "ServerSideEncryptionByDefault": {
                    "SSEAlgorithm": "aws:kms",
                    "KMSMasterKeyID": UNUSUAL["FailuresKeyArn"],
                },
            },
        ),
        (LEAST, 90, {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}),
    ],
    ids=["with a key", "without a key"],
)
def test_the_failures_bucket_is_private_versioned_encrypted_and_emptied(
    parameters: dict[str, str], days: int, encryption: dict[str, Any]
) -> None:
    """Only the account can get access, and the bucket outlives the stack. The days count once, not per version."""
    bucket = evaluated(**parameters).resources()["FailuresBucket"]
    expiry = {
        "Id": "Expire",
        "Status": "Enabled",
        "ExpirationInDays": days,
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    private = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    assert bucket == {
        "Type": "AWS::S3::Bucket",
        **KEPT,
        "Properties": {
            "BucketEncryption": {"ServerSideEncryptionConfiguration": [encryption]},
            "LifecycleConfiguration": {"Rules": [expiry]},
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "PublicAccessBlockConfiguration": dict.fromkeys(private, True),
            "VersioningConfiguration": {"Status": "Enabled"},
        },
    }


def test_the_failures_bucket_is_reached_over_tls_alone() -> None:
    """Any request without TLS is denied, whoever makes it. The bucket outlives the stack, and its policy with it."""
    statement = {
        "Sid": "OnlyOverTLS",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": ["<FailuresBucket.Arn>", "<FailuresBucket.Arn>/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    assert evaluated(**LEAST).resources()["FailuresBucketPolicy"] == {
        "Type": "AWS::S3::BucketPolicy",
        **KEPT,
        "Properties": {
            "Bucket": "<FailuresBucket>",
            "PolicyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        },
    }


def test_logs_are_kept_as_long_as_the_parameter_says() -> None:
    """It is the same for both functions."""
    logs = {"RetentionInDays": 14}
    assert resources_of("AWS::Logs::LogGroup", **UNUSUAL) == {"ConsumerLogs": logs, "ShadowLogs": logs}


def test_outputs_name_what_people_and_scripts_need() -> None:
    """ModelVersion is a dash if only the function itself finds out which run it has loaded."""
    always = {
        "InputStreamName": "<InputStream>",
        "InputStreamArn": "<InputStream.Arn>",
        "PredictionsStreamName": "<PredictionsStream>",
        "FailuresLocation": "s3://<FailuresBucket>/rejections",
        "FunctionName": "<Consumer>",
    }
    assert evaluated(**UNUSUAL).outputs() == {
        **always,
        "ModelName": "tip",
        "ModelVersion": "-",
        "ShadowPredictionsStreamName": "<ShadowPredictionsStream>",
        "ShadowFunctionName": "<ShadowConsumer>",
    }
    assert evaluated(ModelBucket="models", RunId="abc").outputs() == {
        **always,
        "ModelName": "ride_duration_prediction_model",
        "ModelVersion": "abc",
    }


def test_without_a_challenger_none_of_its_resources_is_created() -> None:
    """There is neither a stream nor an alarm for it."""
    assert [name for name in evaluated(**LEAST).resources() if "Shadow" in name] == []
