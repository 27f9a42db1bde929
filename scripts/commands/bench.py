"""Measure the stream's consumer, the web service or the batch job, and compare it with what others run.

bench stream (the default) compares four consumers. Common practice is the consumer of courses: mlflow.pyfunc, one
prediction and one PutRecord for each ride. Ours is this project's function with the model's served form, and "ours,
sklearn" is the same function with the same model without it. The floor predicts ready-made features with scikit-learn
in one call and puts ready-made entries, 500 a request; it decodes and encodes nothing, and its client and its garbage
collector have our settings. All consumers talk over loopback HTTP to an endpoint in another process that answers as
Kinesis does, at once or after 10 ms. CPU time is the time of the consumer's own process. Cold starts run in
environments in .bench with only the locked packages that they need, which are installed once. An empty floor, without
a model, is started too.

bench web compares our web service, with and without the served form, to the course's own service (Flask, gunicorn,
mlflow.pyfunc, one ride a request) and to "mlflow models serve". These two have one worker by default; without --quick,
they are measured with as many workers as ours too. A load generator in a process of its own sends one ride a
request over more and more connections, and then lists of 100 rides. The course's service takes no lists, so it gets
their rides one by one. Each answer is checked. All services have the same pipeline. At the end, their memory is read.

bench batch compares our batch job, with and without the served form, to the course's batch script (pandas,
mlflow.pyfunc). Each run is a process on one core, from its start to its end, in an environment with only its locked
packages (with --quick, in the environment of bench). All programs score the month, and a file that has it ten times.
The batch job's longest file has the month a hundred times. The predictions of rides that both predict are compared.

bench counting shows what counting rides in the bins of a baseline adds to our function's batches and cold starts.

The consumers, services or programs take turns within one run, and the results are medians of the rounds. Do not compare
two runs, because a machine is never equally fast twice.
"""

import argparse
import contextlib
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts import cli
from scripts.benchmark import batch, batch_files, batch_results, counting, endpoint, inputs, processes, results, web
from scripts.benchmark.batch_results import BatchRow, RateRow, batch_tables
from scripts.benchmark.counting import CountingRow, counting_table
from scripts.benchmark.inputs import FULL, MODELS, QUICK, Plan
from scripts.benchmark.machine import describe_machine
from scripts.benchmark.processes import COLD, PARTS, WARM, Cell, Measure, Sample
from scripts.benchmark.results import ColdRow, WarmRow
from scripts.benchmark.web_results import LoadRow, MemoryRow, web_tables
from scripts.cli import STDOUT
from scripts.sources.download import open_trips
from trip_cells import TripRecordError

EXAMPLES = """\
examples:
  bench
  bench --quick
  bench --data green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet --json bench.json --plot bench.png
  bench --parts cold --rounds 15
  bench web --models ridge
  bench batch --data green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet --rounds 3
"""
STREAM, WEB, BATCH, COUNTING = SUBJECTS = ("stream", "web", "batch", "counting")
VERSIONS = {
    STREAM: ("scikit-learn", "numpy", "mlflow", "boto3", "skops", "msgspec"),
    WEB: ("scikit-learn", "numpy", "mlflow", "flask", "gunicorn", "uvicorn", "msgspec"),
    BATCH: ("scikit-learn", "numpy", "mlflow", "pandas", "pyarrow", "skops", "msgspec"),
    COUNTING: ("numpy", "boto3", "msgspec"),
}
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
    rounds = {"rounds": plan.rounds, "budget, seconds": plan.budget}
    settings = {"data": chosen.description, **rounds, **describe_machine(VERSIONS[options.subject])}
    if options.subject == WEB:
        loads, memory = measure_web(plan, chosen, options.models)
        tables = [table for model in options.models for table in web_tables(loads, memory, model)]
        report: dict[str, Sequence[Any]] = {"rows": loads, "memory": memory}
    elif options.subject == BATCH:
        runs, rates = measure_batch(plan, chosen, options.data, options.models)
        tables = [table for model in options.models for table in batch_tables(runs, rates, model)]
        report = {"rows": runs, "rates": rates}
    elif options.subject == COUNTING:
        costs = measure_counting(plan, chosen, options.models)
        tables = [counting_table(costs, model) for model in options.models]
        report = {"rows": costs}
    else:
        warm, cold = measure(plan, chosen, options.models, options.parts or PARTS)
        tables = [table for model in options.models for table in results.stream_tables(warm, cold, model)]
        report = {"rows": warm, "cold": cold}
    if options.json:
        lists = {name: [asdict(row) for row in found] for name, found in report.items()}
        cli.write(options.json, json.dumps({"settings": settings, **lists}, indent=2))
    if options.json != STDOUT:
        console = Console()
        console.print("\n".join(f"{name}: {value}" for name, value in settings.items()), highlight=False)
        console.print(*tables, sep="\n")
    if options.plot:
        # Imported here because matplotlib takes a second to import.
        from scripts.benchmark import plot

        plot.draw(warm, cold, Path(options.plot))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = cli.parser(__doc__, EXAMPLES)
    of_default = "(default: {0}; {1} with --quick)".format
    add = parser.add_argument
    add("subject", nargs="?", choices=SUBJECTS, default=STREAM, help="what to measure (default: the stream's consumer)")
    add(
        "--data",
        nargs="+",
        metavar="FILE",
        help="TLC trip records: the models are trained on the first file, and predict the rides of the last"
        " (default: synthetic rides)",
    )
    add("--parts", nargs="+", choices=PARTS, help="stream only: warm batches, cold starts (default: both)")
    add("--models", nargs="+", choices=MODELS, default=MODELS, help="(default: all)")
    add("--quick", action="store_true", help="small models, small batches and few rounds: for a look, not for figures")
    add("--rounds", type=cli.count, metavar="N", help=f"the number of rounds {of_default(FULL.rounds, QUICK.rounds)}")
    add(
        "--budget",
        type=cli.seconds,
        metavar="SECONDS",
        help="stream: the time of one consumer for one batch size over all rounds; a batch that would take longer is"
        " left out. web: the longest time for the last requests to a service before its memory is read"
        f" {of_default(f'{FULL.budget:g}', f'{QUICK.budget:g}')}",
    )
    add("--json", metavar="FILE", help=f"write all results to FILE, too; {STDOUT} prints them instead of the tables")
    add("--plot", metavar="FILE", help="stream only: draw the results into this PNG file")
    options = parser.parse_args()
    if options.subject != STREAM and (options.parts or options.plot):
        parser.error("--parts and --plot are for bench stream: leave them out")
    return options


