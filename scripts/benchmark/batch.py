"""The comparison of the batch job with the course's script: both score the same files, in turns, on one core."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from batch.months import Month
from scripts.benchmark.batch_files import check_agreement, repeat
from scripts.benchmark.consumers import OURS, OURS_SKLEARN
from scripts.benchmark.inputs import CLOUDPICKLE, SERVED, SKOPS, LoggedModel, Plan
from scripts.benchmark.processes import THREADS
from scripts.cli import CommandError
from scripts.environment import ROOT
from scripts.pythons import install_python
from scripts.scoring.shown import BYTES_PER_UNIT
from trips import COLOURS, MONTH_IN_NAME, TripFile

COURSE_SCRIPT = "course"
RESULT = "result.parquet"
OTHER_SETTINGS = ("MODEL_BUCKET", "MODEL_SHA256", "PREDICTION_FIELD", "MLFLOW_EXPERIMENT_ID")
"""Variables that are removed, so that the programs run with their defaults."""


@dataclass(frozen=True)
class Program:
    """What scores a file."""

    environment: str
    """The name of its environment in .bench."""
    form: str
    """The form of the model. All forms hold the same pipeline."""
    arguments: Callable[[Path, Path], Sequence[str]]
    """Returns the arguments of Python for an input and the folder of the output, but for the month."""


def _job(file: Path, folder: Path) -> Sequence[str]:
    return "batch_job", "--input", str(file), "--output", str(folder)


PROGRAMS = {
    COURSE_SCRIPT: Program("mlflow", CLOUDPICKLE, lambda *_: ["scripts.benchmark.course_batch"]),
    OURS_SKLEARN: Program("sklearn-batch", SKOPS, _job),
    OURS: Program("lean-batch", SERVED, _job),
}


class BatchCell(NamedTuple):
    """A program that scores a file, in which each row of the month is ``times`` times."""

    times: int
    program: str


class BatchSample(NamedTuple):
    """One process: seconds and bytes."""

    wall: float
    cpu: float
    peak_memory: int


def find_month(file: Path) -> Month:
    """Return the colour of a file's trips, and the month in its name or else any month: it only names a folder."""
    with file.open("rb") as opened:
        colours = TripFile(opened, file.name).colours
    found = MONTH_IN_NAME.search(file.name)
    year, month = map(int, found.groups()) if found else (2023, 1)
    return Month(next(iter(colours), next(iter(COLOURS))), year, month)


def measure(
    file: Path, model: LoggedModel, plan: Plan, folder: Path, advance: Callable[[], None]
) -> dict[BatchCell, list[BatchSample]]:
    """Measure the programs with one model, and return the samples of each.

    The programs' predictions for the month are compared. Only the batch job gets the longest file, once, because the
    script would need the memory for all of its rides at the same time.

    ``advance`` is called after each of the turns that ``count_turns`` counts. Raises CommandError if a program fails,
    or if the predictions differ.
    """
    month = [str(part) for part in find_month(file)]
    pythons = find_pythons(plan)
    files = {times: folder / f"{times}.parquet" for times in (*plan.repeats, plan.longest)}
    for times, path in files.items():
        if not path.exists():
            repeat(file, times, path)
    found: defaultdict[BatchCell, list[BatchSample]] = defaultdict(list)

    def score(cell: BatchCell, output: Path) -> None:
        output.mkdir()
        program = PROGRAMS[cell.program]
        module, *others = program.arguments(files[cell.times], output)
        command = [str(pythons[cell.program]), "-m", module, *month, *others]
        environment = make_variables(program, model, files[cell.times], output)
        found[cell].append(run_on_one_core(cell.program, command, environment))
        advance()

    for times in plan.repeats * plan.rounds:
        with TemporaryDirectory(dir=folder) as temporary:
            outputs = {name: Path(temporary, str(place)) for place, name in enumerate(PROGRAMS)}
            for name, output in outputs.items():
                score(BatchCell(times, name), output)
            for name in PROGRAMS.keys() - {COURSE_SCRIPT} if times == 1 else ():
                check_agreement(next(outputs[name].rglob("part-*.parquet")), outputs[COURSE_SCRIPT] / RESULT)
    with TemporaryDirectory(dir=folder) as temporary:
        score(BatchCell(plan.longest, OURS), Path(temporary, "output"))
    return found


def find_pythons(plan: Plan) -> dict[str, Path]:
    """Return the Python that runs each program, which has only the program's packages if the plan says so."""
    return {
        name: install_python(program.environment) if plan.own_environments else Path(sys.executable)
        for name, program in PROGRAMS.items()
    }


def count_turns(plan: Plan) -> int:
    """Return the number of processes with one model."""
    return len(PROGRAMS) * len(plan.repeats) * plan.rounds + 1


def make_variables(program: Program, model: LoggedModel, file: Path, output: Path) -> dict[str, str]:
    """Return the whole environment of a program."""
    variables = {name: value for name, value in os.environ.items() if name not in OTHER_SETTINGS}
    variables |= dict.fromkeys(THREADS, "1")
    variables |= {
        "INPUT_FILE": str(file),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MODEL_LOCATION": str(model.folders[program.form]),
        "OUTPUT_FILE": str(output / RESULT),
        "PYTHONPATH": str(ROOT),
        "RUN_ID": model.run_id,
    }
    return variables


def run_on_one_core(name: str, command: Sequence[str], environment: Mapping[str, str]) -> BatchSample:
    """Run a program to its end, and return what it took. Raises CommandError if it fails."""
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.benchmark.one_core", *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            answer, log = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    code, wall, cpu, peak = json.loads(answer or "[null, 0, 0, 0]")
    if code != 0:
        last = (re.findall(r"\S.*", log) or ["it printed nothing"])[-1]
        raise CommandError(f"the program {name!r} failed with exit code {code} (its last line: {last})")
    return BatchSample(wall, cpu, peak * BYTES_PER_UNIT)
