"""Measure the consumer beside common practice and beside the floor, and what it costs.

Common practice is the consumer of courses: mlflow.pyfunc, one prediction and one PutRecord a ride. The floor predicts
ready-made features in one call and puts ready-made entries, 500 at a time, by a client as boto3 makes it: it decodes
and encodes nothing, but it checks parameters and collects garbage, as the SDK and Python do by default. All three talk
over loopback HTTP to an endpoint in a process of its own that answers as Kinesis does, at once; their CPU time is that
of their own process.

What is compared is measured in turns within one run, and shown as the median of the rounds. Numbers of two runs are not
comparable: the machine is another one each time. Cold starts run in environments that hold the locked packages that
each consumer needs and no others; they are kept in .bench, and making them takes some minutes once.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from scripts import cli
from scripts.benchmark import cold_starts, measured_process, results, tables, warm_batches
from scripts.benchmark import endpoint as bench_endpoint
from scripts.benchmark import inputs as bench_inputs
from scripts.benchmark.cold_starts import SKOPS, STARTS, ColdStart, Process, Start
from scripts.benchmark.consumers import COMMON, FLOOR, OURS
from scripts.benchmark.cost import Price
from scripts.benchmark.environments import ENVIRONMENTS, interpreter
from scripts.benchmark.inputs import Inputs
from scripts.benchmark.plan import (
    COLD,
    COST,
    COST_BATCHES,
    FOREST,
    FOREST_BATCH,
    FULL,
    GROWTH,
    PARTS,
    QUICK,
    RIDGE,
    WARM,
    Plan,
    forest_of,
)
from scripts.benchmark.results import Report
from scripts.benchmark.warm_batches import Batch, Cell
from scripts.benchmark.worker import STEPWISE, Worker, WorkerError
from scripts.cli import STDOUT
from trips import TripRecordError

if TYPE_CHECKING:
    from scripts.benchmark.models import LoggedModel

PROGRAM = "bench"

EXAMPLES = """\
examples:
  bench
  bench --quick
  bench --data green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet --json bench.json --plot bench.png
  bench --parts cold --rounds 15
"""

MODELS = (RIDGE, FOREST)
CONSUMERS = (COMMON, OURS, FLOOR)
VERSIONS = ("scikit-learn", "numpy", "mlflow", "boto3", "skops", "msgspec")
ONE_VCPU_MB = 1769
"""Lambda developer guide, "Configure Lambda function memory"."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that bound the threads of scikit-learn and numpy. They are left as they are, the same for all consumers."""


@dataclass(frozen=True)
class Bench:
    """All that stands ready before anything is measured."""

    plan: Plan
    models: "Mapping[str, LoggedModel]"
    events: Path
    """The folder with the events."""
    endpoint: str
    progress: Progress
    stack: contextlib.ExitStack
    """Ends the workers."""
    workers: dict[tuple[str, str], Worker] = field(default_factory=dict)
    """By model and consumer: started when they are first needed."""

    def variables(self, model: str, serialization: str = SKOPS) -> dict[str, str]:
        """Return the environment for a process with the model."""
        logged = self.models[model]
        if serialization == SKOPS:
            return measured_process.environment(self.endpoint, logged.skops, logged.run_id)
        return measured_process.environment(self.endpoint, logged.cloudpickle, logged.run_id, logged.cloudpickle_sha256)

    def batches(self, title: str, cells: Collection[Cell]) -> dict[Cell, Batch]:
        """Return what the batches of the cells take, with one process for each model and consumer."""
        for model, consumer in dict.fromkeys((cell.model, cell.consumer) for cell in cells):
            if (model, consumer) not in self.workers:
                worker = Worker(consumer, self.variables(model), self.events)
                self.workers[model, consumer] = self.stack.enter_context(worker)
        advance = self._steps(title, len(cells) * self.plan.rounds)
        return warm_batches.measured(cells, self.workers, self.plan, advance)

    def cold_starts(self, title: str, interpreters: Mapping[str, Path]) -> dict[tuple[str, Start], ColdStart]:
        """Return what each way to start takes, with a batch of one ride."""
        processes = {
            (model, start): Process(
                interpreters[start.packages], start.consumer, self.variables(model, start.serialization)
            )
            for model in self.plan.cold_models
            for start in STARTS
        }
        advance = self._steps(title, len(processes) * (self.plan.rounds + 1))
        return cold_starts.measured(processes, self.events / "1.json", self.plan.rounds, advance)

    def _steps(self, title: str, number: int) -> Callable[[], None]:
        """Show a bar for so many steps, and return what moves it by one."""
        return functools.partial(self.progress.advance, self.progress.add_task(title, total=number))


