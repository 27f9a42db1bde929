"""Build the image and deploy template.yaml, with the SAM CLI and Docker.

A parameter that is not given keeps the value that it has in the stack; in a new stack it has its default. PARAMETER=
empties one.
"""

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts import cli
from scripts.aws.stack import find_stack
from scripts.cli import CONSOLE, CommandError
from scripts.image.container import Engine

PROGRAM = "deploy"

EXAMPLES = """\
examples:
  deploy ModelBucket=my-models RunId=e1efc53e9bd149078b0c12aeaa6365df
  deploy RunId=761ea5cb64744e3c8693626f8177f6e4
  deploy --stage staging ShadowRunId=761ea5cb64744e3c8693626f8177f6e4
  deploy --stage staging ShadowRunId=
"""

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
STAGES = ROOT / "samconfig.toml"
RELEASE = "Release"
"""The parameter that is another one for each deployment, and so is set here."""


class _CloudFormationLoader(yaml.SafeLoader):
    """Reads CloudFormation's YAML, whose short functions (!Ref and the like) are tags of its own."""


_CloudFormationLoader.add_multi_constructor("!", lambda *_: None)


def main() -> int:
    """Deploy what the command line says; return the exit code."""
    options = parse_arguments()
    cli.use_profile(options.profile)
    given = {**dict(options.parameters), RELEASE: str(int(time.time()))}
    # Named, for else the SAM CLI looks for the file beside the template.
    stage = ["--config-file", str(STAGES), "--config-env", options.stage]
    stage += ["--profile", options.profile] if options.profile else []
    require_sam()
    if options.template:
        image = ["--template-file", str(options.template), "--image-repository", image_repository(options.template)]
    else:
        require_docker()
        stack = find_stack(stages()[options.stage])
        run_sam("build", *stage, *overrides({**(stack.parameters if stack else {}), **given}))
        image = ["--resolve-image-repos"]
    settings = ["--capabilities", "CAPABILITY_IAM", "--resolve-s3", "--no-confirm-changeset"]
    run_sam("deploy", *stage, *settings, "--no-fail-on-empty-changeset", *image, *overrides(given))
    CONSOLE.print(f"Deployed. Try it: ./scripts/smoke-test --stack {stages()[options.stage]}", soft_wrap=True)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options; exit with 2 where a parameter is not one of the template."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parameters", nargs="*", type=parameter, metavar="PARAMETER=VALUE", help="template.yaml says which there are"
    )
    parser.add_argument(
        "--stage",
        choices=stages(),
        default="default",
        help="the section of samconfig.toml that names the stack: one of %(choices)s (default: %(default)s)",
        metavar="NAME",
    )
    parser.add_argument(
        "--template",
        type=packaged,
        metavar="FILE",
        help='what "sam package" wrote: deploy the image that it names, and build none',
    )
    cli.add_profile(parser)
    options = parser.parse_intermixed_args()
    known = read_template(options.template or TEMPLATE)["Parameters"]
    for name, _ in options.parameters:
        if complaint := objection(name, known):
            parser.error(complaint)
    return options


def parameter(text: str) -> tuple[str, str]:
    """Return the name and the value that an argument gives. Raises ArgumentTypeError."""
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text} is not PARAMETER=VALUE")
    return name, value


def packaged(text: str) -> Path:
    """Return the file that an option names, for a process in another folder. Raises ArgumentTypeError."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text).resolve()


def objection(name: str, known: Collection[str]) -> str | None:
    """Return why a parameter cannot be given. The SAM CLI drops a name that the template does not have."""
    if name == RELEASE:
        return f"{RELEASE} is set by {PROGRAM} itself"
    if name in known:
        return None
    by_lower_case = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    hint = f"did you mean {by_lower_case[close[0]]}?" if close else f"there are {', '.join(known)}"
    return f"the template has no parameter {name}: {hint}"


def stages() -> dict[str, str]:
    """Return the stacks' names by stage, from samconfig.toml."""
    sections = tomllib.loads(STAGES.read_text())
    return {
        stage: section["global"]["parameters"]["stack_name"]
        for stage, section in sections.items()
        if isinstance(section, dict)
    }


def read_template(path: Path) -> dict[str, Any]:
    """Return a template of CloudFormation's, with None for each function in short form."""
    template: dict[str, Any] = yaml.load(path.read_text(), _CloudFormationLoader)  # noqa: S506  a safe loader
    return template


def image_repository(path: Path) -> str:
    """Return the repository of a packaged template's image: the SAM CLI asks for it, though it pushes nothing there."""
    image = read_template(path)["Resources"]["Consumer"]["Properties"].get("ImageUri", "")
    repository, sign, _ = image.rpartition(":")
    if not sign:
        raise CommandError(f'{path} names no image: write it with "sam package" after "sam build"')
    return str(repository)


def require_sam() -> None:
    """Raise CommandError where there is no SAM CLI."""
    if not shutil.which("sam"):
        raise CommandError(
            "the SAM CLI is not installed: pipx install aws-sam-cli, or see docs/deploy-with-the-aws-cli.md for the way"
            " without it"
        )


def require_docker() -> None:
    """Raise CommandError where no Docker daemon answers."""
    if not Engine(["docker"]).can("version"):
        raise CommandError('no Docker daemon answers, which builds the image: start it until "docker version" succeeds')


def overrides(parameters: Mapping[str, str]) -> list[str]:
    """Return the parameters in the SAM CLI's words: without quotes it takes no empty value, and cuts others short."""
    quoted = (value.replace('"', '\\"') for value in parameters.values())
    return ["--parameter-overrides", *(f'{name}="{value}"' for name, value in zip(parameters, quoted, strict=True))]


def run_sam(command: str, *arguments: str) -> None:
    """Run a command of the SAM CLI's in the project's folder. Raises CommandError."""
    # It is a Python program of its own, which is not to import this project's modules.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(["sam", command, *arguments], cwd=ROOT, env=environment)
    if done.returncode:
        raise CommandError(f"sam {command} failed: what it said stands above")


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main))
