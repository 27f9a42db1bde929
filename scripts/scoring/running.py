"""Scoring months on this machine: one with a progress bar, or several at once, each in a process of its own."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import batch_job
from batch.months import Month
from batch_job import Job, ScoredMonth
from scripts.cli import CONSOLE
from settings import ModelSettings


@dataclass(frozen=True)
class MonthResult:
    """What became of a month: an outcome, or the error in one line."""

    month: Month
    outcome: ScoredMonth | None
    error: str = ""


def score_with_bar(job: Job, settings: ModelSettings) -> ScoredMonth:
    """Score a month in this process, and show on stderr how far it is. Raises what ``score_month`` raises."""
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    with Progress(*bar, TimeElapsedColumn(), console=CONSOLE) as progress:
        fetching = progress.add_task(f"Fetching {job.month.file_name}", unit="bytes", visible=False)
        scoring = progress.add_task(f"Scoring {job.month.colour} {job.month}", unit="rows", visible=False)

        def fetched(size: int, total: int | None) -> None:
            progress.update(fetching, advance=size, total=total, visible=True)

        def scored(rows: int, total: int) -> None:
            progress.update(scoring, advance=rows, total=total, visible=True)

        return batch_job.score_month(job, settings, batch_job.Watcher(fetched, scored))


def score_in_processes(jobs: Sequence[Job], processes: int) -> Generator[MonthResult]:
    """Score months, this many at once, and yield each result as soon as it is there, in the order of the jobs.

    The processes find the model by the environment variables. They are killed if the caller gives up, which is safe.
    """
    running: set[subprocess.Popen[str]] = set()
    is_over = threading.Event()

    def score(job: Job) -> MonthResult:
        command = [sys.executable, "-m", "batch_job", *batch_job.arguments_of(job)]
        # A group of its own, because Ctrl-C in a terminal signals the whole group.
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, process_group=0) as process:
            running.add(process)
            if is_over.is_set():
                # The thread was just starting it while the caller gave up.
                process.kill()
            answer, error = process.communicate()
            running.discard(process)
        if process.returncode:
            last = error.strip().splitlines()[-1:] or [f"ended with exit code {process.returncode}"]
            return MonthResult(job.month, None, last[0].removeprefix("batch_job: "))
        return MonthResult(job.month, msgspec.json.decode(answer, type=ScoredMonth))

    with ThreadPoolExecutor(processes) as threads:
        try:
            yield from threads.map(score, jobs)
        finally:
            is_over.set()
            threads.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
