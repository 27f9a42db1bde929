"""Scoring months from the command line, and the job's own command line."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts import cli
from scripts.commands import score
from scripts.localaws.setup import FUNCTION_VARIABLES
from tests.batch.conftest import serve
from tests.commands.test_interrupts import descendants, is_running
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, ROOT, finish, start, wait_for
from tests.trip_records import trip, write

pytestmark = pytest.mark.slow

JANUARY, FEBRUARY, MARCH = (f"green_tripdata_2023-0{number}.parquet" for number in (1, 2, 3))
Result = tuple[int, str, str]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs the command in this process, and returns its exit code, its stdout and its stderr."""
    for name in FUNCTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # as the launcher sets it
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["score", *arguments])
        code = cli.run(score.main, score.EXPLAINED)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


def lines(text: str) -> list[list[str]]:
    """Return the cells of each line of a table."""
    rows = [line for line in text.splitlines() if re.match("[│┃]", line)]
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in rows]


def test_a_month_is_scored_and_then_done(tmp_path: Path, run: Run) -> None:
    """People get a table on stderr, and programs the folder on stdout."""
    write(tmp_path / FEBRUARY, [trip(), trip(25), trip(600), trip(trip_distance=101.0), trip(DOLocationID=None)])
    code, out, err = run("green", "2023", "2", "--input", FEBRUARY)
    assert code == 0
    folder = Path(out.strip())
    assert folder.parts[:4] == ("output", "colour=green", "year=2023", "month=02")
    assert {path.name[:5] for path in folder.iterdir()} == {"part-", "_reje", "_mani"}
    table = dict(lines(err))
    assert {name: table[name] for name in list(table)[:5]} == {
        "rows in": "5",
        "predicted": "3",
        "left out": "2",
        "Expected `float` <= 100.0 - at `$.ride.trip_distance`": "1",
        "Expected `int`, got `null` - at `$.ride.DOLocationID`": "1",
    }
    assert list(table)[5:] == ["RMSE of 2 usual rides", "MAE", "rows a second, with the model loaded", "peak memory"]
    code, out, err = run("green", "2023", "2", "--input", FEBRUARY)
    assert (code, out.strip()) == (0, str(folder))
    assert "2023-02 was done before, by the same model from the same input: nothing was written" in err


def test_another_input_is_refused_unless_it_is_forced(tmp_path: Path, run: Run) -> None:
    """The line says what replaces the predictions."""
    write(tmp_path / FEBRUARY, [trip()])
    assert run("green", "2023", "2", "--input", ".")[0] == 0
    write(tmp_path / FEBRUARY, [trip(), trip()])
    code, out, err = run("green", "2023", "2", "--input", ".")
    assert (code, out) == (1, "")
    assert re.search(r"score: output/\S+ has the predictions of another input: --force replaces them", err)
    assert run("green", "2023", "2", "--input", ".", "--force")[0] == 0


