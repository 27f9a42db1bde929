"""The processes that are measured: their environments, how they are started, and the order of their turns."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from scripts.benchmark import endpoint
from scripts.benchmark.consumers import COMMON, CONSUMERS, EMPTY, FLOOR, OURS, OURS_SKLEARN
from scripts.benchmark.inputs import CLOUDPICKLE, SERVED, SKOPS, LoggedModel, Plan
from scripts.cli import OUTPUT_STREAM, CommandError
from scripts.environment import ROOT
from scripts.localaws import setup
from scripts.pythons import install_python

WARM, COLD = PARTS = ("warm", "cold")
LATENCY = 0.01
"""The number of seconds after which the endpoint answers a request of a delayed batch."""
DELAYED = f"{WARM}, {LATENCY * 1000:g} ms a request"
LATENCIES = {WARM: 0.0, DELAYED: LATENCY}
"""The latency of each case of warm batches."""

ENVIRONMENT_OF = {COMMON: "mlflow", OURS_SKLEARN: "sklearn", OURS: "lean", FLOOR: "sklearn", EMPTY: "lean"}
"""The environment in which a consumer starts."""
NO_MODEL = "no model"
FORMS_OF = {
    COMMON: (SKOPS, CLOUDPICKLE),
    OURS_SKLEARN: (SKOPS, CLOUDPICKLE),
    OURS: (SERVED,),
    FLOOR: (SKOPS, CLOUDPICKLE),
    EMPTY: (NO_MODEL,),
}
"""The forms of a model with which a consumer is started. Warm batches use the first form."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that limit the threads of scikit-learn and numpy. If the user has not set them, each consumer and service
has its own defaults: our web service's workers have one thread each. Batch programs have one."""
TELEMETRY_VARIABLES = ("LOG_LEVEL", "POWERTOOLS_METRICS_DISABLED", "POWERTOOLS_METRICS_NAMESPACE")
"""Variables that are removed because consumers log and count as they do in Lambda."""


class Cell(NamedTuple):
    """One place of the table of results."""

    model: str
    case: str
    """A case of warm batches, or a cold start with a form of the model."""
    rides: int
    """The number of rides in a batch."""
    consumer: str


class Sample(NamedTuple):
    """One measurement of a batch by one process, in seconds and bytes."""

    wall: float
    cpu: float
    """The time of the consumer's process alone, all its threads together."""
    process_cpu: float
    """The CPU time since the process started."""
    peak_memory: int


Measure = Callable[[], Sample]


