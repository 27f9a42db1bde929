"""The batch job as a Prefect flow: a task for each month, one after the other or side by side on a Dask cluster.

    months   -- plan  --> done | no input | due      due: missing, or stale, because its input or its model has changed
    due      -- score --> scored | failed            an error that may pass is retried
    outcomes -- table --> an artifact                the flow fails if a month failed

If a worker is killed, or if an attempt fails, the task runs again. The output still has its month exactly once, because
the batch job never writes a month twice.
"""

import contextlib
import ipaddress
import logging
import os
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

from prefect import State, Task, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed
from prefect.tasks import exponential_backoff
from prefect_dask.task_runners import DaskTaskRunner

from batch.manifests import name_error
from batch.months import Month, months_between
from batch.outputs import OutputError
from batch.plan import make_plan
from batch.sources import FetchError
from batch_job import EXPLAINED, Job, ScoredMonth, TakenError, identify_model, score_month
from settings import ModelSettings, SettingsError

RECENT_MONTHS = 6
"""TLC publishes a month about two months later. A run looks further back, because a month may be later or replaced, and
a month that is done costs little."""
RETRIES, RETRY_SECONDS = 3, 10
"""The number of retries, and the seconds before the first one. They double with each retry, and have random jitter."""
LOCAL = "local"
"""Stands for a Dask cluster that the flow starts on its own machine."""
WORKERS, WORKER_MEMORY = 2, "1GiB"
"""A worker that takes more memory is killed, and its month is scored again. The fourth time, the month fails."""

Row = dict[str, Any]
"""A month's row in the table of results, by column."""
Outcome = ScoredMonth | str | Exception
"""A month that is scored, the state of a month that is not due, or an error."""


class FailedMonthsError(Exception):
    """Months failed. The message names them in one line."""

    def __init__(self, message: str, rows: list[Row]) -> None:
        """Take the rows of all months as well, which would have been the flow's result."""
        super().__init__(message)
        self.result = rows


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a later attempt may succeed, because another run, the network or a server was the reason."""
    error = state.data
    return isinstance(error, FetchError | OutputError) and not isinstance(error, TakenError)


@task(
    name="score-month",
    task_run_name="{job.month.colour} {job.month}",
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(RETRY_SECONDS),
    retry_jitter_factor=1,
    retry_condition_fn=may_pass,
    # A month that is done costs little, and Prefect's cache could not tell whether it is.
    cache_policy=NO_CACHE,
)
def score_if_due(job: Job, settings: ModelSettings) -> ScoredMonth | str:
    """Score a month if it is missing or stale; else return its state."""
    (planned,) = make_plan([job.month], job.input, job.output, identify_model(settings))
    if not planned.is_due:
        return planned.state
    return score_month(Job(job.month, job.input, job.output, force=planned.state == "stale"), settings)


@flow(name="score-months")
def score_months(
    colour: Literal["green", "yellow"] = "green",
    first: str | None = None,
    last: str | None = None,
    input: str | None = None,  # noqa: A002  the name of the option of the other commands
    output: str = "output",
    model: str | None = None,
    dask: str | None = None,
) -> Any:
    """Score the months that are missing or stale.

    Args:
        colour: the colour of the taxis.
        first: the first month, such as "2022-01". By default, the months are the last six before the scheduled start.
        last: the last month; by default the first.
        input: the folder, URL or s3:// URI of the files, which ends with a slash; by default TLC's own files.
        output: the folder or s3:// URI below which all months lie.
        model: the folder or s3:// URI of the model; by default the environment variables name it.
        dask: "local" for a Dask cluster of two workers on this machine, or the address of a Dask scheduler, such as
            "tcp://scheduler:8786". By default, the months are scored one after the other.

    Returns the rows of the table of results. The flow fails if a month failed.
    """
    environment = {**os.environ, "MODEL_LOCATION": model, "MODEL_BUCKET": ""} if model else os.environ
    try:
        settings = ModelSettings.from_environment(environment)
        found = identify_model(settings)
        months = choose_months(colour, first, last, flow_run.scheduled_start_time)
        jobs = [Job(month, input, output) for month in months]
        outcomes, rmse = run_tasks(jobs, settings, dask), name_error("RMSE", found.unit)
        rows = [make_row(job, outcome, rmse) for job, outcome in zip(jobs, outcomes, strict=True)]
    except (*EXPLAINED, OSError, ValueError) as error:
        return fail(error)
    description = f"Months of {colour} taxis by the model {found.name} {found.version}, in {output}"
    create_table_artifact(rows, f"score-{colour}", description)
    failed = [row["month"] for row in rows if row["state"] == "failed"]
    if failed:
        return fail(FailedMonthsError(f"{len(failed)} of {len(rows)} months failed: {', '.join(failed)}", rows))
    return rows


def fail(error: Exception) -> State[Any]:
    """Return the state of a flow that has failed. If the error were raised, Prefect would log its traceback."""
    return Failed(message=in_one_line(error), data=error)


def choose_months(colour: str, first: str | None, last: str | None, start: datetime) -> list[Month]:
    """Return the months from the first to the last, or the last months before the run's start. Raises ValueError."""
    if first is None:
        if last is not None:
            raise ValueError(f"the last month is {last}, and the first is missing: name both, or the first alone")
        now = Month.of(colour, start.year, start.month)
        return list(months_between(now.before(RECENT_MONTHS), now.before(1)))
    begin = Month.parse(colour, first)
    return list(months_between(begin, Month.parse(colour, last or first)))