def measure(
    plan: Plan, chosen: inputs.Inputs, names: Sequence[str], parts: Sequence[str]
) -> tuple[list[WarmRow], list[ColdRow]]:
    """Train the models, start the endpoint and the consumers, and measure the parts."""
    pythons = processes.install_pythons() if COLD in parts else {}
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        models = inputs.log_models(names, chosen.trips, folder, plan.trees)
        inputs.write_events(chosen.records, {1, *plan.batches, *plan.delayed_batches}, folder)
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
            endpoint.set_latency(url, 0.0)
            take_turns("Cold starts", processes.prepare_cold(models, url, folder, pythons))
    return results.make_warm_rows(samples), results.make_cold_rows(samples)


def measure_counting(plan: Plan, chosen: inputs.Inputs, names: Sequence[str]) -> list[CountingRow]:
    """Train the models, and measure what counting adds to our function's batches and cold starts."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, endpoint.serve() as url:
        folder = Path(temporary)
        models = inputs.log_models(names, chosen.trips, folder, plan.trees)
        inputs.write_events(chosen.records, {1, *counting.SIZES}, folder)
        with cli.progress_bar("cases") as progress:
            task = progress.add_task("Counting", total=counting.count_cases(len(models)))
            return counting.measure(models, chosen.trips, plan, url, folder, functools.partial(progress.advance, task))


def measure_web(plan: Plan, chosen: inputs.Inputs, names: Sequence[str]) -> tuple[list[LoadRow], list[MemoryRow]]:
    """Train the models, and measure the web services with each of them."""
    loads: list[LoadRow] = []
    memory: list[MemoryRow] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        models = inputs.log_models(names, chosen.trips, Path(temporary), plan.trees)
        rides = inputs.distinct_rides(chosen.records)
        with cli.progress_bar("turns") as progress:
            for name, model in models.items():
                task = progress.add_task(f"Web services, {name}", total=web.count_turns(plan))
                advance = functools.partial(progress.advance, task)
                found = web.measure(name, model, rides, plan, Path(temporary), advance)
                loads += found[0]
                memory += found[1]
    return loads, memory


def measure_batch(
    plan: Plan, chosen: inputs.Inputs, data: Sequence[str] | None, names: Sequence[str]
) -> tuple[list[BatchRow], list[RateRow]]:
    """Train the models, and measure the batch programs with each of them."""
    rows: list[BatchRow] = []
    rates: list[RateRow] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        file = stack.enter_context(open_trips(data[-1])) if data else folder / "month.parquet"
        if not data:
            batch_files.write_month(chosen.trips, file)
        models = inputs.log_models(names, chosen.trips, folder, plan.trees)
        progress = stack.enter_context(cli.progress_bar("runs"))
        for name, model in models.items():
            task = progress.add_task(f"Batch programs, {name}", total=batch.count_turns(plan))
            found = batch.measure(file, model, plan, folder, functools.partial(progress.advance, task))
            rows += batch_results.make_rows(name, batch_files.count_rows(file), found)
            rates += batch_results.make_rates([row for row in rows if row.model == name])
    return rows, rates
