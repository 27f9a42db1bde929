"""The local stack: the whole flow in one command, its account, and what it does when the consumer fails."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import msgspec
import pytest

from rides import Prediction, encode_prediction
from scripts.commands.read_predictions import ReadPrediction
from scripts.commands.run import wait_until_settled
from scripts.localaws import setup
from scripts.localaws.account import Account, Findings, Rejected, find, settle
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import MappingSettings
from tests.tools import PATIENCE, finish, start
from tests.trip_records import trip, write

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

HOSTILE = {
    "AWS_CONFIG_FILE": "/nowhere/config",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_KINESIS": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_PROFILE": "production",
    "AWS_REGION": "eu-west-1",
    "FAILURES_LOCATION": "s3://production",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "MODEL_LOCATION": "s3://production/model",
    "MODEL_SHA256": "0" * 64,
    "TEST_RUN": "True",
    "http_proxy": "http://127.0.0.1:1",
}
"""What must not lead the stack to a real account, nor change it."""


def summary(printed: str) -> dict[str, str]:
    """Return the rows of the summary."""
    rows = re.findall(r"^│ ([^│]+) │ +([^│]+) │$", printed.partition("Summary")[2], re.MULTILINE)
    return {name.strip(): value for name, value in rows}


def rows_of_rides(printed: str) -> list[list[str]]:
    """Return the rows of the table of rides."""
    table = printed.partition("Rides and their predictions")[2].partition("└")[0]
    return [line.strip("│").replace("│", " ").split() for line in table.splitlines() if line.startswith("│")]


def test_every_ride_is_shown_with_its_prediction() -> None:
    """Whatever of the user's own environment points elsewhere."""
    done = finish("run", "--rides", "12", "--seed", "4", **HOSTILE)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    rides = rows_of_rides(done.stdout)
    assert len(rides) == 12
    assert rides[1][0] == "ride-4-2"
    assert all(float(minutes) > 0 for *_, minutes in rides)
    numbers = summary(done.stdout)
    assert [numbers[name] for name in ("put", "predicted", "rejected", "redelivered")] == ["12", "12", "0", "0"]
    assert numbers["put to prediction, p95"].endswith(" ms")
    assert "Traceback" not in done.stderr


