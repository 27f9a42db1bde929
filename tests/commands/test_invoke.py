"""Running the handler on an event file, from the command line."""

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import pytest
import yaml
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from scripts.aws.shards import ShardReader
from scripts.localaws.setup import FUNCTION_VARIABLES
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import copy_without_served_form
from tests.tools import ROOT, failed, finish

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

ONE = str(ROOT / "events" / "kinesis-one.json")
POISON = str(ROOT / "events" / "kinesis-poison.json")


@pytest.fixture(autouse=True)
def no_settings(aws_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the function's variables from the environment, and the AWS configuration of whoever runs the tests."""
    for name in FUNCTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("event", ["kinesis-one", "kinesis-poison"])
def test_a_dry_run_prints_the_response_and_needs_no_aws(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function's log is not on stdout, and nothing needs to be configured."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    done = finish("invoke", f"{event}.json", cwd=ROOT / "events")
    assert done.returncode == 0
    assert json.loads(done.stdout) == json.loads((ROOT / "events" / f"{event}.response.json").read_text())
    assert '"records":' in done.stderr


def test_rejections_are_shown_with_their_reasons() -> None:
    """They are on stderr, so that stdout is the response alone."""
    text = finish("invoke", POISON).stderr
    assert "5 rejected" in text
    assert "missing required field" in " ".join(text.split())
    assert "$.ride.trip_distance" in text


def test_the_environment_configures_the_function() -> None:
    """RUN_ID is the version of the predictions."""
    done = finish("invoke", ONE, RUN_ID="e1efc53e9bd149078b0c12aeaa6365df", MODEL_NAME="mine")
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["version"] == "e1efc53e9bd149078b0c12aeaa6365df"
    assert prediction["model"] == "mine"


def test_write_really_writes(kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str) -> None:
    """Predictions go to the stream and rejections to the bucket; the response has neither, and stderr has a table."""
    failures = f"s3://{bucket}"
    done = finish(
        *("invoke", "--write", POISON), TEST_RUN="True", PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=failures
    )
    assert json.loads(done.stdout) == {"batchItemFailures": []}
    assert "5 rejected" in done.stderr
    written = ShardReader(kinesis, stream, "shardId-000000000000").read()
    assert [json.loads(record["Data"])["prediction"]["ride_id"] for record in written] == [1, 3, 6, 9]
    (rejections,) = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert len(s3.get_object(Bucket=bucket, Key=rejections["Key"])["Body"].read().splitlines()) == 5


def test_write_shows_rides_that_the_model_cannot_predict_too(
    stream: str, bucket: str, tmp_path: Path, kinesis: "KinesisClient"
) -> None:
    """The model here overflows on a long ride, so that its prediction is no finite number."""
    model, event = tmp_path / "model", tmp_path / "event.json"
    copy_without_served_form(SAMPLE_MODEL, model)
    pipeline = make_pipeline(DictVectorizer(), LinearRegression()).fit([{"trip_distance": 1.0}], [1.0])
    pipeline[-1].coef_[:] = 1e307
    pickled = cloudpickle.dumps(pipeline)
    (model / "model.pkl").write_bytes(pickled)
    description = yaml.safe_load((model / "MLmodel").read_text())
    description["flavors"]["sklearn"] |= {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
    (model / "MLmodel").write_text(yaml.safe_dump(description))
    event.write_text(json.dumps(kinesis_event(ride_event(1), ride_event(2, trip_distance=99.0), b"{")))
    done = finish(
        *("invoke", "--write", "--model", str(model), str(event)),
        PREDICTIONS_STREAM_NAME=stream,
        FAILURES_LOCATION=f"s3://{bucket}",
        MODEL_SHA256=hashlib.sha256(pickled).hexdigest(),
    )
    assert done.returncode == 0, done.stderr
    assert "2 rejected" in done.stderr
    assert re.findall(r"^\d+ +(json|prediction) ", done.stderr, re.MULTILINE) == ["json", "prediction"]
    assert len(ShardReader(kinesis, stream, "shardId-000000000000").read()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json"], "invoke: none.json cannot be read: No such file or directory"),
        (["broken.json"], "invoke: broken.json is not JSON: Expecting value: line 1 column 7 (char 6)"),
        (["--write", ONE], "invoke: PREDICTIONS_STREAM_NAME is not set (only a dry run, TEST_RUN=True, does without)"),
        (
            ["--profile", "nobody", ONE],
            "invoke: the SDK cannot use AWS_PROFILE: The config profile (nobody) could not be found",
        ),
        (
            ["--model", "none", ONE],
            "invoke: there is no folder none: set MODEL_LOCATION to the one that holds the MLmodel file",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_error_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    """There is no traceback, and nothing on stdout. Options take precedence over the environment."""
    (tmp_path / "broken.json").write_text('{"a": ')
    assert failed(finish("invoke", *arguments, cwd=tmp_path, MODEL_BUCKET="", TEST_RUN="")) == message


def test_an_event_of_another_service_is_one_line_after_the_functions_log(tmp_path: Path) -> None:
    """The function itself refuses it, and logs that too."""
    (tmp_path / "list.json").write_text("[1]")
    done = finish("invoke", "list.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    log, line = done.stderr.splitlines()
    assert json.loads(log)["level"] == "ERROR"
    assert line == "invoke: not a Kinesis event: it has no `Records`"
