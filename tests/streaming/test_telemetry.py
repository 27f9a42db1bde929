"""The log line and the metrics of each batch, which operators see."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from aws_lambda_powertools import Metrics

from scripts.localaws.faults import FailedEntries, FailedRequest
from scripts.localaws.sandbox import LambdaContext
from streaming import delivery
from streaming.delivery import DeliveryError
from streaming.telemetry import DURATIONS, metrics_line
from tests.builders import kinesis_event, ride_event
from tests.flow import Chaos

ColdStart = Callable[..., ModuleType]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Give a function that returns the log lines and the metrics since its last call."""

    def read() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [line for line in lines if "_aws" not in line], [line for line in lines if "_aws" in line]

    return read


@pytest.fixture
def function(cold_start: ColdStart, stream: str, request: pytest.FixtureRequest) -> Callable[..., ModuleType]:
    """Give a function that cold-starts the handler's module, under a name of the test's own.

    A logger of the same name would keep the stdout of the test that created it.
    """

    def start(**environment: str) -> ModuleType:
        variables = {"PREDICTIONS_STREAM_NAME": stream, "MODEL_NAME": request.node.name, **environment}
        return cold_start(**variables)

    return start


Told = Callable[[], tuple[list[dict[str, Any]], list[dict[str, Any]]]]


def test_a_batch_writes_a_log_and_a_metrics_line(function: Callable[..., ModuleType], told: Told, bucket: str) -> None:
    """Both lines have every count. The log line also has the request and the shard, and its level is INFO."""
    handler = function(FAILURES_LOCATION=f"s3://{bucket}").lambda_handler
    context = LambdaContext(30)
    handler(kinesis_event(ride_event(1), ride_event(2), b"{", b"\xff", b"\xfe"), context)
    ((log,), (metrics,)) = told()
    assert (log["level"], log["message"]) == ("INFO", "batch done")
    assert (log["function_request_id"], log["shard"]) == (context.aws_request_id, "shardId-000000000000")
    counts = {name: log[name] for name in ("records", "rides", "predictions", "rejections", "put_again", "undelivered")}
    assert counts == {
        "records": 5,
        "rides": 2,
        "predictions": 2,
        "rejections": {"json": 1, "utf-8": 2},
        "put_again": 0,
        "undelivered": 0,
    }
    (declared,) = metrics["_aws"]["CloudWatchMetrics"]
    assert declared["Namespace"] == "RidePredictions"
    assert declared["Dimensions"] == [["service"]]
    values = {metric["Name"]: metrics[metric["Name"]] for metric in declared["Metrics"]}
    assert {name: value for name, (value,) in values.items() if isinstance(value, float) and value.is_integer()} == {
        "Records": 5,
        "Rides": 2,
        "Predictions": 2,
        "Rejections": 3,
        "RejectionsJson": 1,
        "RejectionsUtf8": 2,
        "EntriesPutAgain": 0,
        "Undelivered": 0,
        "ColdStart": 1,
    }
    assert values["PredictTime"][0] > 0
    assert values["ModelLoadTime"][0] > 0


def test_the_age_metric_is_the_oldest_records(function: Callable[..., ModuleType], told: Told) -> None:
    """The age is in milliseconds, and the order of the records makes no difference."""
    handler = function().lambda_handler
    event = kinesis_event(ride_event(1), ride_event(2), ride_event(3))
    began = time.time()
    for record, age in zip(event["Records"], (50, 200, 100), strict=True):
        record["kinesis"]["approximateArrivalTimestamp"] = began - age
    handler(event, None)
    _, (metrics,) = told()
    assert 200_000 <= metrics["OldestRecordAge"][0] <= 200_000 + (time.time() - began) * 1000


@pytest.mark.parametrize(("unit", "ahead"), [(1e3, 0), (1e6, 0), (1, 100)], ids=["ms", "us", "ahead"])
def test_the_age_is_sensible_whatever_an_arrival_is(
    function: Callable[..., ModuleType], told: Told, unit: float, ahead: float
) -> None:
    """Milliseconds are not taken for seconds, and an arrival that is still to come has no negative age."""
    event = kinesis_event(ride_event(1))
    event["Records"][0]["kinesis"]["approximateArrivalTimestamp"] = (time.time() + ahead) * unit
    function().lambda_handler(event, None)
    _, (metrics,) = told()
    assert 0 <= metrics["OldestRecordAge"][0] < 60_000


