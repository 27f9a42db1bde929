"""The deploy command, with stand-ins for the SAM CLI and Docker that write down how they were called."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.tools import ROOT, failed, finish

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SAMPLE = ROOT / "scripts" / "sample_model" / "model"
SAMPLE_DIGEST = hashlib.sha256((SAMPLE / "served_form.safetensors").read_bytes()).hexdigest()
STAND_IN = """\
#!/bin/sh
for argument in "$@"; do printf '%s\\0' "$argument"; done >> {calls}
printf '%s\\n' "PYTHONPATH=$PYTHONPATH" >> {calls}
[ "$1" != "{failing}" ]
"""
PACKAGED = """\
Parameters: {Release: {Type: String}, RunId: {Type: String}}
Resources:
  Consumer:
    Type: AWS::Serverless::Function
    Properties:
      ImageUri: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/rides:consumer-0123-latest
      Role: !GetAtt ConsumerRole.Arn
"""


@dataclass(frozen=True)
class StandIns:
    """A folder of programs that stand in for the real ones."""

    folder: Path

    @property
    def path(self) -> str:
        """The PATH that finds these programs first."""
        return os.pathsep.join([str(self.folder), "/usr/bin", "/bin"])

    def make(self, name: str, failing: str = "nothing") -> None:
        """Make a program that fails if its first argument is ``failing``."""
        program = self.folder / name
        program.write_text(STAND_IN.format(calls=shlex.quote(str(self.folder / f"{name}.calls")), failing=failing))
        program.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """Return the arguments of each call, followed by its PYTHONPATH."""
        calls = self.folder / f"{name}.calls"
        return [line.split("\0") for line in calls.read_text().splitlines()] if calls.exists() else []


@pytest.fixture
def programs(tmp_path: Path) -> StandIns:
    """Give stand-ins for both programs."""
    programs = StandIns(tmp_path)
    programs.make("sam")
    programs.make("docker")
    return programs


@pytest.fixture
def staging(endpoint: str, aws_environment: None) -> Iterator[None]:
    """Create a stack with the name of the stage staging, for x86_64 and with a model in the image."""
    values = {"Architecture": "x86_64", "ImageModel": "models/a b", "ModelPath": "models/old"}
    template: dict[str, Any] = {
        "Parameters": {name: {"Type": "String"} for name in values},
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    }
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName="ride-predictions-staging",
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
    )
    yield
    cloudformation.delete_stack(StackName="ride-predictions-staging")


def parameters(call: list[str]) -> list[str]:
    """Return the parameters that a call overrides, except those that the command sets itself."""
    own = ("Release=", "PreviousModelPath=")
    return [one for one in call[call.index("--parameter-overrides") + 1 : -1] if not one.startswith(own)]


def test_deploy_builds_and_deploys_with_the_given_parameters(programs: StandIns, endpoint: str) -> None:
    """Release is new each time. PYTHONPATH is empty, so that the SAM CLI does not import the project's modules."""
    done = finish("deploy", "ModelBucket=models", "RunId=abc", PATH=programs.path)
    assert done.returncode == 0, done.stderr
    assert "./scripts/smoke-test --stack ride-predictions-dev" in done.stderr
    build, deploy = programs.calls("sam")
    stage = ["--config-file", str(ROOT / "samconfig.toml"), "--config-env", "default"]
    assert build[:5] == ["build", *stage]
    assert deploy[:5] == ["deploy", *stage]
    assert "--resolve-image-repos" in deploy
    assert parameters(build) == parameters(deploy) == ['ModelBucket="models"', 'RunId="abc"']
    assert any(argument.startswith('Release="1') for argument in deploy)
    assert build[-1] == deploy[-1] == "PYTHONPATH="


def test_the_image_is_built_for_the_stack_as_it_will_be(programs: StandIns, staging: None) -> None:
    """The build gets the stack's values, which "sam deploy" keeps, except for those that are given anew."""
    done = finish("deploy", "--stage", "staging", "ImageModel=", "RunId=abc", PATH=programs.path)
    assert done.returncode == 0, done.stderr
    build, deploy = programs.calls("sam")
    assert parameters(build) == ['Architecture="x86_64"', 'ImageModel=""', 'ModelPath="models/old"', 'RunId="abc"']
    assert parameters(deploy) == ['ImageModel=""', 'RunId="abc"']


@pytest.mark.parametrize("template", [False, True], ids=["built", "packaged"])
def test_the_previous_version_keeps_its_models_folder(
    programs: StandIns, staging: None, tmp_path: Path, template: bool
) -> None:
    """The previous version loads its model until the canary is over. A new stack has no previous version."""
    (tmp_path / "packaged.yaml").write_text(PACKAGED.replace("RunId:", "ModelPath:"))
    options = ["--template", str(tmp_path / "packaged.yaml")] if template else []
    for stage in ("staging", "production"):
        done = finish("deploy", "--stage", stage, *options, "ModelPath=models/new", PATH=programs.path)
        assert done.returncode == 0, done.stderr
    old, new = (call for call in programs.calls("sam") if call[0] == "deploy")
    assert {'PreviousModelPath="models/old"', 'ModelPath="models/new"'} <= set(old)
    assert 'PreviousModelPath=""' in new


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ModelPath=model"], [f'ModelSha256="{SAMPLE_DIGEST}"']),
        (["ModelPath=model", "ModelSha256="], ['ModelSha256=""']),
        (["ModelPath=gone"], []),
        (["ShadowModelPath=model", "ModelPath=gone"], [f'ShadowModelSha256="{SAMPLE_DIGEST}"']),
        (["LogLevel=INFO"], []),
    ],
)
def test_the_model_is_pinned_as_it_is_now(
    programs: StandIns, s3: "S3Client", bucket: str, arguments: list[str], expected: list[str]
) -> None:
    """A line says which model has the digest, or why it has none; a digest on the command line goes first."""
    for path in SAMPLE.iterdir():
        s3.put_object(Bucket=bucket, Key=f"model/{path.name}", Body=path.read_bytes())
    done = finish("deploy", f"ModelBucket={bucket}", *arguments, PATH=programs.path)
    assert done.returncode == 0, done.stderr
    assert [one for one in parameters(programs.calls("sam")[1]) if "Sha256" in one] == expected
    if arguments == ["ModelPath=model"]:
        assert f"ModelSha256={SAMPLE_DIGEST} pins the model in s3://{bucket}/model" in done.stderr
    if "ModelPath=gone" in arguments:
        assert (
            "ModelSha256 is not set anew, because the model cannot be read here: there is no MLmodel in" in done.stderr
        )