def main() -> int:
    """Measure as the command line says; return the exit code."""
    options = parse_arguments()
    if options.json not in (None, STDOUT):
        cli.check_writable(options.json)  # before minutes have passed
    if options.plot:
        cli.check_writable(options.plot)
    report = measure(options, plan_of(options))
    if options.json:
        cli.write(options.json, json.dumps(asdict(report), indent=2))
    if options.json != STDOUT:
        tables.show(report, Console())
    if options.plot:
        # Here and not above: matplotlib takes a second, and would be part of nobody's measurement either.
        from scripts.benchmark import plot

        plot.draw(report, Path(options.plot))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="FILE",
        help="TLC trip records: the models learn from the first file, and the rides are those of the last"
        " (default: synthetic rides)",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small models, small batches and few rounds: for a look, not for figures"
    )
    parser.add_argument(
        "--rounds",
        type=cli.count,
        metavar="N",
        help=f"of which medians are taken (default: {FULL.rounds}; {QUICK.rounds} with --quick)",
    )
    parser.add_argument(
        "--budget",
        type=cli.seconds,
        metavar="SECONDS",
        help="what one consumer gets for one batch size in all rounds: what would take longer is left out"
        f" (default: {FULL.budget:g}; {QUICK.budget:g} with --quick)",
    )
    parser.add_argument(
        "--memory",
        type=memory,
        default=ONE_VCPU_MB,
        metavar="MB",
        help="the function's, at least one vCPU's, for times are measured on a whole core (default: %(default)s)",
    )
    parser.add_argument(
        "--price-per-gb-second",
        type=cli.seconds,
        default=0.0000133334,
        metavar="DOLLARS",
        help="Lambda's list price (default: %(default)s, that of arm64 in us-east-1)",
    )
    parser.add_argument(
        "--price-per-million-requests",
        type=cli.seconds,
        default=0.20,
        metavar="DOLLARS",
        help="(default: %(default)s)",
    )
    parser.add_argument("--price-date", default="2026-11", metavar="DATE", help="of the price (default: %(default)s)")
    parser.add_argument(
        "--json", metavar="FILE", help=f"write all figures there, too; {STDOUT} prints them instead of the tables"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the figures into this PNG file")
    return parser.parse_args()


def memory(text: str) -> int:
    """Return megabytes that bring at least one vCPU. Raises ArgumentTypeError."""
    megabytes = cli.count(text)
    if megabytes < ONE_VCPU_MB:
        raise argparse.ArgumentTypeError(f"{text} is less than {ONE_VCPU_MB} MB, one vCPU")
    return megabytes


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the options choose."""
    plan = QUICK if options.quick else FULL
    changes = {"rounds": options.rounds, "budget": options.budget}
    return replace(plan, **{name: value for name, value in changes.items() if value is not None})


def measure(options: argparse.Namespace, plan: Plan) -> Report:
    """Make everything ready, and measure the parts that were asked for."""
    price = Price(options.price_per_gb_second, options.price_per_million_requests, options.memory, options.price_date)
    inputs = bench_inputs.from_files(options.data) if options.data else bench_inputs.synthetic(plan.trips)
    settings = {"data": inputs.description, "rounds": plan.rounds, "budget, seconds": plan.budget}
    trees = {forest_of(number): number for number in plan.growth_trees if GROWTH in options.parts}
    interpreters = {name: interpreter(name) for name in ENVIRONMENTS if COLD in options.parts}
    with ready(plan, inputs, list(trees.values())) as bench:
        warm = bench.batches("Warm batches", warm_cells(plan, options.parts))
        cold = bench.cold_starts("Cold starts", interpreters) if COLD in options.parts else {}
        growth = bench.batches("Growth", growth_cells(plan, trees) if GROWTH in options.parts else [])
        steps = bench.batches("Steps", steps_cells() if COST in options.parts else [])
    rows = results.growth_rows(growth, trees)
    return Report(
        machine=machine(),
        settings=settings,
        price=price,
        warm=results.warm_rows(warm),
        warm_ratios=results.warm_ratios(warm),
        cold=results.cold_rows(cold),
        cold_ratios=results.cold_ratios(cold),
        growth_by_batch=[row for row in rows if row.trees is None],
        growth_by_trees=[row for row in rows if row.trees is not None],
        cost=results.cost_rows(warm, COST_BATCHES, price) if COST in options.parts else [],
        steps=results.steps_rows(steps),
    )


@contextlib.contextmanager
def ready(plan: Plan, inputs: Inputs, growth_trees: Collection[int]) -> Iterator[Bench]:
    """Train the models, write the events and start the endpoint; take it all away when the block ends."""
    # Here and not above: mlflow takes seconds.
    from scripts.benchmark.models import logged_models

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        models = logged_models(inputs.trips, folder, plan.trees, growth_trees)
        sizes = {1, FOREST_BATCH, *plan.batches, *plan.growth_batches, *COST_BATCHES}
        bench_inputs.write_events(inputs.records, sizes, folder)
        with (
            bench_endpoint.serve() as endpoint,
            cli.progress_bar("turns") as progress,
            contextlib.ExitStack() as stack,
        ):
            yield Bench(plan, models, folder, endpoint, progress, stack)


def warm_cells(plan: Plan, parts: Collection[str]) -> list[Cell]:
    """Return the cells in which the consumers are compared, and those that the cost is computed from."""
    sizes = {*(plan.batches if WARM in parts else ()), *(COST_BATCHES if COST in parts else ())}
    return [Cell(model, consumer, rides) for model in MODELS for rides in sorted(sizes) for consumer in CONSUMERS]


def growth_cells(plan: Plan, forests: Collection[str]) -> list[Cell]:
    """Return the cells that show ours grow, with the batch and with the forest."""
    by_batch = [Cell(model, OURS, rides) for model in MODELS for rides in plan.growth_batches]
    return [*by_batch, *(Cell(forest, OURS, FOREST_BATCH) for forest in forests)]


def steps_cells() -> list[Cell]:
    """Return the cells whose time is divided into steps."""
    return [Cell(model, STEPWISE, rides) for model in MODELS for rides in COST_BATCHES]


def machine() -> dict[str, object]:
    """Return what the figures depend on beside the code."""
    threads = {name: os.environ[name] for name in THREADS if name in os.environ}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        **{package: importlib.metadata.version(package) for package in VERSIONS},
        "threads": threads or f"no {', '.join(THREADS)}",
    }


def processor() -> str:
    """Return the processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main, explained=(OSError, TripRecordError, WorkerError)))
