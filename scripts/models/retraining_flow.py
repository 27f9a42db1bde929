"""Retraining as a Prefect flow: a new month, or drift, becomes a published model if a person approves once.

Each step is a task, which is retried if an error may pass. A run that was killed can be repeated: it finds the
challenger that was trained, and publishing never leaves anything half done.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from scripts.models import retraining  # isort: skip  before mlflow, which it configures
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError
from mlflow.exceptions import MlflowException
from prefect import State, flow, pause_flow_run, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.tasks import Task, exponential_backoff
from prefect.utilities.annotations import quote
from prefect.utilities.urls import url_for
from rich.markdown import Markdown
from sqlalchemy.exc import OperationalError

from artifacts import ModelError
from batch.sources import FetchError
from scripts import cli
from scripts.models import months, releasing
from scripts.models.candidates import BOOSTED
from scripts.models.publishing_proof import PublishError
from scripts.models.publishing_sources import note_published
from scripts.models.retraining import Offer, RetrainingError
from scripts.models.tracking import MLFLOW_ERRORS, TrackingError
from targets import DURATION, TARGETS
from trip_cells import TripRecordError

RETRIES, RETRY_SECONDS = 3, 10
"""The number of retries, and the seconds before the first one. They double with each retry."""
PATTERN = "*?["
"""A file's name that has one of these characters is a pattern."""
APPROVAL_SECONDS, POLL_SECONDS = 7 * 24 * 3600, 5
"""How long a run waits for a person, and how often it asks the server."""
EXPLAINED = (
    *(PublishError, RetrainingError, months.TrainingError, TrackingError, TripRecordError, ModelError),
    *(cli.CommandError, OSError, *MLFLOW_ERRORS),
)
NETWORK = (
    *(FetchError, URLError, HTTPClientError, EndpointConnectionError, OperationalError),
    *(ConnectionError, TimeoutError),
)
SERVER_ERROR = 500
"""The lowest status of HTTP that says that the server has a problem."""


