"""A Prefect server, months of trips, and runs of ``./scripts/score`` that use them."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import batch_job
from batch.months import Month
from scripts import flow_runs
from scripts.cli import find_free_port
from settings import ModelSettings
from tests.conftest import SAMPLE_MODEL
from tests.tools import ROOT, wait_for
from tests.trip_records import linear_trips, write

HOST = "127.0.0.1"


@contextlib.contextmanager
def serve_prefect(home: Path) -> Iterator[str]:
    """Run a Prefect server that keeps its data in a folder, and yield the URL of its API."""
    port = find_free_port()
    command = flow_runs.server_command(port)
    environment = {**os.environ, **flow_runs.NOT_TRACKED, "PREFECT_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as server:

        def is_up() -> bool:
            assert server.poll() is None
            with contextlib.suppress(OSError):
                return ask(f"http://{HOST}:{port}/api", "GET", "/health") is True
            return False

        try:
            wait_for(is_up)
            yield f"http://{HOST}:{port}/api"
        finally:
            # The command has a child, which is the server.
            os.killpg(server.pid, signal.SIGKILL)


def ask(api: str, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
    """Return the response of a Prefect server."""
    place = api.removeprefix("http://").removesuffix("/api")
    with contextlib.closing(http.client.HTTPConnection(place, timeout=60)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request(method, f"/api{path}", json.dumps(content) if content is not None else None, headers)
        return json.load(connection.getresponse())


def write_months(folder: Path, months: Sequence[str], copies: int = 1) -> None:
    """Write a file of 1,000 different trips for each month, each trip ``copies`` times."""
    for place, month in enumerate(months):
        path = folder / f"green_tripdata_{month}.parquet"
        table = pq.read_table(write(path, linear_trips(1000 + place)))
        pq.write_table(pa.concat_tables([table] * copies), path)


def expected_files(folder: Path, months: Sequence[str], output: Path) -> dict[str, set[str]]:
    """Score months by the batch job itself, and return the names of each month's files, which depend on content."""
    settings = ModelSettings.from_environment({"MODEL_LOCATION": SAMPLE_MODEL})
    for month in months:
        batch_job.score_month(batch_job.Job(Month.parse("green", month), str(folder), str(output)), settings)
    return find_files(output)


def find_files(output: Path) -> dict[str, set[str]]:
    """Return the names of the files in each folder below the output."""
    found: dict[str, set[str]] = {}
    for path in output.rglob("*"):
        if path.is_file():
            found.setdefault(str(path.parent.relative_to(output)), set()).add(path.name)
    return found


def environment(home: Path, api: str = "") -> dict[str, Any]:
    """Return the variables of a run that uses a server, or starts one."""
    return {"PREFECT_HOME": str(home), "PREFECT_API_URL": api, "MODEL_LOCATION": SAMPLE_MODEL, "PYTHONPATH": str(ROOT)}