def test_empty_values_and_values_with_spaces_are_quoted(programs: StandIns, endpoint: str) -> None:
    """The SAM CLI's own parser would misread them without quotes."""
    assert finish("deploy", "ModelPath=a b", "ShadowRunId=", PATH=programs.path).returncode == 0
    assert parameters(programs.calls("sam")[1]) == ['ModelPath="a b"', 'ShadowRunId=""']


@pytest.mark.parametrize(
    "arguments",
    [
        ("RunId=x", "--stage", "staging"),
        ("--stage=staging", "RunId=x"),
        ("RunId=x", "--stage=staging", "LogLevel=INFO"),
    ],
    ids=["parameters first", "options first", "between"],
)
def test_options_and_parameters_come_in_any_order(
    programs: StandIns, endpoint: str, arguments: tuple[str, ...]
) -> None:
    """The stage is understood before, after and between parameters."""
    assert finish("deploy", *arguments, PATH=programs.path).returncode == 0
    deploy = programs.calls("sam")[1]
    assert deploy[deploy.index("--config-env") + 1] == "staging"
    assert 'RunId="x"' in deploy


def test_a_packaged_template_is_deployed_without_a_build(programs: StandIns, endpoint: str, tmp_path: Path) -> None:
    """The stack gets exactly the image that the template names, and Docker is not needed."""
    programs.make("docker", failing="version")
    (tmp_path / "packaged.yaml").write_text(PACKAGED)
    done = finish("deploy", "--template", "packaged.yaml", "RunId=x", cwd=tmp_path, PATH=programs.path)
    assert done.returncode == 0, done.stderr
    (deploy,) = programs.calls("sam")
    assert deploy[deploy.index("--template-file") + 1] == str(tmp_path / "packaged.yaml")
    assert deploy[deploy.index("--image-repository") + 1] == "123456789012.dkr.ecr.eu-west-1.amazonaws.com/rides"
    assert "--resolve-image-repos" not in deploy


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("RunID=x",), "the template has no parameter RunID: did you mean RunId?"),
        (("ShadowRun=x",), "the template has no parameter ShadowRun: did you mean ShadowRunId?"),
        (("Release=7",), "Release is set by deploy itself"),
        (("PreviousModelPath=a",), "PreviousModelPath is set by deploy itself"),
        (("RunId",), "RunId is not PARAMETER=VALUE"),
        (("--stage", "test"), "invalid choice: 'test' (choose from"),
        (("--stage", "test"), "production"),
        (("--template", "nowhere.yaml"), "there is no file nowhere.yaml"),
    ],
    ids=["case", "misspelt", "its own", "its own path", "no value", "unknown stage", "known stages", "no template"],
)
def test_an_argument_that_is_wrong_is_refused(programs: StandIns, arguments: tuple[str, ...], complaint: str) -> None:
    """The exit code is 2, and nothing is built."""
    done = finish("deploy", *arguments, PATH=programs.path)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert programs.calls("sam") == []


def test_help_can_be_asked_for_after_a_parameter(programs: StandIns) -> None:
    """The help lists the stages of samconfig.toml."""
    done = finish("deploy", "RunId=x", "--help", PATH=programs.path)
    assert done.returncode == 0
    assert "default, staging, production" in " ".join(done.stdout.split())


def test_a_missing_sam_cli_is_an_error(programs: StandIns) -> None:
    """The error says how to install the one that is locked."""
    (programs.folder / "sam").unlink()
    line = failed(finish("deploy", PATH=programs.path))
    assert line.startswith(
        "deploy: the SAM CLI is not installed: in the project's folder, run 'python3 -m venv .sam &&"
    )
    assert " -r .github/requirements.txt &&" in line


def test_a_missing_docker_daemon_is_an_error(programs: StandIns) -> None:
    """The error comes before the SAM CLI is called."""
    programs.make("docker", failing="version")
    assert "deploy: no Docker daemon answers" in failed(finish("deploy", PATH=programs.path))
    assert programs.calls("sam") == []


@pytest.mark.parametrize("command", ["build", "deploy"])
def test_a_failure_of_the_sam_cli_is_a_failure_of_deploy(programs: StandIns, endpoint: str, command: str) -> None:
    """If the build failed, nothing is deployed."""
    programs.make("sam", failing=command)
    line = failed(finish("deploy", PATH=programs.path))
    assert line == f"deploy: sam {command} failed: its output is above"
    assert programs.calls("sam")[-1][0] == command
