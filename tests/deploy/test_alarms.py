"""Alarms, canary and dashboard of template.yaml watch metrics that AWS and the function really emit."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_args

import pytest

from rides import RejectionKind
from streaming.records import Rejection, decode_event
from tests.builders import kinesis_event
from tests.conftest import SAMPLE_MODEL
from tests.deploy.deployment import LEAST, UNUSUAL, resources_of

OURS = "RidePredictions/my-stack"
TOPIC = UNUSUAL["AlarmTopicArn"]

AT_LEAST, ABOVE = "GreaterThanOrEqualToThreshold", "GreaterThanThreshold"


def metric(namespace: str, name: str, dimension: str, of: str) -> dict[str, Any]:
    """Build a metric's identity."""
    return {"Namespace": namespace, "MetricName": name, "Dimensions": [{"Name": dimension, "Value": of}]}


def of_function(name: str, function: str = "<Consumer>") -> dict[str, Any]:
    """Build a metric that Lambda emits of a function (Lambda developer guide, "Types of metrics")."""
    return metric("AWS/Lambda", name, "FunctionName", function)


def ours(name: str) -> dict[str, Any]:
    """Build a metric that the function emits."""
    return metric(OURS, name, "service", "tip")


def input_of_math(identifier: str, watched: dict[str, Any], statistic: str) -> dict[str, Any]:
    """Build an expression's input: a metric of one minute."""
    return {"Id": identifier, "ReturnData": False, "MetricStat": {"Metric": watched, "Period": 60, "Stat": statistic}}


def alarm(watched: dict[str, Any], comparison: str, threshold: int, minutes: tuple[int, int]) -> dict[str, Any]:
    """Build an alarm on ``minutes[0]`` of ``minutes[1]`` minutes; a minute without data does not count."""
    return {
        **watched,
        "ComparisonOperator": comparison,
        "Threshold": threshold,
        "DatapointsToAlarm": minutes[0],
        "EvaluationPeriods": minutes[1],
        "TreatMissingData": "notBreaching",
    }


def each_minute(watched: dict[str, Any], statistic: str) -> dict[str, Any]:
    """Build the watched part of an alarm on one metric."""
    return {**watched, "Statistic": statistic, "Period": 60}


DURATION = [
    {"Id": "percent", "Label": "p99 of the duration in percent of the timeout", "Expression": "duration / (70 * 10)"},
    input_of_math("duration", of_function("Duration"), "p99"),
]
"""The duration is in milliseconds; the timeout is 70 s."""

REJECTIONS = [
    {
        "Id": "percent",
        "Label": "Rejections in percent of the rides",
        "Expression": "100 * rejections / (predictions + rejections)",
    },
    input_of_math("rejections", ours("Rejections"), "Sum"),
    input_of_math("predictions", ours("Predictions"), "Sum"),
]

DROPPED = metric("AWS/Lambda", "DroppedEventCount", "EventSourceMappingUUID", "<ConsumerRides>")
THROTTLED = metric("AWS/Kinesis", "WriteProvisionedThroughputExceeded", "StreamName", "<PredictionsStream>")
SHADOW_AGE, SHADOW_ERRORS = (of_function(name, "<ShadowConsumer>") for name in ("IteratorAge", "Errors"))

ALARMS = {
    "IteratorAgeAlarm": alarm(each_minute(of_function("IteratorAge"), "Maximum"), AT_LEAST, 300_000, (3, 3)),
    "ErrorsAlarm": alarm(each_minute(of_function("Errors"), "Sum"), AT_LEAST, 1, (2, 5)),
    "ThrottlesAlarm": alarm(each_minute(of_function("Throttles"), "Sum"), AT_LEAST, 1, (5, 5)),
    "DurationAlarm": alarm({"Metrics": DURATION}, AT_LEAST, 80, (3, 5)),
    "RejectionsAlarm": alarm({"Metrics": REJECTIONS}, ABOVE, 8, (3, 5)),
    "UndeliveredAlarm": alarm(each_minute(ours("Undelivered"), "Sum"), AT_LEAST, 1, (3, 5)),
    "DroppedAlarm": alarm(each_minute(DROPPED, "Sum"), AT_LEAST, 1, (1, 1)),
    "DestinationAlarm": alarm(each_minute(of_function("DestinationDeliveryFailures"), "Sum"), AT_LEAST, 1, (1, 1)),
    "OutputThrottledAlarm": alarm(each_minute(THROTTLED, "Sum"), AT_LEAST, 1, (5, 5)),
    "ShadowIteratorAgeAlarm": alarm(each_minute(SHADOW_AGE, "Maximum"), AT_LEAST, 300_000, (3, 3)),
    "ShadowErrorsAlarm": alarm(each_minute(SHADOW_ERRORS, "Sum"), AT_LEAST, 1, (2, 5)),
}

