"""Runs for the same month at the same time: one wins, the others say so, and no file of the winner is lost."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from batch.buckets import CONFLICT
from batch.manifests import MANIFEST
from batch.outputs import BusyError
from batch_job import Job, Watcher, arguments_of, score_month
from scripts.localaws.faults import Call, DroppedAfter, FailedRequest, Fault
from settings import ModelSettings
from tests.batch.outputs import MONTH, VERSION, Output, behind, check_done, check_nothing_half, score, write_month
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, ROOT


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the model for processes."""
    for name, value in {"MODEL_LOCATION": SAMPLE_MODEL, "RUN_ID": VERSION}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """Give months of different rows."""
    return [write_month(tmp_path / "input", rows) for rows in (100, 200, 300)]


def start(source: Path, output: Output, force: bool = False, **variables: str) -> subprocess.Popen[str]:
    """Start the job in a process of its own."""
    command = [sys.executable, "-m", "batch_job", *arguments_of(Job(MONTH, str(source), output.location, force))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdout=pipe, stderr=pipe, text=True)


def score_during(
    source: Path, output: Output, force: bool, others: Sequence[tuple[Path, bool]]
) -> list[BusyError | None]:
    """Score a month, and let others do the same when its rows are scored; return how each ended, the first last."""
    ends: list[BusyError | None] = []

    def run(job: Job, watcher: Watcher) -> None:
        try:
            score_month(job, ModelSettings.from_environment(os.environ), watcher)
        except BusyError as error:
            ends.append(error)
        else:
            ends.append(None)

    def let_others_run(*_: int) -> None:
        for other, is_forced in others:
            run(Job(MONTH, str(other), output.location, is_forced), Watcher())

    run(Job(MONTH, str(source), output.location, force), Watcher(scored=let_others_run))
    return ends


@pytest.mark.parametrize("rows", [100, 200], ids=["the same input", "another input"])
@pytest.mark.parametrize("is_forced", [False, True], ids=["first", "forced"])
def test_of_two_runs_one_wins(output: Output, inputs: list[Path], rows: int, is_forced: bool) -> None:
    """In a folder it is the first one to begin, and in S3 the first one to end. The other one leaves nothing."""
    if is_forced:
        score(inputs[2], output)
    other = next(path for path in inputs if path.stem == str(rows))
    second, first = score_during(inputs[0], output, is_forced, [(other, is_forced)])
    loser, winner = (first, other) if output.s3 else (second, inputs[0])
    assert loser
    assert (first, second).count(None) == 1
    manifest = check_done(output.read())
    assert manifest.counts.predicted == int(winner.stem)
    assert score(winner, output).was_done


def test_a_run_that_two_others_overtook_removes_nothing_of_theirs(bucket_output: Output, inputs: list[Path]) -> None:
    """The last one has the predictions that the first one wanted to write, under another name."""
    ends = score_during(inputs[0], bucket_output, True, [(inputs[1], True), (inputs[0], True)])
    assert ends[:2] == [None, None]
    assert ends[2]
    assert check_done(bucket_output.read()).counts.predicted == 100


def test_old_files_that_are_removed_late_are_not_those_of_a_later_run(
    bucket_output: Output, inputs: list[Path], endpoint: str
) -> None:
    """After a run has committed, and before it removes the old files, another run writes the old predictions again."""
    score(inputs[0], bucket_output)
    ends: list[int] = []

    def score_again(call: Call) -> None:
        # The first request that is not for the manifest after the manifest has changed: the first removal.
        if not ends and call.operation == "other" and "/part-" in call.key and committed():
            with start(inputs[0], bucket_output, force=True, AWS_ENDPOINT_URL_S3=endpoint) as process:
                ends.append(process.wait(PATIENCE))

    def committed() -> bool:
        manifest = check_nothing_half(bucket_output.read())
        return manifest is not None and manifest.counts.predicted == 200

    with behind(endpoint, score_again):
        score(inputs[1], bucket_output, force=True)
    assert ends == [0]
    assert check_done(bucket_output.read()).counts.predicted == 100


@pytest.mark.slow
@pytest.mark.parametrize("is_forced", [False, True], ids=["first", "forced"])
def test_of_three_processes_at_once_the_last_manifest_is_exact(
    output: Output, inputs: list[Path], is_forced: bool
) -> None:
    """Each process ends well or with one line, and a process that ended well has written the output."""
    if is_forced:
        score(inputs[2], output)
    processes = [start(source, output, is_forced) for source in inputs]
    ended = [(process.communicate(timeout=PATIENCE)[1], process.returncode) for process in processes]
    for error, code in ended:
        assert (code, len(error.splitlines())) in ((0, 0), (1, 1)), error
        assert "batch_job: " in error or code == 0
    winners = [int(source.stem) for source, (_, code) in zip(inputs, ended, strict=True) if code == 0]
    assert check_done(output.read()).counts.predicted in winners


@pytest.mark.parametrize("is_forced", [False, True], ids=["first", "forced"])
@pytest.mark.parametrize("fault", [DroppedAfter(), FailedRequest(409, CONFLICT)], ids=["lost response", "conflict"])
def test_a_manifest_that_is_put_twice_has_won(
    bucket_output: Output,
    inputs: list[Path],
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    is_forced: bool,
) -> None:
    """S3 refuses the second request, because the first one was applied; or it asks for a second request.

    Moto's conditions are those that AWS documents, but it answers no request with a conflict.
    """
    monkeypatch.setattr("batch.buckets.CONFLICT_SECONDS", 0)
    if is_forced:
        score(inputs[1], bucket_output)
    puts: list[Call] = []

    def fail_first(call: Call) -> Fault | None:
        if call.operation != "PutObject" or not call.key.endswith(MANIFEST):
            return None
        puts.append(call)
        return fault if len(puts) == 1 else None

    with behind(endpoint, fail_first):
        assert not score(inputs[0], bucket_output, force=is_forced).was_done
    assert len(puts) == 2
    assert check_done(bucket_output.read()).counts.predicted == 100


def test_a_conflict_that_does_not_end_is_a_lost_race(
    bucket_output: Output, inputs: list[Path], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may still need files of the same names, so they stay; the next run completes the month."""
    monkeypatch.setattr("batch.buckets.CONFLICT_SECONDS", 0)

    def conflict(call: Call) -> Fault | None:
        return FailedRequest(409, CONFLICT) if call.operation == "PutObject" and call.key.endswith(MANIFEST) else None

    with behind(endpoint, conflict), pytest.raises(BusyError, match="another run has just written this month"):
        score(inputs[0], bucket_output)
    assert not score(inputs[0], bucket_output).was_done
    check_done(bucket_output.read())
