"""The parameters of template.yaml: their defaults, and the values and combinations that are refused."""

import re

import pytest

from settings import FIELD
from tests.deploy.deployment import LEAST, UNUSUAL, evaluated, expanded, parsed

ARNS = {
    "InputStreamArn": "arn:aws:kinesis:us-east-1:123456789012:stream/rides",
    "AlarmTopicArn": "arn:aws-us-gov:sns:us-gov-west-1:123456789012:alarms",
    **{
        f"{name}KeyArn": "arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-0a" for name in ("Input", "Output", "Failures")
    },
}
GOOD = {**LEAST, **UNUSUAL, **ARNS, "ImageModel": "models/mine", "RunId": "abc", "ShadowRunId": "def"}
"""A value for each parameter, which its pattern accepts."""
TEXTS = [name for name, one in parsed()["Parameters"].items() if one["Type"] == "String" and "AllowedValues" not in one]
HARMFUL = ["*", "?", "${AWS::AccountId}", '"', "'", "\\", " ", "\t", "\n", "é", "{", "]"]
"""Wildcards and variables of IAM, characters that end a text in JSON, and blanks, which the function strips."""


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
        "ImagePackages": "packages sklearn",
        "ExperimentId": "1",
        "ModelName": "ride_duration_prediction_model",
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
        ("ModelPath", "a//b"),
        ("PreviousModelPath", "model/"),
        ("InputStreamName", "."),
        ("PredictionsStreamName", "..."),
        ("ModelName", ""),
        ("ModelName", "."),
        ("ModelName", "..."),
        ("ModelName", "a/b"),
        ("ModelSha256", "abc"),
        ("ShadowModelSha256", "abc"),
        ("PredictionField", "tip amount"),
        ("PredictionField", "ride_id"),
        ("TimeZone", "../Asia/Kolkata"),
        *((f"{name}KeyArn", value) for name in ("Input", "Output", "Failures", "Model") for value in ("*", "alias/a")),
        ("AlarmTopicArn", "*"),
    ],
)
def test_a_value_that_would_widen_a_role_or_never_work_is_refused(parameter: str, value: str) -> None:
    """CloudFormation refuses it before it creates anything."""
    pattern = expanded()["Parameters"][parameter]["AllowedPattern"]
    assert not re.fullmatch(pattern, value)
    assert re.fullmatch(pattern, GOOD[parameter])


@pytest.mark.parametrize("parameter", TEXTS)
def test_no_text_takes_a_character_that_would_do_harm(parameter: str) -> None:
    """The texts get into roles, into the dashboard's JSON and into variables. The harm can be at each position."""
    pattern, good = expanded()["Parameters"][parameter]["AllowedPattern"], GOOD[parameter]
    assert re.fullmatch(pattern, good)
    spoiled = [good[:at] + harm + good[at:] for harm in HARMFUL for at in range(len(good) + 1)]
    assert [value for value in spoiled if re.fullmatch(pattern, value)] == []


@pytest.mark.parametrize("parameter", [name for name in TEXTS if name.endswith("Arn")])
def test_an_arn_names_one_resource(parameter: str) -> None:
    """No part of it is left open, and it is one of the right service."""
    pattern, parts = expanded()["Parameters"][parameter]["AllowedPattern"], GOOD[parameter].split(":")
    others = [":".join([*parts[:at], part, *parts[at + 1 :]]) for at in range(len(parts)) for part in ("", "*", "?")]
    others.append(":".join([*parts[:2], "s3", *parts[3:]]))
    assert [value for value in others if re.fullmatch(pattern, value)] == []


def test_the_template_takes_the_fields_that_the_function_takes() -> None:
    """A field that the function refuses would only fail at its cold start."""
    pattern = expanded()["Parameters"]["PredictionField"]["AllowedPattern"]
    fields = ["tip_amount", "ride_id", "ride_id2", "_", "2", "a" * 128, "a" * 129, "a b"]
    assert [bool(re.fullmatch(pattern, one)) for one in fields] == [bool(re.fullmatch(FIELD, one)) for one in fields]


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
