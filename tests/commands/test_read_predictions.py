"""Following a stream of predictions, from the command line."""

import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from rides import Prediction
from scripts.aws.predictions import NotAPredictionError, ReadPrediction, read_prediction
from scripts.aws.shards import ShardReader, Start, follow
from scripts.commands.read_predictions import drop_repeats
from tests.tools import PATIENCE, ROOT, finish, start

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


MODEL, VERSION = "ride_duration_prediction_model", "e1efc53e9bd149078b0c12aeaa6365df"
EVENT_ID = "shardId-000000000000:1"


def output(prediction: object, event_id: str = EVENT_ID) -> bytes:
    """Build the data of an output record with this prediction."""
    record = {"model": MODEL, "version": VERSION, "prediction": prediction, "event_id": event_id}
    return json.dumps(record).encode()


def prediction(ride_id: int | str, minutes: float = 12.5) -> bytes:
    """Build the data of an output record for a ride, whose event_id depends on the ride_id."""
    return output({"ride_duration": minutes, "ride_id": ride_id}, f"shardId-000000000000:{ride_id}")


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


@pytest.mark.parametrize("ride_id", [256, "a"])
def test_the_value_may_have_any_name(ride_id: int | str) -> None:
    """It may be on either side of the ride_id."""
    expected = Prediction(MODEL, VERSION, "tip_amount", 1.5, ride_id, EVENT_ID)
    assert read_prediction(output({"tip_amount": 1.5, "ride_id": ride_id})) == expected
    assert read_prediction(output({"ride_id": ride_id, "tip_amount": 1.5})) == expected


@pytest.mark.parametrize(
    "prediction",
    [
        {},
        {"ride_duration": 1.5},
        {"ride_id": 1},
        {"ride_duration": "1.5", "ride_id": 1},
        {"ride_duration": 1.5, "ride_id": 1.5},
        {"ride_duration": 1.5, "tip_amount": 2.5, "ride_id": 1},
        {"ride_duration": True, "ride_id": 1},
    ],
    ids=["nothing", "no ride_id", "no value", "text", "half an id", "two values", "no number"],
)
def test_other_data_is_not_a_prediction(prediction: dict[str, Any]) -> None:
    """The message says where."""
    with pytest.raises(NotAPredictionError, match=r"at `\$\.prediction"):
        read_prediction(output(prediction))


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


def expire_next_read(kinesis: "KinesisClient") -> None:
    """Make the client's next GetRecords fail as it does on AWS, because moto's iterators never expire."""
    bodies = [b'{"__type": "ExpiredIteratorException", "message": "Iterator expired."}']

    def answer(request: Any, **_: Any) -> Any:
        if not bodies:
            return None
        raw: Any = type("Raw", (), {"stream": lambda self, **_: iter([bodies.pop()])})()
        return AWSResponse(request.url, 400, HTTPHeaders(), raw)

    kinesis.meta.events.register("before-send.kinesis.GetRecords", answer)


@pytest.mark.parametrize(("start", "expected"), [("TRIM_HORIZON", [b"old", b"new"]), ("LATEST", [b"new"])])
def test_an_expired_iterator_loses_and_repeats_nothing(
    kinesis: "KinesisClient", stream: str, start: Start, expected: list[bytes]
) -> None:
    """It may expire before the first record, if a laptop sleeps, or later: reading continues at its position."""
    put(kinesis, stream, b"old")
    reader = ShardReader(kinesis, stream, "shardId-000000000000", start)
    for data in (expected, [b"later"]):
        expire_next_read(kinesis)
        put(kinesis, stream, data[-1])
        assert reader.read() == []
        assert [record["Data"] for record in reader.read()] == data


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
