"""Putting rides on a stream, from the command line."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from scripts.aws.putting import put
from scripts.aws.shards import ShardReader
from scripts.cli import CommandError
from scripts.localaws.chaos import serve
from scripts.localaws.faults import Call, Delayed, FailedEntries, Fault
from scripts.sources.synthetic import generate_rides
from streaming.delivery import OutputStream
from streaming.records import decode_event
from tests.builders import kinesis_event
from tests.tools import PATIENCE, ROOT, failed, finish, start, wait_for
from tests.trip_records import trip, write

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


def read(client: "KinesisClient", stream: str) -> "list[RecordTypeDef]":
    """Return the records of a stream that has one shard."""
    return ShardReader(client, stream, "shardId-000000000000").read()


def test_generated_rides_are_put_in_order_of_their_seed(kinesis: "KinesisClient", stream: str) -> None:
    """The partition key is the ride_id; the last line says how to get the same rides again."""
    done = finish("put-rides", "--stream", stream, "--rides", "1200", "--seed", "3")
    assert done.returncode == 0
    assert done.stdout == f"put 1200 rides on {stream} (--seed 3)\n"
    expected = [(record.partition_key, record.data) for record in generate_rides(1200, seed=3)]
    assert [(record["PartitionKey"], record["Data"]) for record in read(kinesis, stream)] == expected


def test_every_call_puts_other_rides(kinesis: "KinesisClient", stream: str) -> None:
    """Without a seed, no two calls share an id."""
    for _ in range(2):
        finish("put-rides", "--stream", stream, "--rides", "3")
    assert len({record["PartitionKey"] for record in read(kinesis, stream)}) == 6


def test_bad_rides_are_put_among_good_ones(kinesis: "KinesisClient", stream: str) -> None:
    """The percentage is the one asked for."""
    finish("put-rides", "--stream", stream, "--rides", "60", "--bad", "10")
    received, rejections = decode_event(kinesis_event(*(record["Data"] for record in read(kinesis, stream))))
    assert (len(received), len(rejections)) == (54, 6)


def test_documents_of_stdin_are_put_as_they_are(kinesis: "KinesisClient", stream: str) -> None:
    """A bad ride is put too, because the consumer rejects it."""
    done = finish("put-rides", "--stream", stream, "--json", "-", stdin=b'{"ride_id": "a"}\n\n[{"ride_id": \n1}]')
    assert done.stdout == f"put 2 rides on {stream}\n"
    assert [record["Data"] for record in read(kinesis, stream)] == [b'{"ride_id": "a"}', b'{"ride_id": \n1}']


def test_text_that_is_not_json_is_put_only_with_raw(kinesis: "KinesisClient", stream: str) -> None:
    """Without ``--raw``, one line says at which line and column the text is not JSON, and nothing is put."""
    text = b'{"ride_id": "a"}\n\n{"ride_id": \xff\n'
    line = failed(finish("put-rides", "--stream", stream, "--json", "-", stdin=text))
    assert line.startswith("put-rides: stdin, line 3, column 13: this is not JSON (not UTF-8: invalid start byte)")
    assert read(kinesis, stream) == []
    done = finish("put-rides", "--stream", stream, "--json", "-", "--raw", stdin=text)
    assert done.stdout == f"put 2 rides on {stream}\n"
    assert [record["Data"] for record in read(kinesis, stream)] == [b'{"ride_id": "a"}', b'{"ride_id": \xff']


def test_a_file_is_looked_for_in_the_callers_folder(kinesis: "KinesisClient", stream: str) -> None:
    """The command's own folder does not matter."""
    done = finish("put-rides", "--stream", stream, "--json", "ride.json", cwd=ROOT / "events")
    assert done.returncode == 0
    assert [record["PartitionKey"] for record in read(kinesis, stream)] == ["256"]


def test_trip_records_outside_the_contract_are_counted(kinesis: "KinesisClient", stream: str, tmp_path: Path) -> None:
    """The last line says how many rows were left out."""
    write(tmp_path / "green_tripdata_2023-02.parquet", [trip(), trip(trip_distance=101)])
    done = finish("put-rides", "--stream", stream, "--data", "green_tripdata_2023-02.parquet", cwd=tmp_path)
    ending = "(1 rows of green_tripdata_2023-02.parquet left out: outside the contract)"
    assert done.stdout == f"put 1 rides on {stream} {ending}\n"
    assert [record["PartitionKey"] for record in read(kinesis, stream)] == ["2023/02_0"]


