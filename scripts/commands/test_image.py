"""Build all images of the Dockerfile: the function's, the web service's and the batch job's, and run them.

They run against a local AWS, as confined as Lambda confines a function. It needs Docker or Podman, and the images that
the Dockerfile builds on, or others of the same layout, named by --base and --python-base.
"""

import argparse
import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

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
from scripts.image.batch_scenarios import BATCH_SCENARIOS, BatchStage, prepare_batch
from scripts.image.checks import ScenarioError
from scripts.image.container import Engine, find_engine
from scripts.image.heavy_model import GREEDY, SLOW, heavy_model
from scripts.image.scenarios import SCENARIOS, Stage
from scripts.image.web_scenarios import WEB_SCENARIOS, WebStage
from scripts.localaws import moto, setup
from scripts.localaws.setup import MODELS_BUCKET

IMAGE = "localhost/ride-duration"
BAKED, WITH_MLFLOW = f"{IMAGE}:baked", f"{IMAGE}:mlflow"
WEB, WEB_BAKED = f"{IMAGE}-web", f"{IMAGE}-web:baked"
BATCH, BATCH_BAKED = f"{IMAGE}-batch", f"{IMAGE}-batch:baked"

T = TypeVar("T")

EXAMPLES = """\
examples:
  test-image
  test-image --with-mlflow
  test-image --base localhost/lambda-python --python-base localhost/python
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
    # The other images' base has a newer C library than Amazon Linux, so it can load the same wheels.
    check_wheels([*categories, "web", "batch"])
    stand_ins = {"BASE": options.base, "PYTHON_BASE": options.python_base}
    bases = {name: stand_in or base_image(name) for name, stand_in in stand_ins.items()}
    for name in bases:
        if not stand_ins[name]:
            engine.call("pull", "--quiet", bases[name])
    CONSOLE.print(f"Building the Dockerfile with {engine.name}", soft_wrap=True)
    measured = build_images(engine, bases, categories)
    with stages(engine, bases["BASE"]) as new_stage:

        def new_web_stage() -> WebStage:
            return WebStage(new_stage(), WEB, WEB_BAKED, bases["PYTHON_BASE"])

        def new_batch_stage() -> BatchStage:
            return prepare_batch(new_stage(), BATCH, BATCH_BAKED, bases["PYTHON_BASE"])

        outcomes = {
            "The image": run_scenarios(SCENARIOS, new_stage),
            "The web service's image": run_scenarios(WEB_SCENARIOS, new_web_stage),
            "The batch job's image": run_scenarios(BATCH_SCENARIOS, new_batch_stage),
        }
        measured |= measures.measure_performance(new_stage()) | measures.measure_web(new_web_stage())
        measured |= measures.measure_batch(new_batch_stage())
    grounds = [
        f"a stand-in for {base_image(name)}: {stand_in}" if stand_in else bases[name]
        for name, stand_in in stand_ins.items()
    ]
    show(f"{engine.name}, on {' and '.join(grounds)}", outcomes, measured)
    return 0 if all(outcome.passed for image in outcomes.values() for outcome in image) else 1


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = cli.parser(__doc__, EXAMPLES)
    text = 'measure the image that --build-arg CATEGORIES="packages training" makes as well'
    parser.add_argument("--with-mlflow", action="store_true", help=text)
    for option, base in (("--base", "the AWS base image"), ("--python-base", "Python's slim image")):
        text = f"a local image in place of {base}, if its registry cannot be reached; .ci/stand_in.py makes one"
        parser.add_argument(option, metavar="IMAGE", help=text)
    return parser.parse_args()


def check_wheels(categories: Sequence[str]) -> None:
    """Raise CommandError if a locked package has no wheel that Amazon Linux 2023 can load, on any architecture."""
    lines = requirements(categories)
    for architecture in wheels.ARCHITECTURES:
        wheels.check(lines, architecture)
        count = len(wheels.select(lines, architecture))
        CONSOLE.print(f"Amazon Linux 2023 on {architecture}: all {count} locked packages have a wheel")


def build_images(engine: Engine, bases: Mapping[str, str], categories: Sequence[str]) -> dict[str, str]:
    """Build each target, without a model and with one, and return their sizes by description."""
    model = str(SAMPLE_MODEL.relative_to(ROOT))
    engine.build(ROOT, IMAGE, **bases)
    engine.build(ROOT, BAKED, **bases, MODEL=model)
    for target, tag, baked in (("web", WEB, WEB_BAKED), ("batch", BATCH, BATCH_BAKED)):
        engine.build(ROOT, tag, target, **bases)
        engine.build(ROOT, baked, target, **bases, MODEL=model)
    images = {"the image": IMAGE}
    if "training" in categories:
        engine.build(ROOT, WITH_MLFLOW, **bases, CATEGORIES=" ".join(categories))
        images["the image with mlflow"] = WITH_MLFLOW
    sizes = measures.measure_sizes(engine, bases["BASE"], images)
    others = {"the web service's image": WEB, "the batch job's image": BATCH}
    return sizes | measures.measure_sizes(engine, bases["PYTHON_BASE"], others)


def base_image(name: str) -> str:
    """Return the default of a build argument of the Dockerfile that names a base image."""
    found = re.search(rf"^ARG {name}=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if not found:
        raise CommandError(f"the Dockerfile has no line ARG {name}=")
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


def run_scenarios(scenarios: Sequence[Callable[[T], str]], new_stage: Callable[[], T]) -> list[Outcome]:
    """Run every scenario on a stage of its own, and return the outcomes."""
    outcomes = []
    with cli.progress_bar("scenarios") as progress:
        task = progress.add_task("Running", total=len(scenarios))
        for scenario in scenarios:
            name = scenario.__name__.replace("_", " ")
            progress.update(task, description=f"It {name}")
            try:
                outcomes.append(Outcome(name, True, scenario(new_stage())))
            except (ScenarioError, CommandError, OSError) as error:
                outcomes.append(Outcome(name, False, str(error)))
            progress.advance(task)
        progress.update(task, description="Done")
    return outcomes


def show(how: str, outcomes: Mapping[str, Sequence[Outcome]], measured: Mapping[str, str]) -> None:
    """Print how the images were run, the outcomes of each, and the measures."""
    console = Console()
    console.print(Text(f"Built and run with {how}."), soft_wrap=True)
    for title, found in outcomes.items():
        scenarios = Table("it", "", "seen", title=title, title_justify="left")
        for outcome in found:
            passed = Text("passed", "green") if outcome.passed else Text("FAILED", "bold red")
            scenarios.add_row(outcome.scenario, passed, Text(printable(outcome.summary), overflow="fold"))
        console.print(scenarios)
    table = Table("", "", title="Measures", title_justify="left", show_header=False)
    for what, value in measured.items():
        table.add_row(what, Text(value, justify="right"))
    console.print(table)
