"""Moto's server in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from scripts.shards import ShardReader
from tests.tools import PATIENCE, ROOT

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

PARENT = """
import time
from scripts import moto_server
with moto_server.serve() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_no_record_is_lost_where_several_put_at_once(kinesis: "KinesisClient", stream: str) -> None:
    """Moto alone gives two of them the same sequence number now and then."""

    def put(producer: int) -> None:
        for request in range(10):
            data = [f"{producer}-{request}-{number}".encode() for number in range(200)]
            kinesis.put_records(StreamName=stream, Records=[{"Data": item, "PartitionKey": "a"} for item in data])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put, range(4)))
    assert len({record["Data"] for record in ShardReader(kinesis, stream, "shardId-000000000000").read()}) == 8000


def test_the_server_ends_with_its_parent_however_that_ends() -> None:
    """Nothing is left behind by a parent that was killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        port = int(parent.stdout.readline().rpartition(":")[2])
        assert listens(port)
        parent.send_signal(signal.SIGKILL)
    give_up = time.monotonic() + PATIENCE
    while listens(port) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not listens(port)


def listens(port: int) -> bool:
    """Return whether a server answers on the port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
