"""Retraining: from a drifted month to a published challenger, with one approval, and without an approval."""

import contextlib
import datetime
import json
import os
import random
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.tracking import MlflowClient
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from batch import objects
from scripts import cli, flow_runs, interrupts
from scripts.commands import retrain
from scripts.localaws.setup import FUNCTION_VARIABLES
from scripts.models import publishing, publishing_proof, releasing, retraining, retraining_flow, tracking
from scripts.models.months import read_newest_month
from scripts.models.publishing_places import LiveModel, PublishTarget, open_target
from scripts.models.publishing_sources import fetch
from targets import DURATION
from tests.batch.flow_tools import ask, environment, serve_prefect
from tests.conftest import SAMPLE_MODEL
from tests.tools import finish, wait_for
from tests.trip_records import trip, write

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.slow

JANUARY, FEBRUARY = datetime.datetime(2023, 1, 1), datetime.datetime(2023, 2, 1)
DRIFT = r"- distances of the same pairs are \d+\.\d% longer"
Run = Callable[..., list[str]]


def make_trips(start: datetime.datetime, number: int, factor: float = 1.0) -> Iterator[dict[str, Any]]:
    """Build trips between 30 pairs of zones, of about the same length each; ``factor`` changes the distances alone."""
    draw = random.Random(number)  # noqa: S311  the same trips every time, no secret
    for place in range(number):
        zone = draw.randint(1, 30)
        miles = zone / 5 * draw.uniform(0.95, 1.05)
        pickup = start + datetime.timedelta(days=27) * place / number
        dropoff = pickup + datetime.timedelta(minutes=5 + 4 * miles + draw.uniform(-0.1, 0.1))
        yield trip(pickup=pickup, dropoff=dropoff, PULocationID=zone, DOLocationID=zone, trip_distance=miles * factor)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give Prefect's folder."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[str]:
    """Run one Prefect server for all tests of this module."""
    with serve_prefect(home) as url:
        yield url


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a month, and the next month, in which the distances are 10 % longer."""
    folder = tmp_path_factory.mktemp("months")
    return (
        write(folder / "green_tripdata_2023-01.parquet", make_trips(JANUARY, 5100)),
        write(folder / "green_tripdata_2023-02.parquet", make_trips(FEBRUARY, 2500, 1.1)),
    )


@pytest.fixture(scope="module")
def database(months: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the challenger of January once, and give the database that has it."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        patch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
        training, validation, _ = read_newest_month([str(months[0])], DURATION)
        retraining.train(training, validation, DURATION, "ridge", "ride-duration", None)
    return path


@pytest.fixture(autouse=True)
def own_environment(aws_environment: None, database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use a database of the test's own, and the Python of the tests in place of the packages of an image."""
    shutil.copy(database, tmp_path)
    monkeypatch.setattr(publishing_proof, "install_python", lambda _: Path(sys.executable))
    monkeypatch.setattr(publishing_proof, "COLD_LOADS", 1)
    # As the launcher does.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    for name in (*FUNCTION_VARIABLES, "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_S3_ENDPOINT_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    objects.client.cache_clear()


