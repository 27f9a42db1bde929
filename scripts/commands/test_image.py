"""Build the container image from the Dockerfile, and run it as Lambda does, against a local AWS.

It needs Docker or Podman, and the AWS base image or another one of the same layout, named by --base.
"""

import argparse
import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import boto3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from artifacts import open_artifact
from model import load_model
from scripts import cli
from scripts.cli import CONSOLE, SAMPLE_MODEL, CommandError, printable
from scripts.environment import ROOT, requirements
from scripts.image import measures, wheels
from scripts.image.container import Engine, find_engine
from scripts.image.heavy_model import GREEDY, SLOW, heavy_model
from scripts.image.scenarios import SCENARIOS, ScenarioError, Stage
from scripts.localaws import moto, setup
from scripts.localaws.setup import MODELS_BUCKET

IMAGE = "localhost/ride-duration"
BAKED, WITH_MLFLOW = f"{IMAGE}:baked", f"{IMAGE}:mlflow"

EXAMPLES = """\
examples:
  test-image
  test-image --with-mlflow
  test-image --base localhost/lambda-python
"""


class Outcome(NamedTuple):
    """The result of a scenario."""

    scenario: str
    passed: bool
    summary: str


def main() -> int:
    """Build the images and run every scenario; return the exit code, 0 if all of them passed."""
    options = parse_arguments()
    categories = ["packages", "training"] if options.with_mlflow else ["packages"]
    engine = find_engine()
    check_wheels(categories)
    base = options.base or base_image()
    if not options.base:
        engine.call("pull", "--quiet", base)
    CONSOLE.print(f"Building the Dockerfile with {engine.name}", soft_wrap=True)
    engine.build(ROOT, IMAGE, BASE=base)
    engine.build(ROOT, BAKED, BASE=base, MODEL=str(SAMPLE_MODEL.relative_to(ROOT)))
    images = {"the image": IMAGE}
    if options.with_mlflow:
        engine.build(ROOT, WITH_MLFLOW, BASE=base, CATEGORIES=" ".join(categories))
        images["the image with mlflow"] = WITH_MLFLOW
    sizes = measures.measure_sizes(engine, base, images)
    with stages(engine, base) as new_stage:
        outcomes = run_scenarios(new_stage)
        performance = measures.measure_performance(new_stage())
    ground = f"a stand-in for {base_image()}, not Amazon Linux: {options.base}" if options.base else base
    show(f"{engine.name}, on {ground}", outcomes, sizes | performance)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = cli.parser(__doc__, EXAMPLES)
    text = 'measure the image that --build-arg CATEGORIES="packages training" makes as well'
    parser.add_argument("--with-mlflow", action="store_true", help=text)
    text = "a local image in place of the AWS base image, if the registry cannot be reached; .ci/stand_in.py makes one"
    parser.add_argument("--base", metavar="IMAGE", help=text)
    return parser.parse_args()


def check_wheels(categories: Sequence[str]) -> None:
    """Raise CommandError if a locked package has no wheel that Amazon Linux 2023 can load, on any architecture."""
    lines = requirements(categories)
    for architecture in wheels.ARCHITECTURES:
        wheels.check(lines, architecture)
        count = len(wheels.select(lines, architecture))
        CONSOLE.print(f"Amazon Linux 2023 on {architecture}: all {count} locked packages have a wheel")


def base_image() -> str:
    """Return the name of the Dockerfile's base image."""
    found = re.match(r"ARG BASE=(\S+)", (ROOT / "Dockerfile").read_text())
    if not found:
        raise CommandError("the Dockerfile does not begin with ARG BASE=")
    return found[1]


@contextlib.contextmanager
def stages(engine: Engine, base: str) -> Iterator[Callable[[], Stage]]:
    """Run the local AWS for the length of the block, and give a function that makes a stage in it."""
    with moto.serve() as endpoint:
        setup.isolate(os.environ, endpoint)
        kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
        setup.create(kinesis, s3, shards=1)
        sample = open_artifact(str(SAMPLE_MODEL))
        models = {"sample": {name: sample.read(name) for name in sample.names()}}
        models |= {metric: heavy_model(metric) for metric in (SLOW, GREEDY)}
        for model, files in models.items():
            for name, content in files.items():
                s3.put_object(Bucket=MODELS_BUCKET, Key=f"{model}/{name}", Body=content)
        loaded = load_model(str(SAMPLE_MODEL))

        def new_stage() -> Stage:
            stream = f"predictions-{uuid.uuid4().hex}"
            kinesis.create_stream(StreamName=stream, ShardCount=1)
            return Stage(engine, IMAGE, BAKED, base, endpoint, kinesis, s3, stream, f"s3://{MODELS_BUCKET}", loaded)

        yield new_stage


def run_scenarios(new_stage: Callable[[], Stage]) -> list[Outcome]:
    """Run every scenario on a stage of its own, and return the outcomes."""
    outcomes = []
    with cli.progress_bar("scenarios") as progress:
        task = progress.add_task("Running", total=len(SCENARIOS))
        for scenario in SCENARIOS:
            name = scenario.__name__.replace("_", " ")
            progress.update(task, description=f"It {name}")
            try:
                outcomes.append(Outcome(name, True, scenario(new_stage())))
            except (ScenarioError, CommandError, OSError) as error:
                outcomes.append(Outcome(name, False, str(error)))
            progress.advance(task)
        progress.update(task, description="Done")
    return outcomes


def show(how: str, outcomes: Sequence[Outcome], measured: Mapping[str, str]) -> None:
    """Print how the image was run, the outcomes, and the measures."""
    scenarios = Table("it", "", "seen", title="The image", title_justify="left")
    for outcome in outcomes:
        passed = Text("passed", "green") if outcome.passed else Text("FAILED", "bold red")
        scenarios.add_row(outcome.scenario, passed, Text(printable(outcome.summary), overflow="fold"))
    table = Table("", "", title="Measures", title_justify="left", show_header=False)
    for what, value in measured.items():
        table.add_row(what, Text(value, justify="right"))
    console = Console()
    console.print(Text(f"Built and run with {how}."), soft_wrap=True)
    console.print(scenarios, table)
