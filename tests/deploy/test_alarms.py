"""The alarms, the canary and the dashboard of template.yaml: AWS or the function really emits each metric in them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from drift import LEAST_RIDES
from rides import RejectionKind
from streaming import windows
from streaming.records import Rejection, decode_event
from tests.builders import kinesis_event
from tests.deploy.deployment import LEAST, UNUSUAL, resources_of
from tests.watched_models import copy_watched, draw_rides

OURS = "RidePredictions/my-stack"
TOPIC = UNUSUAL["AlarmTopicArn"]

AT_LEAST, ABOVE = "GreaterThanOrEqualToThreshold", "GreaterThanThreshold"


def metric(namespace: str, name: str, dimension: str, of: str) -> dict[str, Any]:
    """Build the identity of a metric: namespace, name and dimension."""
    return {"Namespace": namespace, "MetricName": name, "Dimensions": [{"Name": dimension, "Value": of}]}


def of_function(name: str, function: str = "<Consumer>") -> dict[str, Any]:
    """Build a metric that Lambda emits for a function (Lambda developer guide, "Types of metrics")."""
    return metric("AWS/Lambda", name, "FunctionName", function)


def ours(name: str) -> dict[str, Any]:
    """Build a metric that the function itself emits."""
    return metric(OURS, name, "service", "tip")


def input_of_math(identifier: str, watched: dict[str, Any], statistic: str) -> dict[str, Any]:
    """Build a metric, by the minute, that an expression uses."""
    return {"Id": identifier, "ReturnData": False, "MetricStat": {"Metric": watched, "Period": 60, "Stat": statistic}}


def alarm(watched: dict[str, Any], comparison: str, threshold: int, periods: tuple[int, int]) -> dict[str, Any]:
    """Build an alarm that is raised if ``periods[0]`` of the last ``periods[1]`` breach; one without data does not."""
    return {
        **watched,
        "ComparisonOperator": comparison,
        "Threshold": threshold,
        "DatapointsToAlarm": periods[0],
        "EvaluationPeriods": periods[1],
        "TreatMissingData": "notBreaching",
    }


def each_minute(watched: dict[str, Any], statistic: str) -> dict[str, Any]:
    """Build the part of an alarm that names one metric, by the minute."""
    return {**watched, "Statistic": statistic, "Period": 60}


DURATION = [
    {"Id": "percent", "Label": "p99 of the duration in percent of the timeout", "Expression": "duration / (70 * 10)"},
    input_of_math("duration", of_function("Duration"), "p99"),
]
"""The duration is in milliseconds; with a timeout of 70 s, one percent is 700 of them."""
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
    "DriftAlarm": alarm({**ours("Drift"), "Statistic": "Average", "Period": 3600}, ABOVE, 1, (1, 1)),
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
"""AWS's metrics on the dashboard, which are there beside the function's own."""


@pytest.mark.parametrize("topic", [TOPIC, ""], ids=["to a topic", "no topic"])
def test_each_alarm_watches_its_metric_and_notifies_the_topic(topic: str) -> None:
    """An alarm notifies the topic when it begins and when it ends, if there is a topic."""
    found = resources_of("AWS::CloudWatch::Alarm", **{**UNUSUAL, "AlarmTopicArn": topic})
    assert all(properties.pop("AlarmDescription") for properties in found.values())
    actions = {"AlarmActions": [topic], "OKActions": [topic]} if topic else {}
    assert found == {name: {**properties, **actions} for name, properties in ALARMS.items()}


def test_without_a_challenger_there_are_no_alarms_on_it() -> None:
    """The alarms on the live consumer are all there."""
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
    """Only alarms that a new version can cause do. A deployment all at once ignores alarms."""
    (group,) = resources_of("AWS::CodeDeploy::DeploymentGroup", **LEAST, DeploymentType=deployment_type).values()
    expected = {"Enabled": True, "Alarms": [{"Name": f"<{name}>"} for name in alarms]} if alarms else {}
    assert group["AlarmConfiguration"] == expected


@pytest.fixture
def emitted(
    cold_start: Callable[..., ModuleType],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> dict[str, Any]:
    """Give the function's metrics, with its variables from the template, for a batch with every kind of rejection.

    The batch completes a window of rides, so that its drift is there as well.
    """
    deployed = resources_of("AWS::Lambda::Function", **UNUSUAL)["Consumer"]
    given = {
        "MODEL_LOCATION": copy_watched(tmp_path / "model"),
        "MODEL_SHA256": "",
        "PREDICTIONS_STREAM_NAME": "predictions",
    }
    variables = {**deployed["Environment"]["Variables"], **given}
    monkeypatch.setattr(windows, "RIDES", LEAST_RIDES)
    function = cold_start(**variables)
    telemetry = function.TELEMETRY
    _, (rejection,) = decode_event(kinesis_event(b"no ride"))
    with telemetry.invocation(None) as tally:
        tally.decoded(1, [], [rejection])
        with tally.predicting(function.MODEL.bins) as counter:
            function.MODEL.predict(draw_rides(2 * LEAST_RIDES), counter=counter)
        rejections = [Rejection(rejection.record, kind, "no reason") for kind in get_args(RejectionKind)]
        tally.stored(rejections, [], None)
    (metrics,) = [line for line in map(json.loads, capsys.readouterr().out.splitlines()) if "_aws" in line]
    return dict(metrics)


def test_the_function_emits_the_metrics_that_are_watched_and_shown(emitted: dict[str, Any]) -> None:
    """Namespace, name and dimension are the same, because an alarm on another metric would never be raised."""
    (directive,) = emitted["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service"]]
    names = [metric["Name"] for metric in directive["Metrics"]]
    really = {(directive["Namespace"], name, "service", emitted["service"]) for name in names}

    watched = {identity for one in ALARMS.values() for identity in watched_by(one) if identity[0] == OURS}
    assert len(watched) == 4
    assert watched <= really

    (dashboard,) = resources_of("AWS::CloudWatch::Dashboard", **UNUSUAL).values()
    assert dashboard["DashboardName"] == "my-stack-us-east-1"
    widgets = [widget["properties"] for widget in json.loads(dashboard["DashboardBody"])["widgets"]]
    assert {widget["region"] for widget in widgets} == {"us-east-1"}
    shown = {tuple(metric[:4]) for widget in widgets for metric in widget["metrics"]}
    assert shown == really | SHOWN_OF_AWS


def watched_by(properties: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the metrics that an alarm watches: namespace, name, and the name and value of the dimension."""
    parts = [part["MetricStat"]["Metric"] for part in properties.get("Metrics", []) if "MetricStat" in part]
    return [
        (part["Namespace"], part["MetricName"], dimension["Name"], dimension["Value"])
        for part in parts or [properties]
        for dimension in part["Dimensions"]
    ]