def test_months_are_planned_and_scored_in_processes(tmp_path: Path, run: Run) -> None:
    """A month that fails does not stop the others; its error is shown, and the exit code is 1."""
    inputs = tmp_path / "in[red]puts"
    inputs.mkdir()
    options = ("green", "--from", "2023-01", "--to", "2023-04", "--input", str(inputs))
    write(inputs / JANUARY, [trip(trip_distance=2.0), trip(trip_distance=101.0)])
    (inputs / FEBRUARY).write_text("no parquet")
    write(inputs / MARCH, [trip()] * 3)
    code, out, _ = run(*options, "--plan")
    assert code == 0
    assert re.search("^model [0-9a-f]{32} *$", out, re.MULTILINE)
    states = {row[0]: row[1] for row in lines(out)}
    assert states["month"] == "state"
    assert list(states.values())[1:] == ["missing", "missing", "missing", "no input"]

    code, out, err = run(*options, "--run", "--jobs", "2")
    assert (code, out) == (1, "")
    # The error may be folded into several lines.
    rows = {row[0]: row[1:] for row in lines(err) if row[0]}
    assert list(rows) == ["month", "2023-01", "2023-02", "2023-03"]
    assert (rows["2023-01"][:2], rows["2023-03"][:2]) == (["1", "1"], ["3", "0"])
    assert f"{inputs / FEBRUARY}:cannotbereadasparquettriprecords:" in re.sub(r"[│\s]", "", err)

    write(inputs / FEBRUARY, [trip()] * 4)
    write(inputs / MARCH, [trip()] * 5)
    code, out, err = run(*options, "--plan", "--run")
    assert [row[1] for row in lines(out)[1:]] == ["done", "missing", "stale", "no input"]
    assert lines(out)[3][-1] == "the input has changed"
    assert {row[0]: row[1] for row in lines(err)} == {"month": "predicted", "2023-02": "4", "2023-03": "5"}
    code, out, err = run(*options, "--run")
    assert (code, out) == (0, "")
    assert "Nothing is missing or stale" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("purple 2023 2", "invalid choice: 'purple'"),
        ("green 2023 13", "a month has a year from 2009 and a number from 1 to 12, not 2023-13"),
        ("green 1 2", "a month has a year from 2009 and a number from 1 to 12, not 1-02"),
        ("green 2023 two", "argument MONTH: invalid int value: 'two'"),
        ("green", "name one month as YEAR MONTH, or several with --from and --to"),
        ("green 2023", "name one month as YEAR MONTH"),
        ("green --to 2023-02", "name one month as YEAR MONTH"),
        ("green 2023 2 --from 2023-01", "name one month as YEAR MONTH"),
        ("green --from 2023-01", "--from needs --plan, which shows what there is to do, or --run"),
        ("green --from 2023-02 --to 2023-01 --plan", "the last month, 2023-01, is before the first, 2023-02"),
        ("green --from February --plan", "a month is written as 2023-02, not 'February'"),
        ("green --from 2023-01 --run --force", "--force is for one month"),
        ("green --from 2023-01 --run --jobs 0", "0 is not a number from 1"),
    ],
)
def test_wrong_arguments_are_explained(
    run: Run, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says what is wrong with which argument."""
    with pytest.raises(SystemExit, match="2"):
        run(*arguments.split())
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ("green --from 2023-01 --to 2023-02 --plan --input x.parquet", {}, "x.parquet: not a folder, and one file"),
        ("green 2023 2 --input nothing.parquet", {}, "nothing.parquet: there is no such file"),
        ("green 2023 2 --input ftp://host/file", {}, "ftp://host/file: neither a file"),
        ("green 2023 2 --model nothing", {}, "there is no folder nothing"),
        ("green 2023 2", {"PREDICTION_FIELD": "Trip_Distance"}, "PREDICTION_FIELD is 'Trip_Distance', a column that"),
        ("green 2023 2", {"PREDICTION_FIELD": "month"}, "PREDICTION_FIELD is 'month', a column that predictions have"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(
    run: Run, arguments: str, variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is printed, and nothing is written."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = run(*arguments.split())
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"score: {message}")
    assert not [path for path in Path("output").rglob("*") if path.is_file()]


def test_the_job_prints_its_outcome_as_json(tmp_path: Path) -> None:
    """An error is one line on stderr and exit code 1, wrong arguments are exit code 2."""
    write(tmp_path / FEBRUARY, [trip(), trip(trip_distance=101.0)])
    variables = {**os.environ, "MODEL_LOCATION": SAMPLE_MODEL, "RUN_ID": "a/b", "PREDICTION_FIELD": "minutes"}

    def run_job(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "batch_job", "green", "2023", *arguments, f"--output={tmp_path / 'output'}"]
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=PATIENCE)

    done = run_job("2", f"--input={tmp_path}")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    outcome = json.loads(done.stdout)
    assert outcome["location"] == f"{tmp_path}/output/colour=green/year=2023/month=02/model=a%2Fb"
    assert outcome["was_done"] is False
    assert (outcome["counts"]["predicted"], outcome["counts"]["rejected"]) == (1, 1)
    assert json.loads(run_job("2", f"--input={tmp_path}").stdout) == outcome | {"was_done": True, "seconds": 0.0}
    failed = run_job("3", f"--input={tmp_path}")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"batch_job: {tmp_path / MARCH}: there is no such file\n"
    wrong = run_job("13")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines()[-1].endswith("number from 1 to 12, not 2023-13")


class NeverComplete(http.server.BaseHTTPRequestHandler):
    """A web server that begins every file, and does not go on."""

    release: threading.Event
    asked: list[str]

    def do_GET(self) -> None:
        """Send the head and a byte."""
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"P")
        self.release.wait()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def slow_website() -> Iterator[str]:
    """Serve files that are never complete, and give the URL."""
    NeverComplete.release, NeverComplete.asked = threading.Event(), []
    with serve(NeverComplete) as url:
        yield url
        NeverComplete.release.set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_months(tmp_path: Path, slow_website: str, number: signal.Signals) -> None:
    """No process goes on, and nothing that is half is visible."""
    options = ("green", "--from", "2023-01", "--to", "2023-04", "--run", "--jobs", "2", "--input", slow_website)
    with start("score", *options, cwd=tmp_path, MODEL_LOCATION=SAMPLE_MODEL) as tool:
        # The plan asks once for each month, and then two months are fetched.
        wait_for(lambda: len(NeverComplete.asked) == 6)
        started = descendants(tool.pid)
        tool.send_signal(number)
        stdout, stderr = tool.communicate(timeout=PATIENCE)
    assert (tool.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "score: interrupted"
    assert "Traceback" not in stderr
    wait_for(lambda: not any(map(is_running, started)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_launcher_scores_in_the_users_folder(tmp_path: Path) -> None:
    """Relative paths begin at the folder in which the command was started, for its processes too."""
    write(tmp_path / FEBRUARY, [trip()])
    done = finish("score", "green", "--from", "2023-02", "--run", "--input", ".", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("out/colour=green/year=2023/month=02/*/_manifest.json"))) == 1
