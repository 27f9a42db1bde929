"""Build the container image from the Dockerfile and run it as Lambda does, against a local AWS.

It takes Docker or Podman and the AWS base image where its registry can be reached, and otherwise Podman and a stand-in,
which has CPython 3.13 and Lambda's own runtime client and emulator, but is not Amazon Linux. The output says which.
"""

import argparse
import contextlib
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import boto3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from artifacts import open_artifact
from model import load_model
from scripts import cli
from scripts.cli import CONSOLE, SAMPLE_MODEL, CommandError, printable
from scripts.environment import ROOT
from scripts.image import engine as container_engine
from scripts.image import measures, standin, wheels
from scripts.image.engine import Engine
from scripts.image.heavy_model import GREEDY, SLOW, heavy_model
from scripts.image.scenarios import SCENARIOS, ScenarioError, Stage
from scripts.localaws import moto, setup
from scripts.localaws.setup import MODELS_BUCKET
from scripts.requirements import requirements

PROGRAM = "test-image"

IMAGE = "localhost/ride-duration"
BAKED, WITH_MLFLOW = f"{IMAGE}:baked", f"{IMAGE}:mlflow"

EXAMPLES = """\
examples:
  test-image
  test-image --with-mlflow
  CI=true test-image      installs Podman where there is no engine, as root of Debian or Ubuntu
"""


@dataclass(frozen=True)
class Outcome:
    """How a scenario went."""

    scenario: str
    passed: bool
    seen: str


def main() -> int:
    """Build the images and play every scenario; return the exit code, 0 where all of them went as they must."""
    options = parse_arguments()
    categories = ["packages", "training"] if options.with_mlflow else ["packages"]
    base = base_image()
    with container_engine.chosen(base) as engine:
        check_wheels(categories)
        stand_in = None if engine.can("pull", "--quiet", base) else made_stand_in(base, engine, categories)
        CONSOLE.print(f"Building the Dockerfile with {engine.name}", soft_wrap=True)
        engine.build(ROOT, IMAGE, base=stand_in)
        engine.build(ROOT, BAKED, base=stand_in, MODEL=str(SAMPLE_MODEL.relative_to(ROOT)))
        images = {"the image": IMAGE}
        if options.with_mlflow:
            engine.build(ROOT, WITH_MLFLOW, base=stand_in, CATEGORIES=" ".join(categories))
            images["the image with mlflow"] = WITH_MLFLOW
        sizes = measures.sizes(engine, stand_in or base, images)
        with stages(engine, stand_in or base) as new_stage:
            outcomes = play(new_stage)
            measured = measures.performance(new_stage())
        ground = f"a stand-in for {base}, not Amazon Linux" if stand_in else base
        show(f"{engine.name}, on {ground}", outcomes, sizes | measured)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--with-mlflow",
        action="store_true",
        help='measure the image that --build-arg CATEGORIES="packages training" makes as well',
    )
    return parser.parse_args()


def check_wheels(categories: Sequence[str]) -> None:
    """Raise CommandError where a locked package has no wheel that Amazon Linux 2023 can load, on either machine."""
    lines = requirements(categories)
    for architecture in wheels.ARCHITECTURES:
        wheels.check(lines, architecture)
        packages = len(wheels.needed(lines, architecture))
        CONSOLE.print(f"Amazon Linux 2023 on {architecture}: all {packages} locked packages have a wheel")


def base_image() -> str:
    """Return the name of the image that the Dockerfile stands on."""
    found = re.match(r"FROM (\S+)", (ROOT / "Dockerfile").read_text())
    if not found:
        raise CommandError("the Dockerfile does not begin with FROM")
    return found[1]


def made_stand_in(base: str, engine: Engine, categories: Sequence[str]) -> str:
    """Make the stand-in and return its name."""
    CONSOLE.print(f"Making a stand-in for {base}, which cannot be pulled here", soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        return standin.build(engine, requirements(categories), Path(folder))


@contextlib.contextmanager
def stages(engine: Engine, base: str) -> Iterator[Callable[[], Stage]]:
    """Run the local AWS for the length of the block, and give a function that makes a stage in it."""
    with moto.serve() as endpoint:
        setup.isolate(os.environ, endpoint)
        kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
        setup.create(kinesis, s3, shards=1)
        sample = open_artifact(str(SAMPLE_MODEL))
        models = {
            "sample": {name: sample.read(name) for name in sample.names()},
            SLOW: heavy_model(SLOW),
            GREEDY: heavy_model(GREEDY),
        }
        for model, files in models.items():
            for name, content in files.items():
                s3.put_object(Bucket=MODELS_BUCKET, Key=f"{model}/{name}", Body=content)
        loaded = load_model(str(SAMPLE_MODEL))

        def new_stage() -> Stage:
            stream = f"predictions-{uuid.uuid4().hex}"
            kinesis.create_stream(StreamName=stream, ShardCount=1)
            return Stage(engine, IMAGE, BAKED, base, endpoint, kinesis, s3, stream, f"s3://{MODELS_BUCKET}", loaded)

        yield new_stage


def play(new_stage: Callable[[], Stage]) -> list[Outcome]:
    """Play every scenario, each on a stage of its own, and return how they went."""
    outcomes = []
    with cli.progress_bar("scenarios") as progress:
        playing = progress.add_task("Playing", total=len(SCENARIOS))
        for scenario in SCENARIOS:
            name = scenario.__name__.replace("_", " ")
            progress.update(playing, description=f"It {name}")
            try:
                outcomes.append(Outcome(name, True, scenario(new_stage())))
            except (ScenarioError, CommandError, OSError) as error:
                outcomes.append(Outcome(name, False, str(error)))
            progress.advance(playing)
        progress.update(playing, description="Done")
    return outcomes


def show(how: str, outcomes: Sequence[Outcome], measured: Mapping[str, str]) -> None:
    """Print where the scenarios were played, how they went, and what was measured."""
    console = Console()
    console.print(Text(f"Built and run with {how}."), soft_wrap=True)
    scenarios = Table(title="The image", title_justify="left")
    scenarios.add_column("it")
    scenarios.add_column("")
    scenarios.add_column("seen", overflow="fold")
    for outcome in outcomes:
        passed = Text("passed", "green") if outcome.passed else Text("FAILED", "bold red")
        scenarios.add_row(outcome.scenario, passed, Text(printable(outcome.seen)))
    measures = Table(title="Measures", title_justify="left", show_header=False)
    measures.add_column()
    measures.add_column(justify="right")
    for what, value in measured.items():
        measures.add_row(what, value)
    console.print(scenarios, measures)


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main, explained=(OSError,)))
