"""Following a stream of predictions, from the command line."""

import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from scripts.aws.predictions import ReadPrediction, read_prediction
from scripts.aws.shards import follow
from scripts.commands.read_predictions import drop_repeats
from tests.tools import PATIENCE, ROOT, failed, finish, start

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


def prediction(ride_id: int | str, minutes: float = 12.5) -> bytes:
    """Build the data of an output record."""
    return json.dumps(
        {
            "model": "ride_duration_prediction_model",
            "version": "e1efc53e9bd149078b0c12aeaa6365df",
            "prediction": {"ride_duration": minutes, "ride_id": ride_id},
            "event_id": f"shardId-000000000000:{ride_id}",
        }
    ).encode()


def put(client: "KinesisClient", stream: str, *data: bytes) -> list[str]:
    """Put records in order and return their sequence numbers."""
    return [
        client.put_record(StreamName=stream, PartitionKey=str(number), Data=item)["SequenceNumber"]
        for number, item in enumerate(data)
    ]


@pytest.fixture
def newcomer(stream: str) -> Iterator[subprocess.Popen[str]]:
    """Start following a stream, as JSON lines from the newest record on, and wait until it does."""
    with start("read-predictions", "--stream", stream, "--json", "--from", "newest") as process:
        assert process.stderr
        assert process.stderr.readline().startswith(f"Reading {stream} from its newest record on")
        yield process
        process.kill()


def test_json_lines_are_the_records_data(kinesis: "KinesisClient", stream: str) -> None:
    """Nothing else is on stdout, so it can be redirected into a file."""
    put(kinesis, stream, prediction(1), prediction("a", 7.25))
    done = finish("read-predictions", "--stream", stream, "--json", "--idle", "0")
    assert done.returncode == 0
    assert done.stdout.encode() == prediction(1) + b"\n" + prediction("a", 7.25) + b"\n"


def test_a_prediction_of_several_lines_becomes_one(kinesis: "KinesisClient", stream: str) -> None:
    """Readers of JSON lines rely on this."""
    put(kinesis, stream, json.dumps(json.loads(prediction("a\nb")), indent=2).encode())
    (line,) = finish("read-predictions", "--stream", stream, "--json", "--idle", "0").stdout.splitlines()
    assert json.loads(line) == json.loads(prediction("a\nb"))


def test_a_table_shows_time_value_version_and_id(kinesis: "KinesisClient", stream: str) -> None:
    """Control characters in an id are escaped, so that they cannot act on the terminal."""
    put(kinesis, stream, prediction(256, 15.7179), prediction("[bold]\x1b[2J"))
    header, first, second = finish("read-predictions", "--stream", stream, "--idle", "0").stdout.splitlines()
    assert header.split() == ["arrived", "predicted", "version", "ride_id"]
    assert first.split()[1:] == ["15.72", "e1efc53e9bd149078b0c12aeaa6365df", "256"]
    assert second.split()[-1] == r"[bold]\x1b[2J"


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_other_data_gives_a_warning(kinesis: "KinesisClient", stream: str, form: tuple[str, ...]) -> None:
    """The warning shows the data on stderr, and the command goes on."""
    _, second, _ = put(kinesis, stream, b"\xf3hello\x1b[2J", b'{"model": 1}', prediction(256))
    done = finish("read-predictions", "--stream", stream, "--idle", "0", *form)
    assert done.returncode == 0
    assert "256" in done.stdout
    assert "hello" not in done.stdout
    assert r"b'\xf3hello\x1b[2J'" in done.stderr
    assert f"shardId-000000000000:{second} is no prediction: Expected `str`, got `int` - at `$.model`" in done.stderr


def test_a_limit_ends_it(kinesis: "KinesisClient", stream: str) -> None:
    """Data that is not a prediction does not count."""
    put(kinesis, stream, b"none", *(prediction(number) for number in range(5)))
    done = finish("read-predictions", "--stream", stream, "--json", "--limit", "3")
    assert [json.loads(line)["prediction"]["ride_id"] for line in done.stdout.splitlines()] == [0, 1, 2]


def test_distinct_shows_each_event_id_once(kinesis: "KinesisClient", stream: str) -> None:
    """The first one is shown, unchanged, however long ago it was."""
    put(kinesis, stream, *(prediction(number) for number in range(3)))
    put(kinesis, stream, prediction(1, 7.25), prediction(3), prediction(3, 7.25))
    done = finish("read-predictions", "--stream", stream, "--json", "--idle", "0", "--distinct")
    assert done.stdout.encode() == b"".join(prediction(number) + b"\n" for number in range(4))
    assert done.stderr.splitlines()[-1] == "4 predictions"