def run_tasks(jobs: Sequence[Job], settings: ModelSettings, dask: str | None) -> list[Outcome]:
    """Run a task for each job, and return the outcomes in the order of the jobs."""
    if dask is None:
        return [attempt(partial(score_if_due, job, settings)) for job in jobs]
    with make_runner(dask) as runner:
        futures = [runner.submit(score_if_due, {"job": job, "settings": settings}) for job in jobs]
        return [attempt(future.result) for future in futures]


def attempt(call: Callable[[], Any]) -> Outcome:
    """Return what a call returns, or its error."""
    try:
        outcome: Outcome = call()
    except Exception as error:
        return error
    return outcome


def make_runner(dask: str) -> DaskTaskRunner:
    """Return what runs tasks on a Dask cluster. Raises SettingsError if its workers cannot reach Prefect's server."""
    # Otherwise Dask logs each connection.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if dask == LOCAL:
        limits = {"n_workers": WORKERS, "threads_per_worker": 1, "memory_limit": WORKER_MEMORY}
        return DaskTaskRunner(cluster_kwargs={**limits, "dashboard_address": None})
    server = PREFECT_API_URL.value()
    if not is_loopback(dask) and (not server or is_loopback(server)):
        hint = "set PREFECT_API_URL to the address of a Prefect server that they can reach"
        raise SettingsError(f"the workers of {dask} cannot reach Prefect at {server or 'a temporary server'}: {hint}")
    return DaskTaskRunner(address=dask)


def is_loopback(url: str) -> bool:
    """Return whether a URL names this machine in a way that only this machine understands."""
    host = urllib.parse.urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def make_row(job: Job, outcome: Outcome, rmse: str) -> Row:
    """Return a month's row in the table of results. ``rmse`` is the name of the error's column."""
    row: Row = {"month": str(job.month), "state": "", "predicted": None, "left out": None, rmse: None, "error": ""}
    match outcome:
        case ScoredMonth(counts=counts):
            numbers = {"predicted": counts.predicted, "left out": counts.rejected, rmse: counts.rmse}
            return {**row, "state": "scored", **numbers}
        case Exception():
            return {**row, "state": "failed", "error": in_one_line(outcome)}
        case state:
            return {**row, "state": state}


def in_one_line(error: Exception) -> str:
    """Return an error's message, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
