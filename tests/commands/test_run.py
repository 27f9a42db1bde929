"""The local stack: the whole flow in one command, with the model of the user, and when the consumer fails."""

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import mlflow.sklearn
import pytest
import yaml

from scripts.cli import NEUTRAL_VARIABLES
from scripts.localaws import setup
from scripts.localaws.account import wait_until_settled
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import MappingSettings
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import copy_without_served_form
from tests.tools import PATIENCE, ROOT, Tool, failed, finish, start
from tests.trip_records import trip, write

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

RUN_ID = "a74aaab7ca9e444ca8fc468eb4bd20e7"
"""The run that logged the sample model."""
README = ROOT / "README.md"
GET_RECORDS = """
aws kinesis get-records --shard-iterator "$ITERATOR" --query 'Records[].[Data]' --output text |\
 while read -r data; do echo "$data" | base64 --decode; echo; done"""
"""The last command that a stack prints."""
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy")
HOSTILE = {
    **dict.fromkeys(ENDPOINTS, "http://127.0.0.1:1"),
    "AWS_CONFIG_FILE": "/nowhere/config",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_PROFILE": "production",
    "AWS_REGION": "eu-west-1",
    "FAILURES_LOCATION": "s3://production",
    "MODEL_SHA256": "0" * 64,
    "PREDICTION_FIELD": "not a field",
    "RUN_ID": "production",
    "TEST_RUN": "True",
}
"""Variables that must not lead the stack to a real account, nor change it."""


