"""A run that is killed at any instant: nothing half is visible, and the next run completes the month exactly."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batch.plan import make_plan
from batch_job import Job, arguments_of, identify_model
from settings import ModelSettings
from tests.batch.outputs import (
    MONTH,
    VERSION,
    Output,
    check_done,
    check_nothing_half,
    copy_model,
    digests,
    score,
    write_month,
)
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, ROOT

RANDOM_KILLS = {"folder": 50, "S3": 20}
RUNNER = """
import fcntl, functools, json, os, signal, socket, sys
import boto3.session, batch_job
from settings import ModelSettings

CALLS = {os: "mkdir fsync replace unlink", fcntl: "flock", socket.socket: "sendall"}

def count_calls(last):
    seen = 0
    def counted(call):
        @functools.wraps(call)
        def wrapper(*arguments, **options):
            nonlocal seen
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return wrapper
    for place, names in CALLS.items():
        for name in names.split():
            setattr(place, name, counted(getattr(place, name)))

# What loading imports is imported once.
batch_job.load_from_settings(ModelSettings.from_environment(os.environ))
for line in sys.stdin:
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    else:
        os.dup2(2, 1)
        kill_at, sys.argv[1:] = json.loads(line)
        count_calls(kill_at)
        os._exit(batch_job.main())
"""
"""Runs the job in a fork for each line of its input, so that the imports are paid once. A line has the number of the
instant at which the job is killed, just before a system call that others can see, and the arguments of the job."""


class Runner(subprocess.Popen[str]):
    """The process that runs jobs."""

    def run(self, job: Job, kill_at: int = 0) -> int:
        """Run a job, which is killed at this instant, and return its exit code."""
        assert self.stdin
        assert self.stdout
        print(json.dumps([kill_at, arguments_of(job)]), file=self.stdin, flush=True)
        return int(self.stdout.readline())


@dataclass(frozen=True)
class Scene:
    """What the runs of a test work on."""

    output: Output
    folder: Path
    """The folder of temporary files is in it."""
    source: Path
    runner: Runner

    @property
    def temporary(self) -> Path:
        """The folder that has a process's temporary files."""
        return self.folder / "temporary"


@pytest.fixture
def scene(output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Give an output, a month of trips, and a process that runs jobs."""
    (tmp_path / "temporary").mkdir()
    for name, value in {"MODEL_LOCATION": SAMPLE_MODEL, "RUN_ID": VERSION}.items():
        monkeypatch.setenv(name, value)
    variables = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    source = write_month(tmp_path / "input", 200)
    with Runner([sys.executable, "-c", RUNNER], env=variables, cwd=tmp_path, text=True, **pipes) as runner:
        yield Scene(output, tmp_path, source, runner)


@contextmanager
def killed_and_completed(scene: Scene, job: Job, output: Output) -> Iterator[None]:
    """Check the output after the block, which kills a run, and again after another run that nobody kills."""
    yield
    manifest = check_nothing_half(output.read())
    model = identify_model(ModelSettings.from_environment(os.environ))
    (planned,) = make_plan([MONTH], str(scene.source), output.location, model)
    assert planned.manifest == manifest
    assert (planned.state == "missing") == (manifest is None)
    assert list(scene.temporary.iterdir()) == []
    assert scene.runner.run(job) == 0
    check_done(output.read())
    assert list(scene.temporary.iterdir()) == []


def kill_everywhere(scene: Scene, name: str, before: dict[str, Any] | None) -> int:
    """Kill a run at each of its system calls, and return how many instants there were.

    ``before`` are the arguments of ``score`` for the predictions that the run replaces.
    """
    undisturbed = scene.output.below(f"{name}-undisturbed")
    assert scene.runner.run(Job(MONTH, str(scene.source), undisturbed.location)) == 0
    expected = digests(check_done(undisturbed.read()))
    for instant in range(1, 10_000):
        output = scene.output.below(f"{name}-{instant}")
        if before:
            score(output=output, **before)
        older = digests(check_done(output.read())) if before else None
        job = Job(MONTH, str(scene.source), output.location, force=bool(before))
        with killed_and_completed(scene, job, output):
            code = scene.runner.run(job, kill_at=instant)
            found = check_nothing_half(output.read())
            assert digests(found) in (older, expected) if before else True
        assert digests(check_done(output.read())) == expected
        if code == 0:
            return instant - 1
        assert code == -signal.SIGKILL
    raise AssertionError("the run does not come to its end")


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_system_call_is_completed_by_the_next(scene: Scene) -> None:
    """Before it, the month is missing or exact; after it, the output is the output of an undisturbed run."""
    assert kill_everywhere(scene, "first", None) >= 8


@pytest.mark.slow
def test_a_forced_run_that_is_killed_at_any_system_call_leaves_old_or_new_predictions(scene: Scene) -> None:
    """The manifest's files are there and exact at each instant, for another input and for another file of the model."""
    other_input = {"source": write_month(scene.folder / "input", 100)}
    assert kill_everywhere(scene, "input", other_input) >= 8
    other_model = {"source": scene.source, "model": copy_model(scene.folder / "model")}
    assert kill_everywhere(scene, "model", other_model) >= 8


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_is_completed_by_the_next(scene: Scene) -> None:
    """The real process is killed, at instants from its start to beyond its end."""
    environment = {**os.environ, "TMPDIR": str(scene.temporary)}
    undisturbed = scene.output.below("undisturbed")

    def start(output: Output) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "batch_job", *arguments_of(Job(MONTH, str(scene.source), output.location))]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(undisturbed).wait(PATIENCE) == 0
    seconds = time.monotonic() - began
    expected = digests(check_done(undisturbed.read()))
    draw = random.Random(13)  # noqa: S311  no secret
    for number in range(RANDOM_KILLS["S3" if scene.output.s3 else "folder"]):
        output = scene.output.below(str(number))
        job = Job(MONTH, str(scene.source), output.location)
        with killed_and_completed(scene, job, output), start(output) as process:
            time.sleep(draw.uniform(0, 1.2 * seconds))
            process.kill()
        assert digests(check_done(output.read())) == expected
