"""Putting rides on a stream, from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from scripts.aws.shards import ShardReader
from scripts.cli import CommandError
from scripts.commands.put_rides import put
from scripts.localaws.chaos import Call, FailedEntries, Fault, serve
from scripts.sources.chosen import generated_rides
from streaming.delivery import OutputStream
from streaming.records import decode_event
from tests.builders import kinesis_event
from tests.tools import ROOT, failed, finish
from tests.trip_records import trip, write

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


def on(client: "KinesisClient", stream: str) -> "list[RecordTypeDef]":
    """Return what a stream of one shard holds."""
    return ShardReader(client, stream, "shardId-000000000000").read()


def test_generated_rides_are_put_in_order_of_their_seed(kinesis: "KinesisClient", stream: str) -> None:
    """More than one request takes, keyed by ride_id; the last line says how to get the same again."""
    done = finish("put-rides", "--stream", stream, "--rides", "1200", "--seed", "3")
    assert done.returncode == 0
    assert done.stdout == f"put 1200 rides on {stream} (--seed 3)\n"
    expected = [(record.partition_key, record.data) for record in generated_rides(1200, seed=3)]
    assert [(record["PartitionKey"], record["Data"]) for record in on(kinesis, stream)] == expected


def test_every_call_puts_other_rides(kinesis: "KinesisClient", stream: str) -> None:
    """Unless a seed is given."""
    for _ in range(2):
        finish("put-rides", "--stream", stream, "--rides", "3")
    assert len({record["PartitionKey"] for record in on(kinesis, stream)}) == 6


def test_bad_rides_are_put_among_the_good(kinesis: "KinesisClient", stream: str) -> None:
    """As many percent as asked for."""
    finish("put-rides", "--stream", stream, "--rides", "60", "--bad", "10")
    received, rejections = decode_event(kinesis_event(*(record["Data"] for record in on(kinesis, stream))))
    assert (len(received), len(rejections)) == (54, 6)


def test_lines_of_stdin_are_put_as_they_are(kinesis: "KinesisClient", stream: str) -> None:
    """Bad ones too."""
    done = finish("put-rides", "--stream", stream, "--json", "-", stdin=b'{"ride_id": "a"}\n\n{"ride_id": \xff\n')
    assert done.stdout == f"put 2 rides on {stream}\n"
    assert [record["Data"] for record in on(kinesis, stream)] == [b'{"ride_id": "a"}', b'{"ride_id": \xff']


def test_a_file_is_looked_for_in_the_callers_folder(kinesis: "KinesisClient", stream: str) -> None:
    """Wherever the tool itself lies."""
    done = finish("put-rides", "--stream", stream, "--json", "ride.json", cwd=ROOT / "events")
    assert done.returncode == 0
    assert [record["PartitionKey"] for record in on(kinesis, stream)] == ["256"]


def test_trip_records_are_put_and_the_others_counted(kinesis: "KinesisClient", stream: str, tmp_path: Path) -> None:
    """The last line says how many rows the contract leaves out."""
    write(tmp_path / "green_tripdata_2023-02.parquet", [trip(), trip(trip_distance=101)])
    done = finish("put-rides", "--stream", stream, "--data", "green_tripdata_2023-02.parquet", cwd=tmp_path)
    ending = "(1 rows of green_tripdata_2023-02.parquet left out: outside the contract)"
    assert done.stdout == f"put 1 rides on {stream} {ending}\n"
    assert [record["PartitionKey"] for record in on(kinesis, stream)] == ["2023/02_0"]


def test_throttled_rides_are_put_again(kinesis: "KinesisClient", stream: str, kinesis_endpoint: str) -> None:
    """Until every one is accepted, and none twice."""

    def throttle_all_but_one(call: Call) -> Fault | None:
        return FailedEntries(frozenset(range(1, len(call.entries)))) if call.number < 2 else None

    with serve(kinesis_endpoint, throttle_all_but_one) as spoiled:
        done = finish("put-rides", "--stream", stream, "--rides", "40", AWS_ENDPOINT_URL_KINESIS=spoiled.url)
    assert done.returncode == 0
    keys = [record["PartitionKey"] for record in on(kinesis, stream)]
    assert len(keys) == len(set(keys)) == 40


def test_a_stream_that_accepts_no_more_ends_it(
    kinesis: "KinesisClient", stream: str, kinesis_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how far it came."""
    monkeypatch.setattr("streaming.delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)

    def throttle(call: Call) -> Fault | None:
        return FailedEntries(frozenset(range(len(call.entries)))) if call.number else None

    with serve(kinesis_endpoint, throttle) as spoiled:
        client = boto3.client("kinesis", endpoint_url=spoiled.url)
        with pytest.raises(CommandError, match="500 of 700"):
            list(put(OutputStream(client, stream), generated_rides(700, seed=0)))
    assert len(on(kinesis, stream)) == 500


def test_a_stream_that_is_not_there_is_one_line(kinesis_endpoint: str) -> None:
    """It names the stream and the place that was looked at."""
    line = failed(finish("put-rides", "--stream", "no-such-stream"))
    assert line.startswith(f"put-rides: there is no stream no-such-stream in us-east-1 at {kinesis_endpoint}:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--json", "none.json"), "put-rides: none.json cannot be read: No such file or directory"),
        (("--data", "none.parquet"), "put-rides: none.parquet: there is no such file"),
        (("--profile", "nobody"), "put-rides: The config profile (nobody) could not be found"),
    ],
)
def test_what_cannot_be_done_is_one_line(stream: str, arguments: tuple[str, ...], said: str) -> None:
    """No traceback."""
    assert failed(finish("put-rides", "--stream", stream, *arguments)) == said


def test_a_profile_chooses_the_region(stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes before credentials in the environment."""
    config = tmp_path / "config"
    config.write_text("[profile there]\nregion = eu-west-1\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    client = boto3.client("kinesis", region_name="eu-west-1")
    client.create_stream(StreamName=stream, ShardCount=1)
    done = finish("put-rides", "--stream", stream, "--rides", "2", "--profile", "there", AWS_CONFIG_FILE=str(config))
    assert done.returncode == 0
    assert len(on(client, stream)) == 2


@pytest.mark.parametrize("tool", ["put-rides", "read-predictions", "invoke", "replay", "run", "soak", "fuzz"])
def test_every_tool_explains_its_options(tool: str, tmp_path: Path) -> None:
    """From any folder, with no AWS at all."""
    done = finish(tool, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {tool} ")
    assert list(tmp_path.iterdir()) == []