def summary(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """Return the rows of the summary of a run that succeeded."""
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^│ ([^│]+) │ +([^│]+) │$", done.stdout.partition("Summary")[2], re.MULTILINE)
    return {name.strip(): value for name, value in rows}


def rows_of_rides(printed: str) -> list[list[str]]:
    """Return the rows of the table of rides."""
    table = printed.partition("Rides and their predictions")[2].partition("└")[0]
    return [line.strip("│").replace("│", " ").split() for line in table.splitlines() if line.startswith("│")]


def test_every_ride_is_shown_with_its_prediction() -> None:
    """Settings of the user that point elsewhere do not matter; without a model of the user the sample model runs."""
    done = finish("run", "--rides", "12", "--seed", "4", **HOSTILE)  # type: ignore[arg-type]
    numbers = summary(done)
    rides = rows_of_rides(done.stdout)
    assert len(rides) == 12
    assert "true" not in done.stdout
    assert rides[1][0] == "ride-4-2"
    assert all(float(minutes) > 0 for *_, minutes in rides)
    assert [numbers[name] for name in ("put", "predicted", "rejected", "redelivered")] == ["12", "12", "0", "0"]
    assert numbers["put to prediction, p95"].endswith(" ms")
    assert f"Model: {SAMPLE_MODEL}, run {RUN_ID}" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_rides_are_accounted_for(tmp_path: Path) -> None:
    """They are counted by kind, and the bucket is named. Of many rides only the first are shown."""
    done = finish("run", "--rides", "300", "--bad", "10", "--shards", "3", cwd=tmp_path)
    numbers = summary(done)
    assert len(rows_of_rides(done.stdout)) == 20
    assert "and 250 more" in done.stdout
    assert [numbers[name] for name in ("put", "predicted", "rejected")] == ["300", "270", "30"]
    assert "were stored in s3://ride-failures/rejections/, which is gone after this run" in done.stdout
    kinds = re.findall(r"^│ (json|ride|utf-8) +│ +(\d+) │", done.stdout, re.MULTILINE)
    assert sum(int(number) for _, number in kinds) == 30
    assert list(tmp_path.iterdir()) == []


def test_trip_records_are_predicted(tmp_path: Path) -> None:
    """Rows that the contract refuses are counted. True durations stand beside the predictions, with their errors."""
    trips = [trip(15), trip(trip_distance=101), trip(10, trip_distance=0), trip(dropoff=None), trip(1439)]
    write(tmp_path / "green_tripdata_2023-02.parquet", trips)
    done = finish("run", "--data", "green_tripdata_2023-02.parquet", cwd=tmp_path)
    numbers = summary(done)
    rows = rows_of_rides(done.stdout)
    assert [(row[0], *row[5:]) for row in rows] == [
        ("2023/02_0", "15.00"),
        ("2023/02_2", "10.00"),
        ("2023/02_3",),
        ("2023/02_4", "1439.00"),
    ]
    misses = [float(row[4]) - float(row[5]) for row in rows if len(row) > 5]
    assert numbers["true duration known"] == "3"
    assert float(numbers["RMSE"].removesuffix(" min")) == pytest.approx((sum(m * m for m in misses) / 3) ** 0.5, 0.01)
    assert float(numbers["MAE"].removesuffix(" min")) == pytest.approx(sum(map(abs, misses)) / 3, 0.01)
    # The meter that was left on, and the ride of no miles, are not among those that a model is trained on.
    assert numbers["rides of 1 to 60 minutes, above 0 miles"] == "1"
    assert float(numbers["RMSE of these"].removesuffix(" min")) == pytest.approx(abs(misses[0]), abs=0.01)
    assert "1 rows of green_tripdata_2023-02.parquet were left out" in done.stdout


def read_commands(stack: Tool) -> str:
    """Return the commands that a stack prints for another terminal once it serves."""
    assert stack.stdout
    printed = "".join(itertools.takewhile(lambda line: "get-records" not in line, stack.stdout))
    return printed.partition("In another terminal:")[2].strip() + GET_RECORDS


def stop(stack: Tool) -> str:
    """End a stack with Ctrl-C, and return what it has printed to stderr."""
    stack.send_signal(signal.SIGINT)
    _, stderr = stack.communicate(timeout=PATIENCE)
    assert stack.returncode == 0
    assert "Traceback" not in stderr
    return stderr


def test_the_printed_commands_are_those_of_the_readme_and_do_what_it_shows(tmp_path: Path) -> None:
    """The commands are pasted as a whole. Only the first command and the predictions of the first rides differ."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with start("run", "--serve", cwd=tmp_path) as stack:
        commands = read_commands(stack)
        shell = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input=commands,
            env={**os.environ, "PATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert shell.returncode == 0, shell.stderr
        stop(stack)
    example = README.read_text().partition("## Put rides and read predictions")[2].split("```\n")[1]
    change_folder, *others = re.sub(r"(?<=127\.0\.0\.1:)\d+", "…", commands).splitlines()
    assert change_folder == f"cd {ROOT}"
    assert others == re.findall(r"^\$ (.+)$", example, re.MULTILINE)
    outputs = [line for line in example.splitlines() if not line.startswith("$ ")]
    first = outputs.index("  … 25 predictions of the first rides …")
    printed = shell.stdout.splitlines()
    assert printed[:first] == outputs[:first]
    assert printed[first + 25 :] == outputs[first + 1 :]
    with socket.socket() as client:
        port = int(re.findall(r"AWS_ENDPOINT_URL=http://127.0.0.1:(\d+)", commands)[0])
        assert client.connect_ex(("127.0.0.1", port)) != 0


def test_other_commands_find_the_stack_while_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands say that they use it. Each ride of an aggregated record counts as a served ride."""
    for name in [name for name in os.environ if name.startswith("AWS_") and name not in NEUTRAL_VARIABLES]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with start("run", "--rides", "3", "--serve", cwd=tmp_path) as stack:
        endpoint = re.findall(r"AWS_ENDPOINT_URL=(\S+)", read_commands(stack))[0]
        line = f"Using the local AWS of ./scripts/run --serve at {endpoint}\n"
        put = finish("put-rides", "--rides", "250", "--bad", "2", "--aggregate")
        read = finish("read-predictions", "--json", "--distinct", "--limit", "248")
        kept = finish("replay", "--failures", setup.REJECTIONS, "--dry-run")
        for done in (put, read, kept):
            assert done.returncode == 0, done.stderr
            assert line in done.stderr
        assert len(read.stdout.splitlines()) == 3 + 245
        assert "Chosen records" in kept.stdout
        assert "Served 253 rides" in stop(stack)
    assert "for a local AWS, start ./scripts/run --serve, and set AWS_ENDPOINT_URL" in failed(finish("put-rides"))


def test_chaos_loses_nothing(tmp_path: Path) -> None:
    """The faults are shown; rides whose delivery is in doubt are delivered again."""
    done = finish("run", "--rides", "1200", "--bad", "2", "--shards", "2", "--chaos", "--seed", "2", cwd=tmp_path)
    rows = summary(done)
    assert (rows["put"], rows["predicted"], rows["rejected"]) == ("1,200", "1,176", "24")
    assert "PutRecords: entries answered ProvisionedThroughputExceededException" in done.stdout


def changed_model(tmp_path: Path, **changes: object) -> Path:
    """Copy the sample model with changes to its MLmodel file; None takes a field out."""
    folder = tmp_path / "model"
    shutil.copytree(SAMPLE_MODEL, folder)
    description = yaml.safe_load((folder / "MLmodel").read_text()) | changes
    left = {name: value for name, value in description.items() if value is not None}
    (folder / "MLmodel").write_text(yaml.safe_dump(left))
    return folder


@pytest.mark.parametrize(
    ("changes", "run_id"),
    [
        ({"run_id": "mine", "model_id": "m-mine"}, "mine"),
        ({"run_id": "mine", "model_id": None}, "mine"),
        ({"run_id": None, "model_id": None, "model_uuid": "uuid"}, "uuid"),
    ],
    ids=["MLflow 3", "MLflow 2", "no run"],
)
def test_a_model_in_a_folder_predicts(tmp_path: Path, changes: dict[str, object], run_id: str) -> None:
    """The option goes before the environment's model; one line says which model runs."""
    folder = changed_model(tmp_path, **changes)
    done = finish("run", "--rides", "3", "--model", str(folder), MODEL_BUCKET="elsewhere")
    assert summary(done)["predicted"] == "3"
    assert f"Model: {folder}, run {run_id}\n" in done.stderr


def test_a_model_in_s3_is_read_with_the_users_own_settings(endpoint: str, s3: "S3Client", bucket: str) -> None:
    """MODEL_LOCATION is enough to name it, and RUN_ID to tag its predictions."""
    for path in Path(SAMPLE_MODEL).iterdir():
        s3.put_object(Bucket=bucket, Key=f"mine/{path.name}", Body=path.read_bytes())
    location = f"s3://{bucket}/mine"
    done = finish("run", "--rides", "3", AWS_ENDPOINT_URL=endpoint, MODEL_LOCATION=location, RUN_ID="tag")
    assert summary(done)["predicted"] == "3"
    assert f"Model: {location}, run tag\n" in done.stderr


def test_a_pickled_model_needs_its_digest(tmp_path: Path) -> None:
    """Without MODEL_SHA256 an error names the digest; with it the model runs."""
    folder = Path(copy_without_served_form(SAMPLE_MODEL, tmp_path / "model"))
    description = yaml.safe_load((folder / "MLmodel").read_text())
    description["flavors"]["sklearn"] |= {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
    (folder / "MLmodel").write_text(yaml.safe_dump(description))
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(mlflow.sklearn.load_model(SAMPLE_MODEL)))
    refused = finish("run", "--rides", "3", "--model", str(folder))
    assert refused.returncode == 1
    (digest,) = re.findall("set MODEL_SHA256=([0-9a-f]{64})$", refused.stderr, re.MULTILINE)
    assert f"run: {folder}/model.pkl, a cloudpickle, can run any code" in refused.stderr
    done = finish("run", "--rides", "3", "--model", str(folder), MODEL_SHA256=digest)
    assert summary(done)["predicted"] == "3"


def test_an_input_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    """It comes before anything is started."""
    assert failed(finish("run", "--data", "none.parquet", cwd=tmp_path)) == "run: none.parquet: there is no such file"
    nameless = changed_model(tmp_path, run_id=None, model_id=None, model_uuid=None)
    for variables, message in (
        ({"MODEL_LOCATION": "nowhere"}, "there is no folder nowhere"),
        ({"MODEL_LOCATION": str(nameless)}, "names no run: set RUN_ID"),
        ({"MODEL_LOCATION": "here", "MODEL_BUCKET": "there"}, "are both set"),
    ):
        assert message in failed(finish("run", cwd=tmp_path, **variables))  # type: ignore[arg-type]


def test_the_shard_of_a_key_is_the_one_that_kinesis_puts_it_on(kinesis: "KinesisClient", stream: str) -> None:
    """The commands for another terminal read that shard."""
    name = f"{stream}-wide"
    kinesis.create_stream(StreamName=name, ShardCount=5)
    for key in map(str, range(20)):
        put = kinesis.put_record(StreamName=name, PartitionKey=key, Data=b"")
        assert setup.find_shard(kinesis, name, key) == put["ShardId"]


def test_a_run_ends_if_its_consumer_hangs(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> None:
    """Here the stall is over after one second without a settled ride."""
    kinesis.put_record(StreamName=stream, PartitionKey="1", Data=b"{}")
    let_go, shown = threading.Event(), []

    def hang(event: dict[str, Any]) -> None:
        let_go.wait(PATIENCE)

    with EventSourceMapping(kinesis, s3, stream, hang, MappingSettings()) as mapping:

        def wait(stall: float = PATIENCE) -> float | None:
            ends = wait_until_settled({"": mapping}, 1, lambda: shown.append(mapping.counters().settled), stall)
            return ends[""]

        assert wait(stall=1) is None
        let_go.set()
        assert wait() is not None
    assert shown[-1] == 1
