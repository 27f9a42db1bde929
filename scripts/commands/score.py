"""Score months of trips: write each month's predictions as parquet, exactly once.

    score green 2023 2                                   one month
    score green --from 2022-01 --to 2023-03 --plan       which months are done, missing or stale
    score green --from 2022-01 --to 2023-03 --run        score the months that are missing or stale

A month's folder is OUTPUT/colour=COLOUR/year=YEAR/month=MONTH/model=VERSION. It has the predictions (part-….parquet),
the rows that the ride contract refuses, with their reasons (_rejected-….jsonl.gz), and a manifest, which is written
last. If the predictions are there already, nothing is written. If a run is killed, nothing half is visible, and the
next run completes the month. A month is stale if its input or its model has changed since then.
"""

import argparse
import os
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

import batch_job
from batch.manifests import ModelIdentity
from batch.months import Month, months_between
from batch.plan import PlannedMonth, make_plan
from batch_job import Job, add_places, identify_model
from scripts import cli, flow_runs
from scripts.cli import CONSOLE
from scripts.scoring import running, shown
from scripts.scoring.running import MonthResult
from settings import ModelSettings
from trips import COLOURS

EPILOG = """\
Variables: MODEL_LOCATION and the other variables of the model (docs/formats.md), and the SDK's own for S3.

examples:
  score green 2023 2
  score green 2023 2 --input green_tripdata_2023-02.parquet --model s3://my-models/1/models/m-0123/artifacts
  score green 2023 2 --report 2023-02.html
  score --plan --from 2022-01 --to 2023-03 green
  score --run --from 2022-01 --to 2023-03 green --jobs 2 --output s3://my-predictions
  score --flow --from 2022-01 --to 2023-03 green
  score green --from 2022-01 --to 2023-03 --output s3://my-predictions --dask tcp://scheduler:8786
"""
EXPLAINED = batch_job.EXPLAINED
LOCAL_CLUSTER = "local"
"""The value of the flow's parameter for a cluster that the flow makes."""


def main() -> int:
    """Score or plan as the command line says; return the exit code, which is 1 if a month failed."""
    options = parse_arguments()
    if options.report:
        cli.check_writable(options.report)  # before minutes have passed
    cli.choose_model(os.environ, options.model)
    settings = ModelSettings.from_environment(os.environ)
    if not (options.plan or options.run or options.flow):
        score_one(Job(options.months[0], options.input, options.output, options.force), settings)
        report(options, options.months, settings)
        return 0
    if options.flow:
        return score_with_flow(options, settings)
    model = identify_model(settings)
    plan = make_plan(options.months, options.input, options.output, model)
    if options.plan:
        Console().print(shown.plan_table(plan, model))
    results = score_due(plan, options, model) if options.run else []
    scored = [result.month for result in results if result.outcome]
    report(options, [planned.month for planned in plan if planned.state == "done"] + scored, settings)
    return 1 if any(result.error for result in results) else 0


def score_one(job: Job, settings: ModelSettings) -> None:
    """Score a month, and print what became of it."""
    outcome = running.score_with_bar(job, settings)
    if outcome.was_done:
        text = f"{job.month} was done before, by the same model from the same input: nothing was written"
        CONSOLE.print(text, highlight=False, soft_wrap=True)
    else:
        CONSOLE.print(shown.summary(outcome))
    print(outcome.location)


def score_due(plan: Sequence[PlannedMonth], options: argparse.Namespace, model: ModelIdentity) -> list[MonthResult]:
    """Score the months of a plan that are missing or stale, and return what became of them."""
    jobs = [Job(due.month, options.input, options.output, due.state == "stale") for due in plan if due.is_due]
    # Closed at once if Ctrl-C comes: otherwise the processes would go on until Python collects the iterator.
    with cli.progress_bar("months") as progress, closing(running.score_in_processes(jobs, options.jobs)) as found:
        results = list(progress.track(found, len(jobs), description="Scoring"))
    CONSOLE.print(shown.results_table(results, model) if results else "Nothing is missing or stale")
    return results