SHOWN_OF_AWS = {
    *(("AWS/Lambda", name, "FunctionName", "<Consumer>") for name in ("IteratorAge", "Duration")),
    *(("AWS/Lambda", name, "FunctionName", "<Consumer>") for name in ("Invocations", "Errors", "Throttles")),
    *(
        ("AWS/Lambda", f"{name}EventCount", "EventSourceMappingUUID", "<ConsumerRides>")
        for name in ("Polled", "Invoked", "FailedInvoke", "Dropped", "OnFailureDestinationDelivered")
    ),
    ("AWS/Kinesis", "WriteProvisionedThroughputExceeded", "StreamName", "<PredictionsStream>"),
}
"""The metrics of AWS on the dashboard, beside the function's own."""


@pytest.mark.parametrize("topic", [TOPIC, ""], ids=["to a topic", "to none"])
def test_alarms_watch_and_notify(topic: str) -> None:
    """If there is a topic, each alarm notifies it at its start and at its end."""
    found = resources_of("AWS::CloudWatch::Alarm", **{**UNUSUAL, "AlarmTopicArn": topic})
    assert all(properties.pop("AlarmDescription") for properties in found.values())
    actions = {"AlarmActions": [topic], "OKActions": [topic]} if topic else {}
    assert found == {name: {**properties, **actions} for name, properties in ALARMS.items()}


def test_without_a_challenger_no_alarm_watches_one() -> None:
    """All other alarms exist."""
    names = set(resources_of("AWS::CloudWatch::Alarm", **LEAST))
    assert names == {name for name in ALARMS if not name.startswith("Shadow")}


@pytest.mark.parametrize(
    ("deployment_type", "alarms"),
    [
        ("Canary10Percent5Minutes", ["ErrorsAlarm", "RejectionsAlarm", "UndeliveredAlarm", "DurationAlarm"]),
        ("AllAtOnce", []),
    ],
)
def test_alarms_roll_a_canary_back(deployment_type: str, alarms: list[str]) -> None:
    """Alarms that a new version can cause roll it back. They do not stop a deployment all at once."""
    (group,) = resources_of("AWS::CodeDeploy::DeploymentGroup", **LEAST, DeploymentType=deployment_type).values()
    expected = {"Enabled": True, "Alarms": [{"Name": f"<{name}>"} for name in alarms]} if alarms else {}
    assert group["AlarmConfiguration"] == expected


@pytest.fixture
def emitted(cold_start: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Give the function's metrics, with the template's variables, for a batch with a rejection of every kind."""
    function = resources_of("AWS::Lambda::Function", **UNUSUAL)["Consumer"]
    variables = {**function["Environment"]["Variables"], "MODEL_LOCATION": SAMPLE_MODEL, "MODEL_SHA256": ""}
    telemetry = cold_start(**variables).TELEMETRY
    _, (rejection,) = decode_event(kinesis_event(b"no ride"))
    with telemetry.invocation(None) as tally:
        tally.decoded(1, [], [rejection])
        tally.rejections = [Rejection(rejection.record, kind, "no reason") for kind in get_args(RejectionKind)]
    (metrics,) = [line for line in map(json.loads, capsys.readouterr().out.splitlines()) if "_aws" in line]
    return dict(metrics)


def test_the_function_emits_what_is_watched_and_shown(emitted: dict[str, Any]) -> None:
    """Namespace, name and dimension must agree, or the alarm would never be raised."""
    (directive,) = emitted["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service"]]
    names = [metric["Name"] for metric in directive["Metrics"]]
    really = {(directive["Namespace"], name, "service", emitted["service"]) for name in names}

    watched = {identity for one in ALARMS.values() for identity in watched_by(one) if identity[0] == OURS}
    assert len(watched) == 3
    assert watched <= really

    (dashboard,) = resources_of("AWS::CloudWatch::Dashboard", **UNUSUAL).values()
    assert dashboard["DashboardName"] == "my-stack-us-east-1"
    widgets = [widget["properties"] for widget in json.loads(dashboard["DashboardBody"])["widgets"]]
    assert {widget["region"] for widget in widgets} == {"us-east-1"}
    shown = {tuple(metric[:4]) for widget in widgets for metric in widget["metrics"]}
    assert shown == really | SHOWN_OF_AWS


def watched_by(properties: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the metrics of an alarm: namespace, name, and the one dimension."""
    parts = [part["MetricStat"]["Metric"] for part in properties.get("Metrics", []) if "MetricStat" in part]
    return [
        (part["Namespace"], part["MetricName"], dimension["Name"], dimension["Value"])
        for part in parts or [properties]
        for dimension in part["Dimensions"]
    ]