@dataclass(frozen=True)
class Launch:
    """Everything that starts a measured process."""

    consumer: str
    variables: Mapping[str, str]
    """The process's whole environment."""
    events: Path
    """The folder with an event for each number of rides, ``<rides>.json``."""
    python: Path = Path(sys.executable)
    folder: Path = ROOT
    """The folder that the consumer is imported from."""

    @contextlib.contextmanager
    def start(self) -> Iterator[Callable[[int, float], Sample]]:
        """Run the process for the length of the block, and yield a function that measures a batch in it.

        That function takes the number of rides in the batch and the seconds to repeat it. It raises CommandError if
        the process ends; the process's message is on stderr.
        """
        reader, writer = os.pipe()
        with os.fdopen(reader) as answers:
            process = subprocess.Popen(
                [self.python, "-m", "scripts.benchmark.consumers", self.consumer, self.events, str(writer)],
                cwd=self.folder,
                env=dict(self.variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                bufsize=1,
                pass_fds=[writer],
                # Ctrl-C in a terminal signals the whole process group, but the parent ends its children itself.
                start_new_session=True,
            )
            os.close(writer)

            def measure(rides: int, seconds: float) -> Sample:
                with contextlib.suppress(BrokenPipeError):
                    print(rides, seconds, file=process.stdin)
                answer = answers.readline()
                if not answer:
                    raise CommandError(f"{self.consumer} failed on a batch of {rides:,} rides: see above")
                return Sample(*json.loads(answer))

            with process:
                try:
                    yield measure
                finally:
                    process.kill()

    def measure_cold_start(self) -> Sample:
        """Start a process for a batch of one ride, and return the times from the start to the prediction."""
        began = time.perf_counter()
        with self.start() as measure:
            sample = measure(1, 0.0)
            return sample._replace(wall=time.perf_counter() - began, cpu=sample.process_cpu)


def make_variables(url: str, model: LoggedModel, form: str) -> dict[str, str]:
    """Return the whole environment of a consumer. It is the same for all consumers of this form of the model."""
    variables = dict(os.environ)
    setup.isolate(variables, url)
    for name in (*setup.FUNCTION_VARIABLES, *TELEMETRY_VARIABLES):
        variables.pop(name, None)
    variables.update(
        PREDICTIONS_STREAM_NAME=OUTPUT_STREAM,
        FAILURES_LOCATION=setup.REJECTIONS,
        RUN_ID=model.run_id,
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    if form != NO_MODEL:
        variables["MODEL_LOCATION"] = str(model.folders[form])
    if form == CLOUDPICKLE:
        variables["MODEL_SHA256"] = model.cloudpickle_sha256()
    return variables


def prepare_warm(
    models: Mapping[str, LoggedModel], plan: Plan, url: str, events: Path, stack: contextlib.ExitStack
) -> dict[Cell, Measure]:
    """Start a process for each model and consumer, which the stack ends; return what measures each batch size in it."""
    processes = {}
    for name, model in models.items():
        for consumer in CONSUMERS:
            variables = make_variables(url, model, FORMS_OF[consumer][0])
            measure = stack.enter_context(Launch(consumer, variables, events).start())
            measure(1, 0.0)  # loads the model and opens the connection
            processes[name, consumer] = measure

    def measure_turn(cell: Cell) -> Sample:
        endpoint.set_latency(url, LATENCIES[cell.case])
        return processes[cell.model, cell.consumer](cell.rides, plan.turn_seconds)

    cells = [
        Cell(name, case, rides, consumer)
        for case, sizes in {WARM: plan.batches, DELAYED: plan.delayed_batches}.items()
        for rides in sizes
        for name, consumer in processes
    ]
    return {cell: functools.partial(measure_turn, cell) for cell in cells}


def prepare_cold(
    models: Mapping[str, LoggedModel], url: str, events: Path, pythons: Mapping[str, Path]
) -> dict[Cell, Measure]:
    """Start each consumer once with each model and form; return what measures its next cold starts."""
    cells = {}
    for name, model in models.items():
        for consumer, forms in FORMS_OF.items():
            for form in forms:
                launch = Launch(consumer, make_variables(url, model, form), events, pythons[consumer])
                # The first start is not counted: it reads files into the page cache and writes bytecode.
                launch.measure_cold_start()
                cells[Cell(name, name_cold_case(form), 1, consumer)] = launch.measure_cold_start
    return cells


def name_cold_case(form: str) -> str:
    """Return the case of cold starts with a form of the model."""
    return f"{COLD}, {form}"


def measure_in_turns(
    cells: Mapping[Cell, Measure], rounds: int, budget: float, advance: Callable[[], None]
) -> dict[Cell, list[Sample]]:
    """Measure each cell once a round, so that a disturbance of the machine reaches all consumers alike.

    A cell that has used its budget gets no further turn. It gets no turn at all if the next smaller batch predicts that
    a single batch would exceed the budget.

    Args:
        cells: a function that measures each cell, smaller batches first.
        rounds: the number of turns of each cell.
        budget: the seconds of batches of one cell over all rounds.
        advance: called after each turn, also after a turn that is left out.
    """
    samples: defaultdict[Cell, list[Sample]] = defaultdict(list)
    for _ in range(rounds):
        for cell, measure in cells.items():
            spent = sum(sample.wall for sample in samples[cell])
            if spent < budget and (spent or _expect_seconds(cell, samples) <= budget):
                samples[cell].append(measure())
            advance()
    return {cell: found for cell, found in samples.items() if found}


def _expect_seconds(cell: Cell, samples: Mapping[Cell, list[Sample]]) -> float:
    """Return how long a batch should take according to the largest smaller batch, or 0 if there is no smaller one."""
    smaller = [other for other, found in samples.items() if found and other == cell._replace(rides=other.rides)]
    largest = max(smaller, key=lambda other: other.rides, default=None)
    return samples[largest][-1].wall * cell.rides / largest.rides if largest else 0.0


def install_pythons() -> dict[str, Path]:
    """Return the Python that runs each consumer, in an environment with only the consumer's packages."""
    return {consumer: install_python(name) for consumer, name in ENVIRONMENT_OF.items()}