def report(options: argparse.Namespace, done: Sequence[Month], settings: ModelSettings) -> None:
    """Write the report about months that are scored, if the options ask for one."""
    if options.report:
        # Imported here because matplotlib takes a second to import.
        from scripts.scoring.report import write_report

        write_report(options.report, options.months, done, options.output, identify_model(settings).version)
        CONSOLE.print(f"The report is {options.report}", highlight=False, soft_wrap=True, markup=False)


def score_with_flow(options: argparse.Namespace, settings: ModelSettings) -> int:
    """Score the months that are missing or stale in a run of the flow. Raises CommandError if it fails."""
    # A worker of Dask may have another working folder.
    os.environ["MODEL_LOCATION"] = absolute(os.environ.get("MODEL_LOCATION", ""))
    parameters = {
        "colour": options.colour,
        "first": str(options.months[0]),
        "last": str(options.months[-1]),
        "input": options.input and absolute(options.input),
        "output": absolute(options.output),
        "dask": options.dask,
    }
    found, error = flow_runs.run_flow("batch_flow:score_months", parameters)
    rows = found or []
    if rows:
        CONSOLE.print(shown.rows_table(rows))
    done = [row["month"] for row in rows if row["state"] in ("scored", "done")]
    report(options, [month for month in options.months if str(month) in done], settings)
    if error:
        raise cli.CommandError(error)
    return 0


def absolute(location: str) -> str:
    """Return a location as it is understood in any working folder."""
    return location if "://" in location or not location else str(Path(location).absolute())


def scheduler(text: str) -> str:
    """Convert the value of ``--dask``. Raises ArgumentTypeError."""
    if text != LOCAL_CLUSTER and not re.fullmatch(r"(tcp|tls|ws|wss)://[^/]+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a scheduler's address such as tcp://scheduler:8786")
    return text


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line, with ``months`` in the place of the month or the two months in it."""
    parser = cli.parser(__doc__, EPILOG)
    add = parser.add_argument
    add("colour", metavar="COLOUR", choices=COLOURS, help=f"the colour of the taxis: {' or '.join(COLOURS)}")
    add("year", metavar="YEAR", type=int, nargs="?", help="the year of one month, such as 2023")
    add("month", metavar="MONTH", type=int, nargs="?", help="its number, 1 to 12")
    add("--from", dest="first", metavar="MONTH", help="the first of several months, such as 2022-01")
    add("--to", dest="last", metavar="MONTH", help="the last month (default: the first)")
    add("--plan", action="store_true", help="show which months are done, missing or stale, by their manifests")
    add("--run", action="store_true", help="score the months that are missing or stale, and replace stale predictions")
    add("--jobs", metavar="N", type=cli.count, default=1, help="months at once, for --run (default: %(default)s)")
    add("--flow", action="store_true", help="score what --run would score, as a Prefect flow: docs/batch-flow.md")
    dask = "run the flow on the cluster of a Dask scheduler; without ADDRESS, on two workers that the command starts"
    add("--dask", metavar="ADDRESS", nargs="?", const=LOCAL_CLUSTER, type=scheduler, help=dask)
    add("--report", metavar="FILE", help="write a page (HTML) about all of these months that are scored: plots, errors")
    add_places(parser)
    cli.add_model(parser)
    options = parser.parse_args()
    options.flow = options.flow or bool(options.dask)
    if options.flow and (options.plan or options.force or options.jobs > 1):
        parser.error("--flow and --dask go without --plan, --jobs and --force: a stale month is replaced")
    try:
        options.months = find_months(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def find_months(options: argparse.Namespace) -> list[Month]:
    """Return the months that the options name. Raises ValueError."""
    if options.first and options.year is None:
        if not (options.plan or options.run or options.flow):
            raise ValueError("--from needs --plan, which shows what there is to do, or --run or --flow, which do it")
        if options.force:
            raise ValueError("--force is for one month: --run replaces stale predictions without it")
        first = Month.parse(options.colour, options.first)
        return list(months_between(first, Month.parse(options.colour, options.last or options.first)))
    if options.month is None or options.first or options.last:
        raise ValueError("name one month as YEAR MONTH, or several with --from and --to")
    return [Month.of(options.colour, options.year, options.month)]
