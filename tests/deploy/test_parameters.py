"""The parameters of template.yaml: their defaults, and the values and combinations that are refused."""

import re

import pytest

from tests.deploy.deployment import LEAST, UNUSUAL, evaluated, expanded


def test_every_parameter_is_described_and_has_a_default() -> None:
    """Only Release has no default, because each deployment needs a new one."""
    parameters = expanded()["Parameters"]
    assert [name for name, parameter in parameters.items() if not parameter.get("Description")] == []
    assert [name for name, parameter in parameters.items() if "Default" not in parameter] == ["Release"]


def test_defaults_are_for_a_thousand_rides_a_second_on_one_shard() -> None:
    """The mapping gives old records up, and keeps them in the bucket, before Kinesis drops them."""
    parameters = expanded()["Parameters"]
    defaults = {name: parameter.get("Default") for name, parameter in parameters.items()}
    used = {name: value for name, value in defaults.items() if value not in ("", None)}
    assert used == {
        "ShardCount": 0,
        "RetentionHours": 24,
        "ImagePackages": "packages",
        "ExperimentId": "1",
        "ModelName": "ride_duration_prediction_model",
        "PredictionField": "ride_duration",
        "Architecture": "arm64",
        "MemorySize": 1769,
        "Timeout": 60,
        "ReservedConcurrency": 0,
        "LogLevel": "INFO",
        "LogRetentionDays": 30,
        "DeploymentType": "Canary10Percent10Minutes",
        "BatchSize": 500,
        "BatchingWindowSeconds": 1,
        "ParallelizationFactor": 1,
        "RetryAttempts": 10,
        "RecordAgeSeconds": 72_000,
        "FailuresRetentionDays": 90,
        "RejectionsPercent": 5,
    }
    assert used["RecordAgeSeconds"] < used["RetentionHours"] * 3600


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("Release", "1.2"),
        ("InputStreamArn", "arn:aws:kinesis:us-east-1:123456789012:stream/*"),
        ("InputStreamName", "rides*"),
        ("PredictionsStreamName", "a/b"),
        ("ImageModel", "/opt/model"),
        ("ModelBucket", "*"),
        ("ModelBucket", "models/folder"),
        ("ModelPath", "*/model"),
        ("ModelPath", "${AWS::AccountId}"),
        ("ModelPath", "/model"),
        ("ModelPath", "model/"),
        ("ShadowModelPath", "*/model"),
        ("ExperimentId", "*"),
        ("ExperimentId", ""),
        ("RunId", "*"),
        ("ShadowRunId", "a/b"),
        ("ModelSha256", "abc"),
        ("ShadowModelSha256", "abc"),
        ("PredictionField", "tip amount"),
        *((f"{name}KeyArn", value) for name in ("Input", "Output", "Failures", "Model") for value in ("*", "alias/a")),
        ("AlarmTopicArn", "*"),
    ],
)
def test_a_value_that_would_widen_a_role_or_never_work_is_refused(parameter: str, value: str) -> None:
    """CloudFormation refuses it before it creates anything."""
    pattern = expanded()["Parameters"][parameter]["AllowedPattern"]
    assert not re.fullmatch(pattern, value)
    assert re.fullmatch(pattern, {**LEAST, **UNUSUAL}.get(parameter, ""))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "Give the place of the model"),
        ({"ModelBucket": "models"}, "ModelBucket needs RunId"),
        ({"ModelBucket": "models", "RunId": "abc", "ImageModel": "folder"}, "both places of the model"),
        ({"ModelBucket": "models", "RunId": "abc", "ModelPath": "model"}, "both name the model"),
        ({"ImageModel": "folder", "RunId": "abc"}, "ModelBucket, which is not set"),
        ({"ImageModel": "folder", "ModelPath": "model"}, "ModelBucket, which is not set"),
        ({"ImageModel": "folder", "ShadowRunId": "abc"}, "A challenger lies in ModelBucket"),
        ({"ImageModel": "folder", "ShadowModelPath": "model"}, "A challenger lies in ModelBucket"),
        ({**LEAST, "ShadowRunId": "abc", "ShadowModelPath": "model"}, "both name the challenger"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value) or "nothing",
)
def test_parameters_that_contradict_each_other_are_refused(parameters: dict[str, str], said: str) -> None:
    """CloudFormation refuses them before it creates anything, with one line that names them."""
    (broken,) = evaluated(**parameters).broken_rules()
    assert said in broken


@pytest.mark.parametrize(
    "parameters",
    [
        {"ModelBucket": "models", "RunId": "abc"},
        {"ModelBucket": "models", "ModelPath": "model"},
        {"ModelBucket": "models", "RunId": "abc", "ShadowRunId": "def"},
        {"ModelBucket": "models", "RunId": "abc", "ShadowModelPath": "model"},
        {"ImageModel": "folder"},
        UNUSUAL,
    ],
    ids=" ".join,
)
def test_a_model_in_one_place_under_one_name_is_accepted(parameters: dict[str, str]) -> None:
    """The same is true of a challenger."""
    assert evaluated(**parameters).broken_rules() == []