def test_repeats_do_not_count_towards_a_limit(kinesis: "KinesisClient", stream: str) -> None:
    """A limit of three means three different predictions."""
    put(kinesis, stream, *(prediction(ride_id) for ride_id in (1, 1, 2, 1, 2, 3, 4)))
    done = finish("read-predictions", "--stream", stream, "--json", "--limit", "3", "--distinct")
    assert [json.loads(line)["prediction"]["ride_id"] for line in done.stdout.splitlines()] == [1, 2, 3]


def test_repeats_are_left_out_across_rounds() -> None:
    """A redelivery may come much later."""
    reads = [ReadPrediction(read_prediction(prediction(ride_id)), b"", datetime.now(UTC)) for ride_id in (1, 2, 3)]
    rounds = [[reads[0], reads[1], reads[0]], [reads[1]], [reads[2], reads[0]]]
    seen: set[str] = set()
    assert [drop_repeats(batch, seen) for batch in rounds] == [[reads[0], reads[1]], [], [reads[2]]]


def test_all_shards_are_read(kinesis: "KinesisClient", stream: str) -> None:
    """Partition keys are spread over them."""
    kinesis.create_stream(StreamName=f"{stream}-wide", ShardCount=4)
    put(kinesis, f"{stream}-wide", *(prediction(number) for number in range(20)))
    done = finish("read-predictions", "--stream", f"{stream}-wide", "--json", "--limit", "20")
    assert {json.loads(line)["prediction"]["ride_id"] for line in done.stdout.splitlines()} == set(range(20))


def test_newest_leaves_out_earlier_records(
    kinesis: "KinesisClient", stream: str, newcomer: "subprocess.Popen[str]"
) -> None:
    """Later records are shown as they come. Ctrl-C ends the command with exit code 0."""
    assert newcomer.stdout
    for ride_id in (7, 8):
        put(kinesis, stream, prediction(ride_id))
        assert json.loads(newcomer.stdout.readline())["prediction"]["ride_id"] == ride_id
    newcomer.send_signal(signal.SIGINT)
    _, text = newcomer.communicate(timeout=PATIENCE)
    assert newcomer.returncode == 0
    assert text == "2 predictions\n"


def test_a_closed_pipe_ends_it_quietly(kinesis: "KinesisClient", stream: str) -> None:
    """The reader may be head, and no further record may come whose write would fail."""
    put(kinesis, stream, prediction(1), prediction(2))
    command = f"{ROOT}/scripts/read-predictions --stream {stream} --json | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert done.stdout == prediction(1) + b"\n"
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr


def test_shards_that_a_merge_makes_are_followed(kinesis: "KinesisClient", stream: str) -> None:
    """They are read from their first record on, as soon as one of their parents is read to its end."""
    kinesis.create_stream(StreamName=f"{stream}-pair", ShardCount=2)
    rounds = follow(kinesis, f"{stream}-pair", "LATEST", pause=0)
    assert next(rounds) == []
    put(kinesis, f"{stream}-pair", b"a", b"b", b"c")
    parents = {"ShardToMerge": "shardId-000000000000", "AdjacentShardToMerge": "shardId-000000000001"}
    kinesis.merge_shards(StreamName=f"{stream}-pair", **parents)
    put(kinesis, f"{stream}-pair", b"d")
    close_at_its_end(kinesis)
    found = {(shard_id, record["Data"]) for _, read in zip(range(5), rounds, strict=False) for shard_id, record in read}
    assert {data for shard_id, data in found if shard_id in parents.values()} >= {b"a", b"b", b"c"}
    # On AWS the new shard holds just d. Moto copies a, b and c there, and puts d on a closed one.
    assert "shardId-000000000002" in {shard_id for shard_id, _ in found}


def close_at_its_end(client: "KinesisClient") -> None:
    """Let the next answer to GetRecords have no next iterator: AWS says so that a closed shard ends, moto does not."""

    def once(parsed: dict[str, Any], **_: object) -> None:
        parsed.pop("NextShardIterator", None)
        client.meta.events.unregister("after-call.kinesis.GetRecords", once)

    client.meta.events.register("after-call.kinesis.GetRecords", once)


def test_a_stream_that_is_not_there_is_one_line(kinesis_endpoint: str) -> None:
    """It names the stream, the region and the endpoint."""
    line = failed(finish("read-predictions", "--stream", "no-such-stream"))
    assert line.startswith(f"read-predictions: there is no stream no-such-stream in us-east-1 at {kinesis_endpoint}:")