@pytest.mark.parametrize("method", ["streaming.telemetry.metrics_line", "aws_lambda_powertools.Logger.info"])
def test_a_report_that_fails_does_not_fail_a_delivered_batch(
    function: Callable[..., ModuleType], told: Told, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Lambda would deliver all of its records again."""
    handler = function().lambda_handler
    with monkeypatch.context() as broken:
        broken.setattr(method, lambda *_, **__: 1 / 0)
        assert handler(kinesis_event(ride_event()), None) == {"batchItemFailures": []}
    assert handler(kinesis_event(ride_event(), ride_event()), None) == {"batchItemFailures": []}
    logs, metrics = told()
    assert (logs[-1]["records"], metrics[-1]["Records"]) == (2, [2])
    assert len(logs) + len(metrics) == 3


def test_concurrent_batches_do_not_share_their_metrics(function: Callable[..., ModuleType], told: Told) -> None:
    """The local mapping invokes the function once for each shard, at the same time."""
    handler = function().lambda_handler
    with ThreadPoolExecutor(8) as threads:
        events = [kinesis_event(*map(ride_event, range(size))) for size in range(1, 9)] * 10
        assert list(threads.map(lambda event: handler(event, None), events)) == [{"batchItemFailures": []}] * 80
    logs, metrics = told()
    assert sorted(line["Records"] for line in metrics) == sorted([size] for size in range(1, 9) for _ in range(10))
    assert len(logs) == 80


def test_the_metrics_line_is_the_one_that_powertools_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """CloudWatch extracts metrics only from its own format, and Powertools writes this format."""
    values = {"Rides": 3, "Undelivered": 0, "PredictTime": 0.25, "OldestRecordAge": 1e12}
    metrics = Metrics(namespace="Ö", service="a model")
    for name, value in values.items():
        metrics.add_metric(name=name, unit="Milliseconds" if name in DURATIONS else "Count", value=value)
    metrics.flush_metrics()
    theirs, ours = json.loads(capsys.readouterr().out), json.loads(metrics_line("Ö", "a model", values))
    assert len(str(ours["_aws"].pop("Timestamp"))) == len(str(theirs["_aws"].pop("Timestamp")))
    assert ours == theirs
    assert list(ours) == list(theirs)


def test_only_the_first_batch_of_a_sandbox_is_a_cold_start(function: Callable[..., ModuleType], told: Told) -> None:
    """Its metrics have the time that it took to load the model."""
    handler = function().lambda_handler
    for _ in range(2):
        handler(kinesis_event(ride_event()), None)
    _, (first, second) = told()
    assert {"ColdStart", "ModelLoadTime"} <= set(first)
    assert not {"ColdStart", "ModelLoadTime"} & set(second)


def test_undelivered_records_are_a_warning(
    function: Callable[..., ModuleType], told: Told, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line has their number, and the errors that stopped them."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
    with chaos(lambda call: FailedEntries(frozenset({0}))):
        function().lambda_handler(kinesis_event(ride_event(1), ride_event(2), b"{"), None)
    ((log,), (metrics,)) = told()
    assert (log["level"], log["message"]) == ("WARNING", "records are left for redelivery")
    assert (log["predictions"], log["undelivered"], log["put_again"]) == (1, 2, 2)
    assert log["errors"] == {"ProvisionedThroughputExceededException": 3, "NoFailuresLocation": 1}
    assert (metrics["Undelivered"], metrics["EntriesPutAgain"]) == ([2], [2])


def test_a_failed_invocation_is_an_error(function: Callable[..., ModuleType], told: Told, chaos: Chaos) -> None:
    """All records of the batch count as undelivered."""
    with chaos(lambda call: FailedRequest(400, "AccessDeniedException")), pytest.raises(DeliveryError):
        function().lambda_handler(kinesis_event(ride_event(1), ride_event(2)), None)
    ((log,), (metrics,)) = told()
    assert log["level"] == "ERROR"
    assert (log["undelivered"], log["errors"]) == (2, {"AccessDeniedException": 1})
    assert metrics["Undelivered"] == [2]


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_no_line_has_data_of_a_ride(
    function: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str], bucket: str, level: str
) -> None:
    """This is true of predicted rides and of rejected rides."""
    handler = function(LOG_LEVEL=level, FAILURES_LOCATION=f"s3://{bucket}/none").lambda_handler
    handler(kinesis_event(ride_event("secret-id"), {"secret-id": 1}, b"secret-id", ride_event("secret-id", x=1)), None)
    assert "secret-id" not in capsys.readouterr().out


def test_reasons_are_logged_at_the_level_debug(function: Callable[..., ModuleType], told: Told, bucket: str) -> None:
    """The line has the event_id, by which the rejection can be found in the bucket."""
    handler = function(LOG_LEVEL="DEBUG", FAILURES_LOCATION=f"s3://{bucket}").lambda_handler
    handler(kinesis_event(b"{"), None)
    logs, _ = told()
    (rejected,) = (log for log in logs if log["message"] == "rejected")
    assert rejected["event_id"] == "shardId-000000000000:1"
    assert "truncated" in rejected["reason"]


def test_a_dry_run_has_no_metrics(cold_start: ColdStart, told: Told) -> None:
    """A dry run is not traffic."""
    cold_start(TEST_RUN="True", MODEL_NAME="dry").lambda_handler(kinesis_event(ride_event()), None)
    ((log,), metrics) = told()
    assert log["predictions"] == 1
    assert metrics == []
