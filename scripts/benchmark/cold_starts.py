"""Cold starts: fresh processes, from their start to the first prediction that they return."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scripts.benchmark.consumers import COMMON, FLOOR, OURS
from scripts.benchmark.environments import MLFLOW, PACKAGES, SKINNY
from scripts.cli import CommandError
from scripts.environment import ROOT

SKOPS, CLOUDPICKLE = "skops", "cloudpickle"

Key = TypeVar("Key")


@dataclass(frozen=True)
class Start:
    """A way to start: a consumer, the model's serialization, and the environment that it runs in."""

    name: str
    consumer: str
    serialization: str
    packages: str


COMMON_SKOPS = Start("common practice, mlflow, skops", COMMON, SKOPS, MLFLOW)
COMMON_CLOUDPICKLE = Start("common practice, mlflow, cloudpickle", COMMON, CLOUDPICKLE, MLFLOW)
COMMON_SKINNY = Start("common practice, mlflow-skinny, skops", COMMON, SKOPS, SKINNY)
OURS_SKOPS = Start("ours, skops", OURS, SKOPS, PACKAGES)
OURS_CLOUDPICKLE = Start("ours, cloudpickle", OURS, CLOUDPICKLE, PACKAGES)
FLOOR_SKOPS = Start("floor, skops", FLOOR, SKOPS, PACKAGES)
FLOOR_CLOUDPICKLE = Start("floor, cloudpickle", FLOOR, CLOUDPICKLE, PACKAGES)
STARTS = (
    *(COMMON_SKOPS, COMMON_CLOUDPICKLE, COMMON_SKINNY),
    *(OURS_SKOPS, OURS_CLOUDPICKLE),
    *(FLOOR_SKOPS, FLOOR_CLOUDPICKLE),
)


@dataclass(frozen=True)
class Process:
    """A process of its own: an interpreter with its packages, a consumer, and its whole environment."""

    interpreter: Path
    consumer: str
    variables: Mapping[str, str]


@dataclass(frozen=True)
class ColdStart:
    """What a cold start takes; medians of so many, where there were several."""

    seconds: float
    peak_memory: float
    """Bytes."""
    modules: float
    runs: int = 1


def measured(
    processes: Mapping[Key, Process], event: Path, rounds: int, advance: Callable[[], None]
) -> dict[Key, ColdStart]:
    """Return what each process's start takes, in rounds in which each has one.

    The first start of each is not counted: it brings files into memory, and bytecode to them.
    """
    runs: dict[Key, list[ColdStart]] = {key: [] for key in processes}
    for number in range(rounds + 1):
        for key, process in processes.items():
            run = start(process, event)
            if number > 0:
                runs[key].append(run)
            advance()
    return {key: summary(found) for key, found in runs.items()}


def start(process: Process, event: Path) -> ColdStart:
    """Start a process, and return what it took until it had handled the event.

    Raises:
        CommandError: where it ended before; what it said stands on stderr.
    """
    ours, theirs = os.pipe()
    with os.fdopen(ours) as line:
        command = [
            str(process.interpreter),
            "-m",
            "scripts.benchmark.cold_start",
            process.consumer,
            str(event),
            str(theirs),
        ]
        began = time.perf_counter()
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(process.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs],
            # Ctrl-C in a terminal goes to the whole group: the parent ends its children itself.
            start_new_session=True,
        )
        try:
            os.close(theirs)
            answer = line.readline().split()
            seconds = time.perf_counter() - began
        finally:
            child.kill()
            child.wait()
    if not answer:
        raise CommandError(f"a fresh process of {process.consumer} failed: see above")
    modules, peak_memory = map(int, answer)
    return ColdStart(seconds, peak_memory, modules)


def summary(runs: Collection[ColdStart]) -> ColdStart:
    """Return the medians of several starts."""
    return ColdStart(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.peak_memory for run in runs),
        statistics.median(run.modules for run in runs),
        len(runs),
    )