def test_bad_rides_are_accounted_for(tmp_path: Path) -> None:
    """By kind, with where they are kept; of many rides only the first are shown."""
    done = finish("run", "--rides", "300", "--bad", "10", "--shards", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(rows_of_rides(done.stdout)) == 20
    assert "and 250 more" in done.stdout
    numbers = summary(done.stdout)
    assert [numbers[name] for name in ("put", "predicted", "rejected")] == ["300", "270", "30"]
    assert "s3://ride-failures/rejections/" in done.stdout
    kinds = re.findall(r"^│ (json|ride|utf-8) +│ +(\d+) │", done.stdout, re.MULTILINE)
    assert sum(int(number) for _, number in kinds) == 30
    assert list(tmp_path.iterdir()) == []


def test_trip_records_are_predicted(tmp_path: Path) -> None:
    """All that the contract takes; the others are counted."""
    write(tmp_path / "green_tripdata_2023-02.parquet", [trip(), trip(trip_distance=101), trip(trip_distance=0)])
    done = finish("run", "--data", "green_tripdata_2023-02.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in rows_of_rides(done.stdout)] == ["2023/02_0", "2023/02_2"]
    assert "1 rows of green_tripdata_2023-02.parquet were left out" in done.stdout


def test_serving_takes_the_commands_that_it_prints(tmp_path: Path) -> None:
    """With the AWS CLI, as another terminal runs them, until Ctrl-C ends everything well."""
    with start("run", "--rides", "3", "--shards", "2", "--serve", cwd=tmp_path) as stack:
        assert stack.stdout
        printed = list(itertools.takewhile(lambda line: "read-predictions" not in line, stack.stdout))
        commands = "".join(printed).partition("In another terminal:")[2]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        shell = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input=commands + "./scripts/read-predictions --json --limit 99",
            env={**os.environ, "PATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert shell.returncode == 0, shell.stderr
        stack.send_signal(signal.SIGINT)
        _, said = stack.communicate(timeout=PATIENCE)
    answer, rest = json.JSONDecoder().raw_decode(shell.stdout)[0], shell.stdout.partition("}\n")[2]
    assert set(answer) >= {"ShardId", "SequenceNumber"}
    read, *_, last = rest.splitlines()
    assert json.loads(read)["prediction"]["ride_id"] == 256
    # Three of the stack's own, the one above, and 95 good ones of the hundred that put-rides puts.
    assert len(rest.splitlines()) == 1 + 1 + 99
    assert json.loads(last)["version"] == json.loads(read)["version"]
    assert stack.returncode == 0
    assert "Traceback" not in said
    with socket.socket() as client:
        port = int(re.findall(r"AWS_ENDPOINT_URL=http://127.0.0.1:(\d+)", commands)[0])
        assert client.connect_ex(("127.0.0.1", port)) != 0


def test_chaos_loses_nothing(tmp_path: Path) -> None:
    """What was done to the function's calls is shown; what is left in doubt is delivered again."""
    done = finish("run", "--rides", "1200", "--bad", "2", "--shards", "2", "--chaos", "--seed", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = summary(done.stdout)
    assert (rows["put"], rows["predicted"], rows["rejected"]) == ("1,200", "1,176", "24")
    assert "PutRecords: entries answered ProvisionedThroughputExceededException" in done.stdout


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Before anything is started."""
    done = finish("run", "--data", "none.parquet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "run: none.parquet: there is no such file\n"


def test_a_key_is_looked_for_on_the_shard_that_kinesis_puts_it_on(kinesis: "KinesisClient", stream: str) -> None:
    """Kinesis's own answer is the measure."""
    name = f"{stream}-wide"
    kinesis.create_stream(StreamName=name, ShardCount=5)
    for key in map(str, range(20)):
        put = kinesis.put_record(StreamName=name, PartitionKey=key, Data=b"")
        assert setup.shard_of(kinesis, name, key) == put["ShardId"]


def test_a_consumer_that_hangs_is_given_up(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> None:
    """A second without anything settled is enough here."""
    kinesis.put_record(StreamName=stream, PartitionKey="1", Data=b"{}")
    let_go, shown = threading.Event(), []

    def hang(event: dict[str, Any]) -> None:
        let_go.wait(PATIENCE)

    with EventSourceMapping(kinesis, s3, stream, hang, MappingSettings()) as mapping:
        assert not wait_until_settled(mapping, 1, lambda: shown.append(mapping.counters().settled), stall=1)
        let_go.set()
        assert wait_until_settled(mapping, 1, lambda: shown.append(mapping.counters().settled))
    assert shown[-1] == 1


def test_a_consumer_that_dies_is_raised(s3: "S3Client", endpoint: str, stream: str) -> None:
    """Waiting for it would never end."""
    kinesis = boto3.client("kinesis", endpoint_url=endpoint)
    mapping = EventSourceMapping(kinesis, s3, stream, lambda event: None, MappingSettings())
    with contextlib.suppress(kinesis.exceptions.ResourceNotFoundException), mapping:
        kinesis.delete_stream(StreamName=stream)
        wait_until_settled(mapping, 1, lambda: None)
        pytest.fail("it waited for a consumer that was dead")


def read(ride_id: int | str, event: str = "", at: float = 2) -> ReadPrediction:
    """Build a prediction as it was read from the output stream, so many seconds after the epoch."""
    prediction = Prediction("model", "version", "ride_duration", 12.5, ride_id, event or f"shardId-0:{ride_id}")
    return ReadPrediction(prediction, b"", datetime.fromtimestamp(at, UTC))


def rejection(key: str) -> Rejected:
    """Build a line of the failures bucket."""
    return Rejected("ride", "a reason", key)


def account(
    *put: str, read: Sequence[ReadPrediction] = (), rejected: Sequence[str] = (), given_up: Sequence[str] = ()
) -> Account:
    """Settle rides that were put one second after the epoch."""
    findings = Findings(read, [rejection(key) for key in rejected], set(given_up))
    return settle(dict.fromkeys(put, 1.0), findings, redelivered=0, ended_at=3)


def test_an_account_is_complete_where_all_is_predicted_or_rejected() -> None:
    """Ids are told apart as the partition keys that they become."""
    settled = account("1", "a", "b", read=[read(1), read("a")], rejected=["b"])
    assert settled.complete
    assert settled.missing == []
    assert settled.rides_per_second == 1.5


def test_what_came_twice_counts_once_and_as_it_came_first() -> None:
    """Delivery is at least once: readers drop what repeats."""
    settled = account("1", "b", read=[read(1, at=4), read(1, at=2)], rejected=["b", "b"])
    assert settled.complete
    assert settled.latencies == [1.0]


def test_what_is_nowhere_is_missing() -> None:
    """By its partition key."""
    settled = account("1", "a", "b", read=[read(1)], rejected=["b"])
    assert not settled.complete
    assert settled.missing == ["a"]


def test_a_prediction_that_nobody_asked_for_makes_up_for_none() -> None:
    """The numbers would agree."""
    settled = account("1", "a", read=[read(1), read("stray")])
    assert not settled.complete
    assert settled.missing == ["a"]


def test_what_the_mapping_gave_up_is_neither_missing_nor_complete() -> None:
    """Unless it was predicted all the same, in a try that failed later."""
    settled = account("1", "a", read=[read(1)], given_up=["1", "a"])
    assert not settled.complete
    assert settled.given_up == {"a"}
    assert settled.missing == []


@pytest.mark.parametrize(("percent", "seconds"), [(50, 5.0), (95, 10.0), (90, 9.0), (1, 1.0)])
def test_a_percentile_is_a_latency_that_was_measured(percent: int, seconds: float) -> None:
    """The nearest rank."""
    rides = [str(number) for number in range(10)]
    settled = account(*rides, read=[read(int(ride), at=2 + int(ride)) for ride in rides])
    assert settled.latency(percent) == seconds


def test_without_predictions_there_is_no_latency() -> None:
    """Everything was bad."""
    assert account("1", rejected=["1"]).latency(50) is None


def test_what_a_run_left_behind_is_found(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> None:
    """In the output stream, among the rejections, and in the mapping's on-failure destination."""
    setup.create(kinesis, s3, shards=2)
    for ride_id in (1, 2):
        data = encode_prediction(Prediction("model", "version", "ride_duration", 12.5, ride_id, f"shard:{ride_id}"))
        kinesis.put_record(StreamName=setup.OUTPUT_STREAM, PartitionKey=str(ride_id), Data=data)
    lines = msgspec.json.Encoder().encode_lines([rejection("3"), rejection("4")])
    s3.put_object(Bucket=setup.FAILURES_BUCKET, Key=f"{setup.REJECTIONS_PREFIX}/a/b/1-2.jsonl", Body=lines)
    kinesis.put_record(StreamName=stream, PartitionKey="5", Data=b"{}")

    def fail(event: dict[str, Any]) -> None:
        raise ValueError

    settings = MappingSettings(maximum_retry_attempts=0, on_failure=f"s3://{setup.FAILURES_BUCKET}")
    with EventSourceMapping(kinesis, s3, stream, fail, settings) as mapping:
        assert mapping.wait_for(1, timeout=PATIENCE)

    findings = find(kinesis, s3)
    assert {found.prediction.ride_id for found in findings.predictions} == {1, 2}
    assert findings.rejected == [rejection("3"), rejection("4")]
    assert findings.given_up == {"5"}
