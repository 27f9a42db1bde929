"""Moto's server in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws
from moto.kinesis.models import Shard
from moto.kinesis.responses import KinesisResponse

from scripts.aws.shards import ShardReader
from scripts.localaws.moto import newest_sequence_number, records_after, speed_up_responses
from tests.tools import ROOT, wait_for

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

PARENT = """
import importlib
import sys
import time
with importlib.import_module(sys.argv[1]).serve() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_no_record_is_lost_if_several_put_at_once(kinesis: "KinesisClient", stream: str) -> None:
    """Without our lock, moto now and then gives two records the same sequence number."""

    def put(producer: int) -> None:
        for request in range(10):
            data = [f"{producer}-{request}-{number}".encode() for number in range(200)]
            kinesis.put_records(StreamName=stream, Records=[{"Data": item, "PartitionKey": "a"} for item in data])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put, range(4)))
    assert len({record["Data"] for record in ShardReader(kinesis, stream, "shardId-000000000000").read()}) == 8000


def check_end_with_parent(module: str) -> None:
    """Check that the server of a module ends if the process that started it is killed."""
    command = [sys.executable, "-c", PARENT, module]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        port = int(parent.stdout.readline().rpartition(":")[2])
        assert listens(port)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not listens(port))


def listens(port: int) -> bool:
    """Return whether a server answers on the port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_kinesis_local_ends_with_a_parent_that_is_killed(kinesis_local: str) -> None:
    """The other Kinesis of the tests does not outlive a killed test session either."""
    check_end_with_parent("tests.localaws.second_kinesis")


def test_the_server_ends_with_a_parent_that_is_killed() -> None:
    """Nothing is left running."""
    check_end_with_parent("scripts.localaws.moto")


def moto_shard(records: int) -> Shard:
    """Build a shard of moto. In this process its methods are not replaced."""
    shard = Shard(0, 0, 2**128 - 1)
    for number in range(records):
        shard.put_record("key", "", "")
        # Seconds, whole ones: their differences are exact.
        shard.records[number + 1].created_at = number * 7
    return shard


@pytest.mark.parametrize("records", [0, 1, 5])
def test_the_replaced_methods_return_the_same_as_motos(records: int) -> None:
    """They do from every place in a shard, also before its first and beyond its last record, with every limit."""
    shard = moto_shard(records)
    assert newest_sequence_number(shard) == shard.get_max_sequence_number()
    for place in map(str, range(-1, records + 2)):
        for limit in (None, *range(1, records + 2)):
            assert records_after(shard, place, limit) == shard.get_records(place, limit)


def test_moto_still_asks_for_the_newest_number_at_a_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """If moto no longer does, replacing that method is useless."""
    shard = moto_shard(1)
    monkeypatch.setattr(Shard, "get_max_sequence_number", lambda shard: 41)
    assert shard.put_record("key", "", "") == "42"


def test_the_replaced_encoding_gives_the_same_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients read the same records and the same times, and an error is an error."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for name in ("get_records", "put_records"):
        monkeypatch.setattr(KinesisResponse, name, getattr(KinesisResponse, name))  # given back after the test
    with mock_aws():
        client = boto3.client("kinesis")
        client.create_stream(StreamName="stream", ShardCount=1)
        records: list[Any] = [{"Data": data, "PartitionKey": "é"} for data in (b"", b"\x00\xff", "é".encode())]
        place: Any = {"StreamName": "stream", "ShardId": "shardId-000000000000", "ShardIteratorType": "TRIM_HORIZON"}

        def talk() -> Any:
            put = client.put_records(StreamName="stream", Records=records)
            iterator = client.get_shard_iterator(**place)["ShardIterator"]
            got = client.get_records(ShardIterator=iterator, Limit=3)
            end = client.get_records(ShardIterator=client.get_records(ShardIterator=iterator)["NextShardIterator"])
            with pytest.raises(client.exceptions.ResourceNotFoundException):
                client.put_records(StreamName="none", Records=records)
            return [_members(one) for one in (put, got, end)]

        usual = talk()
        speed_up_responses()
        quick = talk()
    numbers = [[one["SequenceNumber"] for one in answers[0].pop("Records")] for answers in (usual, quick)]
    assert numbers == [["1", "2", "3"], ["4", "5", "6"]]
    assert quick == usual
    assert [one["Data"] for one in usual[1]["Records"]] == [one["Data"] for one in records]


def _members(response: Any) -> dict[str, Any]:
    """Return the members of a response that do not depend on when it was asked for."""
    others = {"ResponseMetadata", "NextShardIterator", "MillisBehindLatest"}
    return {name: value for name, value in response.items() if name not in others}
