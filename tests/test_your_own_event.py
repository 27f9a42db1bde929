"""docs/your-own-event.md, followed to the letter in a copy of the project, which serves food orders afterwards."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import comparable
from tests.tools import PATIENCE, ROOT, Tool, wait_for

PAGE = ROOT / "docs" / "your-own-event.md"
BLOCK = re.compile(r"^(?P<before>[^\n]+)\n\n```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FENCES = re.compile(r"^```", re.MULTILINE)
SECONDS = 5 * PATIENCE
"""The training makes MLflow's database first, which takes minutes if the disk and all cores are busy."""
STAYS = re.compile(r"\./scripts/(serve|run .*--serve)\b")
"""Commands that run until they are ended. The commands after them are for another terminal."""
PORT = "9696"
"""The port on the page. Something else may listen on it here."""
NOT_COMPARED = re.compile(r"\d+\.\d+|\b[0-9a-f]{32}\b")
"""Predictions and errors, whose last digits depend on the machine, and the run's id. The law checks the predictions."""
TOLERANCE = 1.0
"""Minutes by which the model may miss the law, because it was trained on orders that took more or less time."""


class Reader:
    """Follows the page in a copy of the project."""

    def __init__(self, copy: Path, stack: ExitStack) -> None:
        """Begin in the copy. If the test fails, what runs ends with the stack."""
        self._copy = copy
        self._stack = stack
        self._running: Tool | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
        own = {"PYTHONPATH": str(copy), "COLUMNS": "100", "NO_PROXY": "*", "no_proxy": "*", "WEB_CONCURRENCY": "1"}
        self._environment = environment | own

    def follow(self, before: str, kind: str, text: str) -> Iterator[tuple[str, str, str]]:
        """Do what a block of the page says; yield each command that ends, what it should print, and what it printed."""
        if kind == "diff":
            subprocess.run(["git", "apply", "-"], cwd=self._copy, input=text, text=True, check=True)
        elif kind:
            name = re.fullmatch(r"`([\w/.-]+)`, the whole file:", before)
            assert name, before
            (self._copy / name[1]).write_text(text)
        else:
            for command, shown in [one.partition("\n")[::2] for one in re.split(r"^\$ ", text, flags=re.M)[1:]]:
                if STAYS.match(command):
                    self._start(command)
                else:
                    yield command, shown, self._run(command)

    def _run(self, command: str) -> str:
        words, environment = self._translate(command), self._environment
        done = subprocess.run(
            words, cwd=self._copy, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _start(self, command: str) -> None:
        """Start a command, end the one before, and wait until it can be used."""
        self.stop()
        log = self._copy / "log"
        words = self._translate(command)
        is_service = "--serve" not in words
        words += ["--port", self._port] if is_service else []
        with log.open("w") as file:
            process = Tool(words, cwd=self._copy, env=self._environment, stdout=file, stderr=subprocess.STDOUT)
        self._running = self._stack.enter_context(process)

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            return self._answers() if is_service else "In another terminal" in log.read_text()

        wait_for(is_ready)

    def stop(self) -> None:
        """End what runs, as a reader would with Ctrl-C."""
        if self._running:
            self._running.send_signal(signal.SIGINT)
            self._running.wait(PATIENCE)
        self._running = None

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return bool(opener.open(f"http://127.0.0.1:{self._port}/health", timeout=5).status == 200)
        except OSError:
            return False

    def _translate(self, command: str) -> list[str]:
        """Return a command with this environment's Python; a launcher would make an environment in the copy."""
        words = shlex.split(command.replace(f":{PORT}/", f":{self._port}/"))
        if words[0] == "./scripts/environment":
            words = words[words.index("--") + 1 :]
        elif words[0].startswith("./scripts/"):
            words = ["python", "-m", "scripts.start", words[0].removeprefix("./scripts/"), *words[1:]]
        return [sys.executable if word == "python" else word for word in words]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the files that are in Git, or would be."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("this is no clone")
    folder = tmp_path / "orders"
    for name in done.stdout.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def usual_minutes(shop: int, customer: int, items: int) -> float:
    """Return the minutes until an order is delivered, by the law that the page tells."""
    return 12 + 2 * items + 3 * abs(shop - customer)


def masked(text: str) -> str:
    """Return an output without what differs from run to run."""
    return "\n".join(comparable(NOT_COMPARED.sub("#", text)))


def is_shown(shown: str, printed: str) -> bool:
    """Return whether a command printed what the page shows; a line with an ellipsis stands for others."""
    pattern = ".*".join(re.escape(masked(part)) for part in re.split(r"^….*\n", shown, flags=re.MULTILINE))
    return bool(re.fullmatch(pattern, masked(printed), re.DOTALL))


def predictions_in(printed: str) -> Iterator[tuple[Sequence[int], float]]:
    """Yield each order that a table shows, and its predicted minutes."""
    for line in printed.splitlines():
        found = re.fullmatch(r"│ order-0-\d+ +│ +(\d+) │ +(\d+) │ +(\d+) │ +([\d.]+) │", line)
        if found:
            yield [int(found[place]) for place in (1, 2, 3)], float(found[4])


@pytest.mark.slow
def test_a_reader_who_follows_the_page_gets_predictions_of_orders(copy: Path) -> None:
    """Each command prints what the page shows, the predictions obey the law, and rejections name the field."""
    blocks = [found.groupdict() for found in BLOCK.finditer(PAGE.read_text())]
    assert len(blocks) * 2 == len(FENCES.findall(PAGE.read_text())), "a block of the page is not followed"
    printed: dict[str, str] = {}
    with ExitStack() as stack:
        reader = Reader(copy, stack)
        for block in blocks:
            for command, shown, output in reader.follow(**block):
                assert is_shown(shown, output), f"{command} printed:\n{output}"
                printed[command] = output
        reader.stop()
    train, run, invoke, put, read, good, bad = printed.values()
    assert "linear" in train
    assert put == "put 1 rides on ride_events\n"
    rows = list(predictions_in(run))
    assert len(rows) == 4
    for order, minutes in rows:
        assert minutes == pytest.approx(usual_minutes(*order), abs=TOLERANCE)
    assert "at `$.order.items`" in run
    response: dict[str, Any] = json.loads(invoke)
    last = json.loads(read.splitlines()[-1])["prediction"]
    assert response["predictions"][0]["prediction"] == last == {"delivery_time": last["delivery_time"], "order_id": 256}
    assert json.loads(good)["delivery_time"] == last["delivery_time"]
    assert last["delivery_time"] == pytest.approx(usual_minutes(5, 12, 3), abs=TOLERANCE)
    (rejection,) = response["rejections"]
    assert rejection["reason"] == "Expected `int` >= 1 - at `$.order.items`"
    assert json.loads(bad)["detail"] == "Expected `int` <= 20 - at `$.customer_zone`"
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=copy, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout.decode()
