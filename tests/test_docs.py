"""The documents: every command, variable and metric is documented once, links lead somewhere, and examples are true."""

import ast
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from drift import LEAST_RIDES
from rides import RejectionKind
from streaming import windows
from streaming.records import Rejection, UserRecord
from streaming.telemetry import Telemetry
from tests.tools import PATIENCE, ROOT
from tests.watched_models import BINS

README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "scripts" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LAUNCHERS = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}
UNTESTED_COMMANDS = re.compile(
    r"(git|aws|export|sleep|curl|ITERATOR)\b|\./scripts/(train|publish|score|put-rides|read-predictions|replay)\b"
)
"""Commands in examples whose output depends on data or on a server: tests of commands run most. All others are run."""
MEASURED = re.compile(r"\d ms|rides/s")
"""Lines of an example that differ from run to run."""


def section(page: Path, heading: str) -> str:
    """Return the text under a heading, up to the next one."""
    _, found, rest = page.read_text().partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading}"
    return re.split(r"^#{1,6} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def documented(text: str) -> Counter[str]:
    """Count the names in backticks in the first column of the tables of a text."""
    first_columns = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return Counter(name for column in first_columns for name in re.findall("`(.+?)`", column))


def documented_anywhere(names: set[str]) -> Counter[str]:
    """Count these names in the tables of all pages."""
    rows = documented("\n".join(page.read_text() for page in PAGES if page.exists()))
    return Counter({name: rows[name] for name in names})


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def examples() -> list[tuple[str, str]]:
    """Return the README's commands that a test can run, each with the output that is shown."""
    blocks = re.findall(r"^```\n(\$ .*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    shown = [command.partition("\n")[::2] for block in blocks for command in re.split(r"^\$ ", block, flags=re.M)[1:]]
    return [(command, output) for command, output in shown if not UNTESTED_COMMANDS.match(command)]


def comparable(output: str) -> list[str]:
    """Return the lines without what differs between machines: times, the last digits of floats, the width of tables."""
    rounded = re.sub(r"\d+\.\d{7,}", lambda digits: f"{float(digits[0]):.6f}", output)
    lines = [" ".join(re.sub("[─-╿]", " ", line).split()) for line in rounded.splitlines()]
    return [line for line in lines if line and not MEASURED.search(line)]


def test_the_readme_fits_on_a_few_screens() -> None:
    """The README has at most 220 lines. The rest is in docs/."""
    assert len(README.read_text().splitlines()) <= 220


def test_each_command_is_in_the_readme_once() -> None:
    """The README's table has the launchers in scripts/, except the one that starts the others."""
    names = {f"./scripts/{name}" for name in LAUNCHERS - {"environment"}}
    assert documented(section(README, "## Commands")) == Counter(names)


def test_each_command_is_in_the_page_of_the_scripts_once() -> None:
    """The table of scripts/README.md has all launchers."""
    rows = re.findall(r"^\| `\./scripts/([\w-]+)", (ROOT / "scripts" / "README.md").read_text(), re.MULTILINE)
    assert Counter(rows) == Counter(LAUNCHERS)


def test_each_variable_is_documented_once() -> None:
    """The table has the variables that settings.py reads, and beside them only some of the SDK's own."""
    settings = ast.walk(ast.parse((ROOT / "settings.py").read_text()))
    strings = [node.value for node in settings if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    read = {string for string in strings if re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+", string)}
    rows = documented(section(ROOT / "docs" / "formats.md", "## Environment variables"))
    assert Counter({name: number for name, number in rows.items() if not name.startswith("AWS_")}) == Counter(read)
    assert documented_anywhere(read) == Counter(read)


def test_each_metric_is_documented_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has the metrics of a first batch with many rejections of each kind, which complete a window."""
    monkeypatch.setattr(windows, "RIDES", 1)
    record = UserRecord("1", "shardId-000000000000:1", None, 0.0, "", "")
    telemetry = Telemetry("model", level="CRITICAL", namespace="RidePredictions")
    with telemetry.loading():
        pass
    with telemetry.invocation(None) as tally:
        tally.oldest_arrival = 0.0
        with tally.predicting(BINS):
            pass
        tally.stored([Rejection(record, kind, "") for kind in get_args(RejectionKind)] * LEAST_RIDES, [], None)
    line = json.loads(capsys.readouterr().out)
    metrics = {metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert documented(section(ROOT / "docs" / "operations.md", "## The metrics")) == Counter(metrics)
    assert documented_anywhere(metrics) == Counter(metrics)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link leads to a file that exists, and to a heading in it if it names one."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:", link):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(link)
    assert broken == []


def test_git_ignores_what_the_commands_of_the_documents_write() -> None:
    """A user who follows them has nothing new to commit."""
    names = ["green_tripdata_2023-01.parquet", "predictions.jsonl", "mlflow.db", "mlruns/1/meta.yaml", ".serving.json"]
    names += ["account.json", "bench.json", "bench.png", "speed.png", "model/MLmodel", ".bench/mlflow/made-of"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this is no clone")
    assert done.stdout.splitlines() == names


def test_there_are_examples() -> None:
    """The next test would pass with none."""
    assert [command for command, _ in examples()] == ["./scripts/run", "./scripts/invoke events/kinesis-one.json"]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "shown"), examples(), ids=[command for command, _ in examples()])
def test_an_example_is_what_the_command_prints(command: str, shown: str) -> None:
    """Only a line with an ellipsis stands for others. The launcher runs, as a reader would run it."""
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)  # noqa: S602
    assert done.returncode == 0, done.stderr
    parts = ["\n".join(comparable(part)) for part in re.split(r"^ *….*\n", shown, flags=re.MULTILINE)]
    # After an ellipsis at the end, the last part is empty.
    pattern = r"\n.*\n".join(map(re.escape, parts)) + "\n" * bool(parts[-1])
    assert re.fullmatch(pattern, "\n".join([*comparable(done.stdout), ""]), re.DOTALL)
