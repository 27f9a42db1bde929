"""The flow: the months that it chooses, what it retries, a backfill, its errors, and its end."""

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

import batch_flow
from artifacts import ModelError
from batch.outputs import BusyError, OutputError
from batch.sources import FetchError, NoInputError
from batch_job import TakenError
from settings import SettingsError
from tests.batch.flow_tools import ask, environment, expected_files, find_files, serve_prefect, write_months
from tests.commands.test_interrupts import INTERRUPTED, descendants, is_running, read_until
from tests.tools import PATIENCE, finish, start, wait_for
from trip_cells import TripRecordError

pytestmark = pytest.mark.slow
MONTHS = ["2022-11", "2022-12", "2023-01"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give Prefect's folder."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[str]:
    """Run one Prefect server for all tests of this module."""
    with serve_prefect(home) as url:
        yield url


@pytest.mark.parametrize(
    ("first", "last", "months"),
    [
        (None, None, ["2025-08", "2025-09", "2025-10", "2025-11", "2025-12", "2026-01"]),
        ("2023-02", None, ["2023-02"]),
        ("2022-12", "2023-01", ["2022-12", "2023-01"]),
    ],
)
def test_the_months_are_the_last_six_before_the_scheduled_start(
    first: str | None, last: str | None, months: list[str]
) -> None:
    """Parameters name others."""
    start = datetime(2026, 2, 2, 8, tzinfo=UTC)
    assert list(map(str, batch_flow.choose_months("green", first, last, start))) == months


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (FetchError("503"), True),
        (BusyError("another run"), True),
        (OutputError("503"), True),
        (TakenError("of another input"), False),
        (NoInputError("no file"), False),
        (TripRecordError("not parquet"), False),
        (ModelError("no model"), False),
        (SettingsError("no setting"), False),
        (TypeError("a mistake"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_retried_if_it_may_pass(error: Exception, is_retried: bool) -> None:
    """Back-off and jitter are Prefect's; the condition is ours."""
    run = TaskRun(task_key="key", dynamic_key="0")
    assert batch_flow.may_pass(batch_flow.score_if_due, run, Failed(data=error)) is is_retried
    assert batch_flow.score_if_due.retry_condition_fn is batch_flow.may_pass
    assert batch_flow.score_if_due.retry_delay_seconds == [10, 20, 40]


@pytest.mark.parametrize("dask", ["tcp://10.0.0.5:8786", "tls://scheduler:8786"])
def test_workers_elsewhere_need_a_server_that_they_can_reach(dask: str) -> None:
    """The temporary server listens on this machine alone."""
    with pytest.raises(SettingsError, match=f"the workers of {dask} cannot reach Prefect .*: set PREFECT_API_URL"):
        batch_flow.make_runner(dask)


def test_a_backfill_scores_what_is_missing_and_a_failed_month_does_not_stop_the_others(
    tmp_path: Path, home: Path, api: str
) -> None:
    """The table of results is an artifact. The next run, after the mistake is corrected, does the rest."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_months(folder, MONTHS)
    expected = expected_files(folder, MONTHS, tmp_path / "expected")
    damaged = folder / "green_tripdata_2022-11.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:1000])
    command = ["--flow", "green", "--from=2022-11", "--to=2023-02", f"--input={folder}", f"--output={output}"]

    done = finish("score", *command, **environment(home, api))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "score: 1 of 4 months failed: 2022-11"
    assert "Traceback" not in done.stderr
    (artifact,) = ask(api, "POST", "/artifacts/filter", {})
    rows = json_rows(artifact)
    assert [(row["month"], row["state"], row["predicted"]) for row in rows] == [
        ("2022-11", "failed", None),
        ("2022-12", "scored", 1001),
        ("2023-01", "scored", 1002),
        ("2023-02", "no input", None),
    ]
    assert "2022-11.parquet: cannot be read as parquet trip records" in rows[0]["error"]
    names = {run["name"]: run["state_type"] for run in ask(api, "POST", "/task_runs/filter", {})}
    assert names.keys() == {"green 2022-11", "green 2022-12", "green 2023-01", "green 2023-02"}

    damaged.write_bytes(content)
    done = finish("score", *command, **environment(home, api))
    assert done.returncode == 0, done.stderr
    assert find_files(output) == expected


def json_rows(artifact: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table artifact."""
    rows: list[dict[str, Any]] = json.loads(str(artifact["data"]))
    return rows


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"MODEL_LOCATION": "/no/model"}, "score: there is no folder /no/model"),
        (
            {"PREFECT_API_URL": "", "PREFECT_HOME": "/dev/null/home"},
            "score: /dev/null/home: cannot be written: Not a directory: set PREFECT_HOME to a folder",
        ),
        ({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, "score: Failed to reach API at http://127.0.0.1:1/api/"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_an_error_of_the_whole_run_is_one_line(
    variables: dict[str, str], line: str, tmp_path: Path, home: Path, api: str
) -> None:
    """The exit code is 1."""
    done = finish("score", "--flow", "green", "2023", "1", cwd=tmp_path, **{**environment(home, api), **variables})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(line)
    assert "Traceback" not in done.stderr


def test_an_interrupted_run_leaves_no_process_and_no_half_month(tmp_path: Path, home: Path) -> None:
    """Its temporary server ends too. Without a server set up, the run has started one."""
    write_months(tmp_path, MONTHS[:1], copies=1000)
    command = ["--flow", "green", "2022", "11", f"--input={tmp_path}", f"--output={tmp_path / 'out'}"]
    # A proxy of the network knows no server of this machine.
    proxy: dict[str, Any] = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "", "NO_PROXY": ""}
    with start("score", *command, **environment(home), **proxy) as tool:
        read_until(tool, "Beginning flow run")
        wait_for(lambda: list(tmp_path.rglob(".unfinished-*")))
        started = descendants(tool.pid)
        tool.send_signal(signal.SIGINT)
        _, stderr = tool.communicate(timeout=PATIENCE)
    assert tool.returncode == INTERRUPTED
    assert stderr.splitlines()[-1] == "score: interrupted"
    wait_for(lambda: not any(map(is_running, started)))
    assert find_files(tmp_path / "out") == {}
