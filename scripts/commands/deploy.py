"""Build the image and deploy template.yaml, with the SAM CLI and Docker.

A parameter that is not given keeps its value in the stack; in a new stack, it has its default. PARAMETER= empties it.
"""

import argparse
import difflib
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from artifacts import ModelError, find_run
from digests import find_digest, open_pinned
from scripts import cli
from scripts.aws.stack import find_stack
from scripts.cli import CONSOLE, CommandError
from scripts.environment import ROOT
from scripts.image.container import Engine

EXAMPLES = """\
examples:
  deploy ModelBucket=my-models RunId=e1efc53e9bd149078b0c12aeaa6365df
  deploy RunId=761ea5cb64744e3c8693626f8177f6e4
  deploy --stage staging ShadowRunId=761ea5cb64744e3c8693626f8177f6e4
  deploy --stage staging ShadowRunId=
"""
TEMPLATE = ROOT / "template.yaml"
STAGES = ROOT / "samconfig.toml"
RELEASE = "Release"
"""The parameter that is different in each deployment, so this command sets it."""
PREVIOUS = "PreviousModelPath"
"""The parameter that lets the previous version load its model during a canary, so this command sets it too."""
INSTALL_SAM = (
    "python3 -m venv .sam && .sam/bin/pip install -r .github/requirements.txt && export PATH=$PWD/.sam/bin:$PATH"
)
"""An environment of its own, because the SAM CLI pins other versions than Pipfile.lock. pip checks the hashes."""


class _CloudFormationLoader(yaml.SafeLoader):
    """Reads CloudFormation's YAML, whose short functions (!Ref and others) are YAML tags."""


_CloudFormationLoader.add_multi_constructor("!", lambda *_: None)


def main() -> int:
    """Deploy a stage with the command line's parameters; return the exit code."""
    options = parse_arguments()
    cli.use_profile(options.profile)
    # Without its name, the SAM CLI would look for the file beside the template.
    stage = ["--config-file", str(STAGES), "--config-env", options.stage]
    stage += ["--profile", options.profile] if options.profile else []
    require_tools(docker=not options.template)
    stack = find_stack(stages()[options.stage])
    current = stack.parameters if stack else {}
    own = {RELEASE: str(int(time.time())), PREVIOUS: current.get("ModelPath", "")}
    given = {**dict(options.parameters), **own}
    given |= pin_models(current, given)
    if options.template:
        image = ["--template-file", str(options.template), "--image-repository", image_repository(options.template)]
    else:
        run_sam("build", *stage, *overrides({**current, **given}))
        image = ["--resolve-image-repos"]
    settings = ["--capabilities", "CAPABILITY_IAM", "--resolve-s3", "--no-confirm-changeset"]
    run_sam("deploy", *stage, *settings, "--no-fail-on-empty-changeset", *image, *overrides(given))
    CONSOLE.print(f"Deployed. Try it: ./scripts/smoke-test --stack {stages()[options.stage]}", soft_wrap=True)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options; exit with 2 if the template has no parameter of a name."""
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "parameters", nargs="*", type=parameter, metavar="PARAMETER=VALUE", help="template.yaml describes them"
    )
    text = "the section of samconfig.toml that names the stack: one of %(choices)s (default: %(default)s)"
    parser.add_argument("--stage", choices=stages(), default="default", help=text, metavar="NAME")
    text = 'a template that "sam package" wrote: deploy the image that it names, instead of building one'
    parser.add_argument("--template", type=existing_file, metavar="FILE", help=text)
    cli.add_profile(parser)
    options = parser.parse_intermixed_args()
    known = read_template(options.template or TEMPLATE)["Parameters"]
    for name, _ in options.parameters:
        if complaint := explain_refusal(name, known):
            parser.error(complaint)
    return options


def pin_models(current: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of the models that are given anew, so that no other file can take their place.

    A digest on the command line goes first: ``ModelSha256=`` pins nothing.
    """
    pinned: dict[str, str] = {}
    wanted = {"ExperimentId": "1", **current, **given}
    for kind in ("", "Shadow"):
        digest, path, run = (f"{kind}{name}" for name in ("ModelSha256", "ModelPath", "RunId"))
        if digest in given or given.keys().isdisjoint({"ModelBucket", "ExperimentId", path, run}):
            continue
        bucket, folder, run_id = (wanted.get(name) for name in ("ModelBucket", path, run))
        if bucket and (folder or run_id):
            try:
                location = (
                    f"s3://{bucket}/{folder}" if folder else find_run(bucket, wanted["ExperimentId"], run_id or "")
                )
                pinned[digest] = find_digest(*open_pinned(location, None))
                CONSOLE.print(f"{digest}={pinned[digest]} pins the model in {location}", soft_wrap=True)
            except ModelError as error:
                CONSOLE.print(
                    f"{digest} is not set anew, because the model cannot be read here: {error}", soft_wrap=True
                )
        elif current.get(digest):
            pinned[digest] = ""
    return pinned


