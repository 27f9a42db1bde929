"""Build all images of the Dockerfile: the function's, the web service's and the batch job's, and run them.

They run against a local AWS, as confined as Lambda confines a function. The command needs Docker or Podman, and the
Dockerfile's base images, or other images of the same layout, which --base and --python-base name.
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

from model import load_model
from scripts import cli
from scripts.cli import CONSOLE, SAMPLE_MODEL, CommandError, printable
from scripts.environment import ROOT, requirements
from scripts.image import measures, wheels
from scripts.image.batch_scenarios import BATCH_SCENARIOS, BatchStage, prepare_batch
from scripts.image.checks import ScenarioError
from scripts.image.container import Engine, find_engine
from scripts.image.lean_scenarios import LEAN_SCENARIOS, LeanStage
from scripts.image.measures import Choice
from scripts.image.models import OTHER, PIPELINE, SAMPLE, stage_models
from scripts.image.scenarios import SCENARIOS, Stage
from scripts.image.web_scenarios import WEB_SCENARIOS, WebStage
from scripts.localaws import moto, setup
from scripts.localaws.setup import MODELS_BUCKET

IMAGE = "localhost/ride-duration"
WEB, WEB_BAKED = f"{IMAGE}-web", f"{IMAGE}-web:baked"
BATCH, BATCH_BAKED = f"{IMAGE}-batch", f"{IMAGE}-batch:baked"

LEAN, DEFAULT = "packages", "packages sklearn"
CHOICES = {
    LEAN: [SAMPLE],
    DEFAULT: [SAMPLE, PIPELINE],
    f"{DEFAULT} dataframe": [PIPELINE],
    "packages training": [OTHER],
}
"""The choices of packages for the function's image, and the models whose start is measured with each choice."""

T = TypeVar("T")

EXAMPLES = """\
examples:
  test-image
  test-image --all-packages
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
    choices = list(CHOICES) if options.all_packages else [LEAN, DEFAULT]
    engine = find_engine()
    # The base of the other images has a newer C library than Amazon Linux, so it can load the same wheels.
    check_wheels([*" ".join(choices).split(), "web", "batch"])
    stand_ins = {"BASE": options.base, "PYTHON_BASE": options.python_base}
    bases = {name: stand_in or base_image(name) for name, stand_in in stand_ins.items()}
    for name in bases:
        if not stand_ins[name]:
            engine.call("pull", "--quiet", bases[name])
    CONSOLE.print(f"Building the Dockerfile with {engine.name}", soft_wrap=True)
    measured = build_images(engine, bases, choices)
    with stages(engine, bases["BASE"]) as new_stage:

        def new_lean_stage() -> LeanStage:
            return LeanStage(**vars(new_stage(LEAN)), default_image=image_of(DEFAULT))

        def new_web_stage() -> WebStage:
            return WebStage(new_stage(), WEB, WEB_BAKED, bases["PYTHON_BASE"])

        def new_batch_stage() -> BatchStage:
            return prepare_batch(new_stage(), BATCH, BATCH_BAKED, bases["PYTHON_BASE"])

        outcomes = {
            "The image": run_scenarios(SCENARIOS, new_stage),
            "The lean image": run_scenarios(LEAN_SCENARIOS, new_lean_stage),
            "The web service's image": run_scenarios(WEB_SCENARIOS, new_web_stage),
            "The batch job's image": run_scenarios(BATCH_SCENARIOS, new_batch_stage),
        }
        costs = [measures.measure_choice(new_stage(one), model) for one in choices for model in CHOICES[one]]
        measured |= measures.measure_baked({", lean image": new_stage(LEAN), "": new_stage()})
        measured |= measures.measure_performance(new_stage()) | measures.measure_web(new_web_stage())
        measured |= measures.measure_batch(new_batch_stage())
    grounds = [
        f"a stand-in for {base_image(name)}: {stand_in}" if stand_in else bases[name]
        for name, stand_in in stand_ins.items()
    ]
    show(f"{engine.name}, on {' and '.join(grounds)}", outcomes, costs, measured)
    return 0 if all(outcome.passed for image in outcomes.values() for outcome in image) else 1


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = cli.parser(__doc__, EXAMPLES)
    text = "measure the function's images with pandas and with mlflow as well"
    parser.add_argument("--all-packages", action="store_true", help=text)
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


def image_of(categories: str, *, baked: bool = False) -> str:
    """Return the name of the function's image with these packages, without a model or with one."""
    return f"{IMAGE}:{categories.replace(' ', '-')}{'-baked' if baked else ''}"