class Approval(RunInput):
    """The form that Prefect's page shows to the person who resumes a run."""

    approve: bool = False


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a later attempt may succeed, because the network or a server was the reason."""
    return any(map(_is_of_a_server, _causes(state.data)))


def _causes(error: Any) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__


def _is_of_a_server(error: BaseException) -> bool:
    match error:
        case HTTPError():
            return error.code >= SERVER_ERROR
        case ClientError():
            return bool(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= SERVER_ERROR)
        case MlflowException():
            return bool(error.get_http_status_code() >= SERVER_ERROR)
    return isinstance(error, NETWORK)


def step(name: str) -> Any:
    """Return a decorator for a task."""
    return task(
        name=name,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(RETRY_SECONDS),
        retry_condition_fn=may_pass,
        # Prefect's cache could not tell whether a month or the live model has changed.
        cache_policy=NO_CACHE,
    )


read = step("read-months")(months.read_newest_month)
decide = step("decide")(retraining.decide)
train = step("train")(retraining.train)
compare = step("compare")(retraining.compare)
publish = step("publish")(retraining.publish)
note = step("note-in-mlflow")(note_published)


@flow(name="retrain")
def retrain(
    files: list[str],
    to: str,
    registered_name: str | None = None,
    target: str = DURATION.name,
    model: str = BOOSTED,
    approve: str | None = None,
    wait: bool = True,
    force: bool = False,
) -> Any:
    """Train a model if there is a new month or drift, compare it with the live one, and publish it if it is approved.

    Args:
        files: trip record files of months: paths, http(s) URLs, or patterns such as "/data/green_tripdata_*.parquet".
            The last fifth of the newest month measures, and all other rides train.
        to: the place where models are published, a folder or an s3:// URI.
        registered_name: the name in MLflow's registry, by default "ride-" and the target.
        target: what the model predicts.
        model: the kind of the model.
        approve: the run of a challenger that a person has seen and approves.
        wait: whether the run pauses until a person resumes it. Otherwise, it ends before it publishes.
        force: whether to train without a reason, and to offer a challenger that is not better.

    Returns the state ("published", "waiting" and so on), the challenger's run, and lines for people.
    """
    try:
        files = [found for file in files for found in expand(file)]
        training, validation, newest = read(files, TARGETS[target])
        decision = decide(training.files, quote(newest), TARGETS[target], to, force=force)
        if not (decision.reasons or force or approve):
            return finish(
                "nothing to do",
                None,
                f"{decision.live.location} was trained on these months, and the newest month has not drifted",
            )
        name = registered_name or f"ride-{target}"
        challenger = train(quote(training), quote(validation), TARGETS[target], model, name, approve)
        offer = compare(quote(decision), challenger, quote(validation), force=force)
        return settle(offer, is_approved=bool(approve), wait=wait, force=force)
    except FlowPauseTimeout:
        days = APPROVAL_SECONDS // (24 * 3600)
        return fail(RetrainingError(f"nobody approved the challenger within {days} days: run the flow again to see it"))
    except EXPLAINED as error:
        return fail(error)


def settle(offer: Offer, *, is_approved: bool, wait: bool, force: bool) -> State[Any]:
    """Publish what a person approves, and return the flow's state. Raises RetrainingError or PublishError."""
    run_id, live = offer.challenger.run_id, offer.decision.live
    if offer.is_live and live and not is_approved:
        return finish("nothing to do", run_id, f"the challenger of these months, {live.location}, is live already")
    if not offer.is_live:
        if not force:
            retraining.check(offer)
        if is_approved:
            retraining.check_approved(offer)
        else:
            text = retraining.describe_offer(offer)
            retraining.note_offer(offer)
            create_markdown_artifact(text, f"challenger-{run_id}", "The challenger, to be approved by a person")
            cli.CONSOLE.print(Markdown(text))
            if not wait:
                return finish("waiting", run_id, f"the challenger {run_id} waits for an approval")
            if not ask(text):
                stays = f"{live.location} stays live" if live else "nothing is live"
                return finish("rejected", run_id, f"the challenger {run_id} was not approved: {stays}")
    published = live if offer.is_live and live else publish(quote(offer), show)
    for line in note(quote(offer.model), published.location, published.sha256, releasing.CHAMPION):
        show(line)
    commands = releasing.list_commands(published)
    create_markdown_artifact("\n".join(["```", *commands, "```"]), f"published-{run_id}", "How to deploy the model")
    return finish("published", run_id, *commands)


def ask(text: str) -> bool:
    """Pause until a person resumes the run in Prefect, and return whether the person approves."""
    show(f"Waiting for an approval: resume the flow run {flow_run.name} at {url_for('flow-run', flow_run.id)}")
    answer = pause_flow_run(Approval.with_initial_data(text), APPROVAL_SECONDS, POLL_SECONDS)
    return answer.approve


def expand(file: str) -> list[str]:
    """Return the files that a pattern names, or the file itself. Raises RetrainingError if no file matches."""
    path = Path(file)
    if "://" in file or path.exists() or set(PATTERN).isdisjoint(path.name):
        return [file]
    if not (found := sorted(map(str, path.parent.glob(path.name)))):
        raise RetrainingError(f"{file}: no file has such a name: download months, or give another pattern")
    return found


def finish(state: str, run_id: str | None, *lines: str) -> State[Any]:
    """Return the state of a flow that has ended well. Its data are the flow's result."""
    return Completed(message=f"{state}: {lines[0]}", data={"state": state, "run": run_id, "lines": lines})


def fail(error: Exception) -> State[Any]:
    """Return the state of a flow that has failed. If the error were raised, Prefect would log its traceback."""
    return Failed(message=" ".join(str(error).split()), data=error)


def show(line: str) -> None:
    """Print a line for people."""
    cli.CONSOLE.print(cli.printable(line), markup=False, highlight=False, soft_wrap=True)
