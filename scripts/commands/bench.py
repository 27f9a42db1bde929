"""Measure the consumer beside common practice and beside the floor.

Common practice is the consumer of courses: mlflow.pyfunc, one prediction and one PutRecord for each ride. The floor
predicts ready-made features in one call and puts ready-made entries, 500 at a time, with a default boto3 client. It
decodes and encodes nothing, but it checks parameters and collects garbage, as the SDK and Python do by default.

All three talk over loopback HTTP to an endpoint in another process that answers as Kinesis does, immediately. CPU time
is the time of the consumer's own process. The consumers are measured in turns within one run, and the results are
medians of the rounds. Do not compare two runs: a machine is never equally fast twice.

Cold starts run in environments with only the locked packages that a consumer needs. The environments stay in .bench;
installing them takes some minutes once.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from scripts import cli
from scripts.benchmark import endpoint, inputs, processes, results
from scripts.benchmark.consumers import CONSUMERS
from scripts.benchmark.inputs import FULL, MODELS, QUICK, Plan
from scripts.benchmark.processes import COLD, PARTS, WARM, Cell, Measure, Sample
from scripts.benchmark.results import Row
from scripts.cli import STDOUT
from trips import TripRecordError

EXAMPLES = """\
examples:
  bench
  bench --quick
  bench --data green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet --json bench.json --plot bench.png
  bench --parts cold --rounds 15
"""
VERSIONS = ("scikit-learn", "numpy", "mlflow", "boto3", "skops", "msgspec")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that limit the threads of scikit-learn and numpy. All consumers run with the user's own values."""
EXPLAINED = (TripRecordError,)


def main() -> int:
    """Measure as the command line says; return the exit code."""
    options = parse_arguments()
    for name in (options.json, options.plot):
        if name not in (None, STDOUT):
            cli.check_writable(name)  # before minutes have passed
    plan = QUICK if options.quick else FULL
    plan = replace(plan, rounds=options.rounds or plan.rounds, budget=options.budget or plan.budget)
    chosen = inputs.read_inputs(options.data) if options.data else inputs.generate_inputs(plan.trips)
    settings = {"data": chosen.description, "rounds": plan.rounds, "budget, seconds": plan.budget, **machine()}
    rows = measure(plan, chosen, options.models, options.parts)
    if options.json:
        report = {"settings": settings, "rows": [asdict(row) for row in rows]}
        cli.write(options.json, json.dumps(report, indent=2))
    if options.json != STDOUT:
        console = Console()
        console.print("\n".join(f"{name}: {value}" for name, value in settings.items()), highlight=False)
        for model in options.models:
            console.print(results.results_table(rows, model))
    if options.plot:
        # Imported here because matplotlib takes a second to import.
        from scripts.benchmark import plot

        plot.draw(rows, Path(options.plot))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = cli.parser(__doc__, EXAMPLES)
    of_default = "(default: {0}; {1} with --quick)".format
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        metavar="FILE",
        help="TLC trip records: the models are trained on the first file, and predict the rides of the last"
        " (default: synthetic rides)",
    )
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="warm batches, cold starts (default: both)")
    add("--models", nargs="+", choices=MODELS, default=MODELS, help="(default: both)")
    add("--quick", action="store_true", help="small models, small batches and few rounds: for a look, not for figures")
    add("--rounds", type=cli.count, metavar="N", help=f"the number of rounds {of_default(FULL.rounds, QUICK.rounds)}")
    add(
        "--budget",
        type=cli.seconds,
        metavar="SECONDS",
        help="the time of one consumer for one batch size over all rounds; a batch that would take longer is left out"
        f" {of_default(f'{FULL.budget:g}', f'{QUICK.budget:g}')}",
    )
    add("--json", metavar="FILE", help=f"write all results to FILE, too; {STDOUT} prints them instead of the tables")
    add("--plot", metavar="FILE", help="draw the results into this PNG file")
    return parser.parse_args()


def measure(plan: Plan, chosen: inputs.Inputs, names: Sequence[str], parts: Sequence[str]) -> list[Row]:
    """Train the models, start the endpoint and the consumers, and measure the parts."""
    pythons = {consumer: processes.install_python(consumer) for consumer in CONSUMERS} if COLD in parts else {}
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        models = inputs.log_models(names, chosen.trips, folder, plan.trees)
        inputs.write_events(chosen.records, {1, *plan.batches}, folder)
        url = stack.enter_context(endpoint.serve())
        progress = stack.enter_context(cli.progress_bar("turns"))
        samples: dict[Cell, list[Sample]] = {}

        def take_turns(title: str, cells: Mapping[Cell, Measure]) -> None:
            task = progress.add_task(title, total=len(cells) * plan.rounds)
            advance = functools.partial(progress.advance, task)
            samples.update(processes.measure_in_turns(cells, plan.rounds, plan.budget, advance))

        if WARM in parts:
            take_turns("Warm batches", processes.prepare_warm(models, plan, url, folder, stack))
        if COLD in parts:
            take_turns("Cold starts", processes.prepare_cold(models, url, folder, pythons))
    return results.make_rows(samples)


def machine() -> dict[str, object]:
    """Return the properties of the machine that times depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": next(names, platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        **{package: importlib.metadata.version(package) for package in VERSIONS},
        **{name: os.environ.get(name, "not set") for name in THREADS},
    }