def build_images(engine: Engine, bases: Mapping[str, str], choices: Sequence[str]) -> dict[str, str]:
    """Build each target, without a model and with one, and return the sizes of the web and batch images."""
    model = str(SAMPLE_MODEL.relative_to(ROOT))
    for categories in choices:
        # Without the argument, the build proves the Dockerfile's default.
        packages = {} if categories == DEFAULT else {"CATEGORIES": categories}
        engine.build(ROOT, image_of(categories), **bases, **packages)
        if SAMPLE in CHOICES[categories]:
            engine.build(ROOT, image_of(categories, baked=True), **bases, **packages, MODEL=model)
    for target, tag, baked in (("web", WEB, WEB_BAKED), ("batch", BATCH, BATCH_BAKED)):
        engine.build(ROOT, tag, target, **bases)
        engine.build(ROOT, baked, target, **bases, MODEL=model)
    others = {"the web service's image": WEB, "the batch job's image": BATCH}
    return measures.measure_sizes(engine, bases["PYTHON_BASE"], others)


def base_image(name: str) -> str:
    """Return the default of a build argument of the Dockerfile that names a base image."""
    found = re.search(rf"^ARG {name}=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if not found:
        raise CommandError(f"the Dockerfile has no line ARG {name}=")
    return found[1]


@contextlib.contextmanager
def stages(engine: Engine, base: str) -> Iterator[Callable[..., Stage]]:
    """Run the local AWS for the length of the block, and give a function that makes a stage with given packages."""
    with moto.serve() as endpoint:
        setup.isolate(os.environ, endpoint)
        kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
        setup.create(kinesis, s3, shards=1)
        for model, files in stage_models().items():
            for name, content in files.items():
                s3.put_object(Bucket=MODELS_BUCKET, Key=f"{model}/{name}", Body=content)
        loaded = load_model(str(SAMPLE_MODEL))

        def new_stage(categories: str = DEFAULT) -> Stage:
            stream = f"predictions-{uuid.uuid4().hex}"
            kinesis.create_stream(StreamName=stream, ShardCount=1)
            image, baked = image_of(categories), image_of(categories, baked=True)
            place = f"s3://{MODELS_BUCKET}"
            return Stage(engine, image, baked, categories.split(), base, endpoint, kinesis, s3, stream, place, loaded)

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


def show(
    how: str, outcomes: Mapping[str, Sequence[Outcome]], costs: Sequence[Choice], measured: Mapping[str, str]
) -> None:
    """Print how the images were run, the outcomes of each, what each choice of packages costs, and other measures."""
    console = Console()
    console.print(Text(f"Built and run with {how}."), soft_wrap=True)
    for title, found in outcomes.items():
        scenarios = Table("it", "", "seen", title=title, title_justify="left")
        for outcome in found:
            passed = Text("passed", "green") if outcome.passed else Text("FAILED", "bold red")
            scenarios.add_row(outcome.scenario, passed, Text(printable(outcome.summary), overflow="fold"))
        console.print(scenarios)
    columns = [field.replace("_", " ") for field in Choice._fields]
    choices = Table(*columns, title="The function's packages", title_justify="left")
    for cost in costs:
        choices.add_row(*cost)
    console.print(choices)
    table = Table("", "", title="Measures", title_justify="left", show_header=False)
    for what, value in measured.items():
        table.add_row(what, Text(value, justify="right"))
    console.print(table)