def parameter(text: str) -> tuple[str, str]:
    """Return the name and the value in an argument. Raises ArgumentTypeError."""
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text} is not PARAMETER=VALUE")
    return name, value


def existing_file(text: str) -> Path:
    """Return an option's file as an absolute path, for processes in other folders. Raises ArgumentTypeError."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text).resolve()


def explain_refusal(name: str, known: Collection[str]) -> str | None:
    """Return why a parameter is refused, or None. The SAM CLI would silently ignore an unknown name."""
    if name in (RELEASE, PREVIOUS):
        return f"{name} is set by deploy itself"
    if name in known:
        return None
    by_lower_case = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    hint = f"did you mean {by_lower_case[close[0]]}?" if close else f"there are {', '.join(known)}"
    return f"the template has no parameter {name}: {hint}"


def stages() -> dict[str, str]:
    """Return the stack's name of each stage in samconfig.toml."""
    sections = tomllib.loads(STAGES.read_text()).items()
    named = {stage: section for stage, section in sections if isinstance(section, dict)}
    return {stage: section["global"]["parameters"]["stack_name"] for stage, section in named.items()}


def read_template(path: Path) -> dict[str, Any]:
    """Return a CloudFormation template, with None in place of each function in short form."""
    template: dict[str, Any] = yaml.load(path.read_text(), _CloudFormationLoader)  # noqa: S506  a safe loader
    return template


def image_repository(path: Path) -> str:
    """Return the repository of a packaged template's image: the SAM CLI requires it, though it pushes no image."""
    image = read_template(path)["Resources"]["Consumer"]["Properties"].get("ImageUri", "")
    repository, sign, _ = image.rpartition(":")
    if not sign:
        raise CommandError(f'{path} names no image: write it with "sam package" after "sam build"')
    return str(repository)


def require_tools(*, docker: bool) -> None:
    """Raise CommandError if there is no SAM CLI, or no Docker daemon that answers when one is needed."""
    if not shutil.which("sam"):
        other = "deploy without it as in docs/deploy-with-the-aws-cli.md"
        raise CommandError(f"the SAM CLI is not installed: in the project's folder, run '{INSTALL_SAM}', or {other}")
    if docker and not Engine(["docker"]).can("version"):
        raise CommandError('no Docker daemon answers, which builds the image: start it until "docker version" succeeds')


def overrides(parameters: Mapping[str, str]) -> list[str]:
    """Return the parameters quoted for the SAM CLI, which refuses empty values and truncates others without quotes."""
    quoted = (value.replace('"', '\\"') for value in parameters.values())
    return ["--parameter-overrides", *(f'{name}="{value}"' for name, value in zip(parameters, quoted, strict=True))]


def run_sam(command: str, *arguments: str) -> None:
    """Run a command of the SAM CLI in the project's folder. Raises CommandError."""
    # The SAM CLI is a Python program too, and must not import this project's modules.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(["sam", command, *arguments], cwd=ROOT, env=environment)
    if done.returncode:
        raise CommandError(f"sam {command} failed: its output is above")