def test_throttled_rides_are_put_again(kinesis: "KinesisClient", stream: str, kinesis_endpoint: str) -> None:
    """Each ride is accepted in the end, and none twice."""

    def throttle_all_but_one(call: Call) -> Fault | None:
        return FailedEntries(frozenset(range(1, len(call.entries)))) if call.number < 2 else None

    with serve(kinesis_endpoint, throttle_all_but_one) as spoiled:
        done = finish("put-rides", "--stream", stream, "--rides", "40", AWS_ENDPOINT_URL_KINESIS=spoiled.url)
    assert done.returncode == 0
    keys = [record["PartitionKey"] for record in read(kinesis, stream)]
    assert len(keys) == len(set(keys)) == 40


def test_a_stream_that_accepts_no_more_ends_it(
    kinesis: "KinesisClient", stream: str, kinesis_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how many rides were accepted."""
    monkeypatch.setattr("streaming.delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)

    def throttle(call: Call) -> Fault | None:
        return FailedEntries(frozenset(range(len(call.entries)))) if call.number else None

    with serve(kinesis_endpoint, throttle) as spoiled:
        client = boto3.client("kinesis", endpoint_url=spoiled.url)
        with pytest.raises(CommandError, match="500 of 700"):
            list(put(OutputStream(client, stream), generate_rides(700, seed=0)))
    assert len(read(kinesis, stream)) == 500


@pytest.mark.parametrize(
    ("number", "arguments"),
    [(signal.SIGINT, ("--rides", "2000")), (signal.SIGTERM, ("--rides", "3000", "--aggregate"))],
)
def test_an_interrupted_command_says_how_many_rides_are_on_the_stream(
    kinesis: "KinesisClient", stream: str, kinesis_endpoint: str, number: signal.Signals, arguments: tuple[str, ...]
) -> None:
    """The request under way counts as well: its response is awaited."""

    def answer_late(call: Call) -> Fault | None:
        return Delayed(2)

    with (
        serve(kinesis_endpoint, answer_late) as slow,
        start("put-rides", "--stream", stream, *arguments, AWS_ENDPOINT_URL_KINESIS=slow.url) as putting,
    ):
        wait_for(lambda: read(kinesis, stream))
        putting.send_signal(number)
        stdout, stderr = putting.communicate(timeout=PATIENCE)
    received, _ = decode_event(kinesis_event(*(record["Data"] for record in read(kinesis, stream))))
    assert received
    assert (putting.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == f"put-rides: interrupted: put {len(received)} rides on {stream}"


@pytest.mark.parametrize("tool", ["put-rides", "read-predictions"])
def test_a_stream_that_is_not_there_is_one_line(kinesis_endpoint: str, tool: str) -> None:
    """It names the stream, the region and the endpoint."""
    line = failed(finish(tool, "--stream", "no-such-stream"))
    assert line.startswith(f"{tool}: there is no stream no-such-stream in us-east-1 at {kinesis_endpoint}:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "none.json"), "put-rides: none.json cannot be read: No such file or directory"),
        (("--data", "none.parquet"), "put-rides: none.parquet: there is no such file"),
        (
            ("--profile", "nobody"),
            "put-rides: the SDK cannot use AWS_PROFILE: The config profile (nobody) could not be found",
        ),
    ],
)
def test_an_error_is_one_line(stream: str, arguments: tuple[str, ...], message: str) -> None:
    """There is no traceback."""
    assert failed(finish("put-rides", "--stream", stream, *arguments)) == message


def test_a_profile_chooses_the_region(stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes precedence over credentials in the environment."""
    config = tmp_path / "config"
    config.write_text("[profile there]\nregion = eu-west-1\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    client = boto3.client("kinesis", region_name="eu-west-1")
    client.create_stream(StreamName=stream, ShardCount=1)
    done = finish("put-rides", "--stream", stream, "--rides", "2", "--profile", "there", AWS_CONFIG_FILE=str(config))
    assert done.returncode == 0
    assert len(read(client, stream)) == 2


def test_an_arn_names_a_stream_of_any_region(stream: str) -> None:
    """The commands put records on the stream and read its records, although another region is set."""
    client = boto3.client("kinesis", region_name="eu-west-1")
    client.create_stream(StreamName=stream, ShardCount=1)
    arn = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    done = finish("put-rides", "--stream", f"{arn}/consumer/fast-lane:1712261124", "--rides", "2")
    assert done.stdout.startswith(f"put 2 rides on {arn} ")
    assert len(read(client, stream)) == 2
    done = finish("read-predictions", "--stream", arn, "--idle", "0")
    assert done.stderr.count("is no prediction") == 2


@pytest.mark.parametrize(
    ("tool", "option"),
    [("put-rides", "--stream"), ("read-predictions", "--stream"), ("replay", "--stream"), ("replay", "--from")],
)
def test_a_text_that_is_no_streams_name_is_refused(tool: str, option: str) -> None:
    """AWS is not asked for anything."""
    done = finish(tool, option, '"ride_events"')
    assert done.returncode == 2
    assert done.stderr.endswith(f"argument {option}: '\"ride_events\"' is neither the name nor the ARN of a stream\n")