@pytest.fixture
def run(api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs the command, with the flow in this process, and returns the lines that it printed.

    If the command publishes nothing, they are the lines on stderr.
    """

    def call_flow(entrypoint: str, parameters: dict[str, Any]) -> tuple[Any, str]:
        with temporary_settings({PREFECT_API_URL: api, PREFECT_LOGGING_TO_API_ENABLED: False}):
            return flow_runs.call_flow(entrypoint, parameters)

    monkeypatch.setattr(flow_runs, "run_flow", call_flow)
    # The handlers would stay for the tests that follow.
    monkeypatch.setattr(interrupts, "handle_with", lambda _: None)

    def run_command(*arguments: str | Path, code: int = 0) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["retrain", *map(str, arguments), "--model", "ridge"])
        found = cli.run(retrain.main)
        output = capsys.readouterr()
        assert found == code, output.err
        assert "Traceback" not in output.err
        return (output.out or output.err).splitlines()

    return run_command


def find_challenger() -> str:
    """Return the run of the version with the alias challenger."""
    return str(MlflowClient().get_model_version_by_alias("ride-duration", retraining.CHALLENGER).run_id)


def read_live(place: str | Path) -> LiveModel | None:
    """Return the model that is live."""
    return open_target(str(place)).read_live()


def publish_january(run: Run, january: Path, place: str | Path) -> LiveModel:
    """Train and publish the first model, which needs an approval too."""
    run(january, "--to", place, code=retrain.WAITING)
    assert read_live(place) is None
    run(january, "--to", place, "--approve", find_challenger())
    live = read_live(place)
    assert live
    return live


def resume(api: str, run_input: dict[str, bool], seen: list[str]) -> None:
    """Wait for a flow run that waits for a person, and resume it as Prefect's page does; note what the page shows."""

    def find_paused() -> list[dict[str, Any]]:
        query = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        found: list[dict[str, Any]] = ask(api, "POST", "/flow_runs/filter", query)
        return found

    wait_for(find_paused)
    (paused,) = find_paused()
    keys = paused["state"]["state_details"]["run_input_keyset"]
    # The run writes the form after it has paused.
    wait_for(lambda: isinstance(ask(api, "GET", f"/flow_runs/{paused['id']}/input/{keys['description']}"), str))
    seen.append(ask(api, "GET", f"/flow_runs/{paused['id']}/input/{keys['description']}"))
    answer = ask(api, "POST", f"/flow_runs/{paused['id']}/resume", {"run_input": run_input})
    assert answer["status"] == "ACCEPT"


def run_and_resume(run: Run, api: str, run_input: dict[str, bool], *arguments: str | Path) -> tuple[list[str], str]:
    """Run the command while a person resumes the flow; return the printed lines, and what the person saw."""
    seen: list[str] = []
    person = threading.Thread(target=resume, args=(api, run_input, seen))
    person.start()
    lines = run(*arguments)
    person.join()
    return lines, seen[0]


def test_a_drifted_month_becomes_a_published_challenger_after_one_approval_in_prefect(
    run: Run, months: tuple[Path, Path], api: str, s3: "S3Client", bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person sees drift, errors and verdict. A rejection publishes nothing, and no second model is trained."""
    place = f"s3://{bucket}/models"
    first = publish_january(run, months[0], place)
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setattr(retraining_flow, "POLL_SECONDS", 0.2)
    arguments = (*months, "--to", place)

    lines, seen = run_and_resume(run, api, {}, *arguments)
    assert f"was not approved: {first.location} stays live" in lines[-1]
    assert read_live(place) == first
    challenger = find_challenger()
    assert re.search(DRIFT, seen)
    for text in (challenger, first.location, "was not trained on", "| RMSE |", "**Verdict** better", "card.md"):
        assert text in seen

    lines, seen = run_and_resume(run, api, {"approve": True}, *arguments)
    live = read_live(place)
    assert live
    assert (live.version, find_challenger()) == (challenger, challenger)
    path = live.location.removeprefix(f"s3://{bucket}/")
    deploy = f"./scripts/deploy ModelBucket={bucket} ModelPath={path} RunId= ModelSha256={live.sha256}"
    assert f"deploy it:       {deploy}" in lines
    artifacts = {one["key"]: one["data"] for one in ask(api, "POST", "/artifacts/filter", {})}
    assert deploy in artifacts[f"published-{challenger}"]
    assert artifacts[f"challenger-{challenger}"] == seen
    manifest = json.loads(open_target(place).read(f"{live.location.rpartition('/')[2]}/manifest.json") or b"")
    assert manifest["comparison"]["verdict"]["verdict"] == "better"
    client = MlflowClient()
    assert len(client.search_runs(["1"])) == 2
    assert client.get_model_version_by_alias("ride-duration", "champion").run_id == challenger


@pytest.mark.parametrize(("answer", "is_published"), [("n", False), ("", False), ("y", True)], ids=["n", "Enter", "y"])
def test_a_terminal_asks_for_the_approval(
    run: Run, months: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, answer: str, is_published: bool
) -> None:
    """The challenger is published only if the answer is yes."""
    main, terminal = os.openpty()
    shown = list[bytes]()

    def read_terminal() -> None:
        with contextlib.suppress(OSError):
            while text := os.read(main, 1024):
                shown.append(text)

    # Otherwise the command would wait as soon as the terminal's buffer is full.
    threading.Thread(target=read_terminal, daemon=True).start()
    os.write(main, f"{answer}\n".encode())
    with os.fdopen(terminal, "r") as stdin, os.fdopen(os.dup(terminal), "w") as stderr:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stderr", stderr)
        lines = run(months[0], "--to", "models")
        wait_for(lambda: b"Publish the challenger? [y/N]" in b"".join(shown))
    live = read_live("models")
    assert (live is not None) is is_published
    assert lines == (releasing.list_commands(live) if live else [])


def test_nothing_is_published_that_nobody_has_seen(run: Run, months: tuple[Path, Path], tmp_path: Path) -> None:
    """An approval is for one challenger in place of one live model. A published challenger is not offered again."""
    january, place = months[0], "models"
    arguments = (january, "--to", place)
    challenger, other = find_challenger(), "0" * 32
    assert run("no-file.parquet", "--to", place, code=1)[-1].startswith("retrain: no-file.parquet: ")
    (line,) = run(*arguments, "--approve", other, code=1)[-1:]
    assert f"{other} is not the challenger of these months, which is {challenger}: run" in line
    (line,) = run(*arguments, "--approve", challenger, code=1)[-1:]
    assert f"{challenger} was not yet compared with the model that is live now" in line
    assert f"--approve {challenger}" in run(*arguments, code=retrain.WAITING)[-1]
    sample = publishing.select(fetch(str(SAMPLE_MODEL), None))
    target = open_target(place)
    digest = publishing.write(target, sample, {})
    live = LiveModel(f"{target.location}/{sample.folder}", sample.version, "duration", digest, publishing.now())
    assert target.read_live() is None
    target.replace_live(live)
    assert "was not yet compared" in run(*arguments, "--approve", challenger, code=1)[-1]
    assert read_live(place) == live
    run(*arguments, code=retrain.WAITING)
    run(*arguments, "--approve", challenger)
    published = read_live(place)
    assert published
    assert published.version == challenger
    assert "was trained on these months, and the newest month has not drifted" in run(*arguments)[-1]
    assert "is live already" in run(*arguments, "--force")[-1]
    assert run(*arguments, "--approve", challenger)[0].startswith(f"MODEL_LOCATION={published.location} ")
    assert read_live(place) == published
    assert "predicts the duration, and this model predicts the fare" in run(*arguments, "--target=fare", code=1)[-1]


def test_a_worse_challenger_is_not_offered_unless_forced(run: Run, months: tuple[Path, Path], tmp_path: Path) -> None:
    """A challenger is worse if it learned from drifted rides, and the last rides of the month are like those before."""
    first = publish_january(run, months[0], "models")
    trips = [*make_trips(FEBRUARY, 2500, 1.1)][:2000] + [*make_trips(FEBRUARY, 2500)][2000:]
    mixed = write(tmp_path / "green_tripdata_2023-02.parquet", trips)
    arguments = (months[0], mixed, "--to", "models")
    line = run(*arguments, code=1)[-1]
    challenger = find_challenger()
    assert f"the challenger {challenger} is not known to be better (worse on 500 rides: the MAE changes by +" in line
    assert f"so {first.location} stays live: --force offers it anyway" in line
    assert "was not yet compared" in run(*arguments, "--force", "--approve", challenger, code=1)[-1]
    run(*arguments, "--force", code=retrain.WAITING)
    assert "(worse on 500 rides" in run(*arguments, "--approve", challenger, code=1)[-1]
    assert read_live("models") == first
    run(*arguments, "--force", "--approve", challenger)
    assert find_version("models") == challenger


def find_version(place: str) -> str | None:
    """Return the version of the model that is live."""
    live = read_live(place)
    return live.version if live else None


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (tracking, "register"),
        (PublishTarget, "put_new"),
        (PublishTarget, "replace_live"),
        (MlflowClient, "set_registered_model_alias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_was_killed_is_completed_by_the_same_command(
    run: Run, months: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """After both commands, one run, one version and one live model exist, as after a single command."""
    arguments = (months[0], "--to", "models", "--register", "others")
    killed = list[str]()

    def kill(*_: object) -> None:
        killed.append(name)
        raise KeyboardInterrupt

    def run_twice(*arguments: str | Path, code: int = 0) -> None:
        before = len(killed)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, kill)
            with contextlib.suppress(AssertionError):
                run(*arguments, code=interrupts.INTERRUPTED)
        assert len(killed) > before or name != "set_registered_model_alias"
        run(*arguments, code=code)

    run_twice(*arguments, code=retrain.WAITING)
    challenger = find_challenger()
    assert read_live("models") is None
    run_twice(*arguments, "--approve", challenger)
    assert set(killed) == {name}
    assert find_version("models") == challenger
    client = MlflowClient()
    assert client.get_model_version_by_alias("others", "champion").run_id == challenger
    assert len(client.search_runs(["1"])) == len(client.search_model_versions("name = 'others'")) == 1


def test_the_launcher_ends_before_publishing_and_says_how_to_go_on(
    months: tuple[Path, Path], home: Path, tmp_path: Path
) -> None:
    """Without a terminal, and with a temporary server, the exit code says that a challenger waits."""
    arguments = (str(months[0]), "--to", "models", "--model", "ridge")
    done = finish("retrain", *arguments, cwd=tmp_path, **environment(home))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].endswith(f"with --approve {find_challenger()}")
    assert read_live(tmp_path / "models") is None
