"""docs/deploy-with-the-aws-cli.md, run literally: by the real AWS CLI, against moto's server."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.deployment import deploy
from tests.test_policies import grants
from tests.tools import PATIENCE, ROOT

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

DOCUMENT = (ROOT / "docs" / "deploy-with-the-aws-cli.md").read_text()
BLOCKS = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```bash\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(endpoint: str, aws_environment: None, tmp_path: Path) -> Path:
    """Give a folder whose ``docker`` only takes a password: where these tests run there is none."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" != login ] || cat >/dev/null\n')
    docker.chmod(0o755)
    return tmp_path


def run(folder: Path, *titles: str) -> subprocess.CompletedProcess[str]:
    """Run the blocks under these headings in one shell, which ends with the first command that fails."""
    blocks = dict(BLOCKS)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-euo", "pipefail"],
        input="\n".join(blocks[title] for title in titles),
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_every_command_is_run_to_its_end(shell: Path, kinesis: "KinesisClient") -> None:
    """From the first stream to the last one deleted."""
    titles = [title for title, _ in BLOCKS]
    assert (titles[0], titles[-1], len(titles)) == ("Names", "Take it down", 9)
    made = run(shell, *titles[:-1])
    assert made.returncode == 0, made.stderr

    client = boto3.client("lambda")
    function = client.get_function_configuration(FunctionName="ride-duration")
    assert (function["Timeout"], function["MemorySize"], function["PackageType"]) == (60, 1769, "Image")
    (mapping,) = client.list_event_source_mappings(FunctionName="ride-duration")["EventSourceMappings"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["DestinationConfig"]["OnFailure"]["Destination"].startswith("arn:aws:s3:::ride-failures-")
    assert mapping["BisectBatchOnFunctionError"]
    document: Any = boto3.client("iam").get_role_policy(RoleName="ride-duration", PolicyName="consumer")
    by_hand = Counter(grant.action for grant in grants(document["PolicyDocument"]["Statement"]))
    by_template = deploy(ModelBucket="my-models", RunId="abc").policy("ConsumerRole")
    assert by_hand == Counter(grant.action for grant in grants(by_template))

    gone = run(shell, "Names", "Take it down")
    assert gone.returncode == 0, gone.stderr
    assert not {"ride_events", "ride_predictions"} & set(kinesis.list_streams()["StreamNames"])
