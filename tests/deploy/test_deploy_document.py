"""docs/deploy-with-the-aws-cli.md creates what SAM creates: the real AWS CLI runs it against moto's server."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from scripts.localaws.moto import DUMMY_CREDENTIALS
from settings import StreamSettings
from tests.deploy.deployment import evaluated
from tests.deploy.test_policies import grants
from tests.tools import PATIENCE, ROOT

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

DOCUMENT = (ROOT / "docs" / "deploy-with-the-aws-cli.md").read_text()
BLOCKS = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```bash\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


RUN_ID = "e1efc53e9bd149078b0c12aeaa6365df"
ACCOUNT = "123456789012"
FAILURES, LOGS = f"ride-failures-{ACCOUNT}", "/aws/lambda/ride-duration"

NAMES = {
    "<InputStream.Arn>": f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/ride_events",
    "<PredictionsStream.Arn>": f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/ride_predictions",
    "<PredictionsStream>": "ride_predictions",
    "<FailuresBucket.Arn>": f"arn:aws:s3:::{FAILURES}",
    "<FailuresBucket>": FAILURES,
    "<ConsumerLogs>": LOGS,
    "<ConsumerRole.Arn>": f"arn:aws:iam::{ACCOUNT}:role/ride-duration",
}
"""The document's names for the template's resources."""


def stand_in(folder: Path) -> Path:
    """Make a ``docker`` that only reads a password, because the tests have no Docker; return its folder."""
    docker = folder / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" != login ] || cat >/dev/null\n')
    docker.chmod(0o755)
    return folder


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


@pytest.fixture(scope="module")
def made(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all blocks except the last two, which the last tests run, and give the folder that ``run`` takes."""
    folder = stand_in(tmp_path_factory.mktemp("programs"))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**DUMMY_CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
            environment.setenv(name, value)
        done = run(folder, *(title for title, _ in BLOCKS[:-2]))
    assert done.returncode == 0, done.stderr
    return folder


def template() -> dict[str, Any]:
    """Return the properties of the template's resources, with its defaults, the document's model and its names."""
    resources = evaluated(ModelBucket="my-models", RunId=RUN_ID).resources()
    text = json.dumps({name: resource.get("Properties", {}) for name, resource in resources.items()})
    for name, written in NAMES.items():
        text = text.replace(name, written)
    return dict(json.loads(text))


def check_function() -> None:
    """Assert that the function has the template's size and role, and variables that give the same settings."""
    function: Any = boto3.client("lambda").get_function_configuration(FunctionName="ride-duration")
    expected = template()["Consumer"]
    sizes = ("PackageType", "Architectures", "MemorySize", "Timeout", "Role")
    assert {name: function[name] for name in sizes} == {name: expected[name] for name in sizes}
    by_hand, by_template = (
        replace(StreamSettings.from_environment(of["Environment"]["Variables"]), metrics_namespace="")
        for of in (function, expected)
    )
    assert by_hand == by_template


def test_the_function_is_the_same_as_the_templates(made: Path) -> None:
    """Only the namespace of its metrics differs, because only the alarms and the dashboard need it."""
    check_function()


def test_the_mapping_is_the_same_as_the_templates(made: Path) -> None:
    """Only the alias differs, because the document creates none."""
    client = boto3.client("lambda")
    (mapping,) = client.list_event_source_mappings(FunctionName="ride-duration")["EventSourceMappings"]
    found: Any = client.get_event_source_mapping(UUID=mapping["UUID"])
    expected = {name: value for name, value in template()["ConsumerRides"].items() if name != "FunctionName"}
    # moto leaves out ParallelizationFactor, whose default is 1 (API reference, CreateEventSourceMapping).
    assert {name: found.get(name) or 1 for name in expected} == expected


def test_the_role_is_the_same_as_the_templates(made: Path) -> None:
    """Only its model is that of one run, because no previous version needs another model."""
    document: Any = boto3.client("iam").get_role_policy(RoleName="ride-duration", PolicyName="consumer")
    text = json.dumps(document["PolicyDocument"]["Statement"]).replace(f"/{RUN_ID}/", "/*/")
    (policy,) = template()["ConsumerRole"]["Policies"]
    assert set(grants(json.loads(text))) == set(grants(policy["PolicyDocument"]["Statement"]))
    role: Any = boto3.client("iam").get_role(RoleName="ride-duration")["Role"]
    assert role["AssumeRolePolicyDocument"] == template()["ConsumerRole"]["AssumeRolePolicyDocument"]


def test_the_storage_is_the_same_as_the_templates(made: Path, kinesis: "KinesisClient", s3: "S3Client") -> None:
    """The streams, the failures bucket and the log group have the same settings."""
    expected = template()
    for name, stream in (("ride_events", "InputStream"), ("ride_predictions", "PredictionsStream")):
        summary: Any = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
        assert summary["StreamModeDetails"] == expected[stream]["StreamModeDetails"]
        assert summary["RetentionPeriodHours"] == expected[stream]["RetentionPeriodHours"]
        encryption = {"EncryptionType": summary["EncryptionType"], "KeyId": summary["KeyId"]}
        assert encryption == expected[stream]["StreamEncryption"]
    bucket = expected["FailuresBucket"]
    access = s3.get_public_access_block(Bucket=FAILURES)["PublicAccessBlockConfiguration"]
    assert access == bucket["PublicAccessBlockConfiguration"]
    assert s3.get_bucket_versioning(Bucket=FAILURES)["Status"] == bucket["VersioningConfiguration"]["Status"]
    policy = json.loads(s3.get_bucket_policy(Bucket=FAILURES)["Policy"])
    assert policy == expected["FailuresBucketPolicy"]["PolicyDocument"]
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=FAILURES)["Rules"]
    (expiry,) = bucket["LifecycleConfiguration"]["Rules"]
    assert (rule["Status"], rule["Expiration"], rule["Filter"]) == (
        expiry["Status"],
        {"Days": expiry["ExpirationInDays"]},
        {"Prefix": ""},
    )
    assert rule["NoncurrentVersionExpiration"] == expiry["NoncurrentVersionExpiration"]
    (group,) = boto3.client("logs").describe_log_groups(logGroupNamePrefix=LOGS)["logGroups"]
    assert group["retentionInDays"] == expected["ConsumerLogs"]["RetentionInDays"]


def test_the_function_with_another_model_is_the_same_too(made: Path) -> None:
    """The block for another model writes all variables again."""
    done = run(made, "Names", "Another model, another image")
    assert done.returncode == 0, done.stderr
    check_function()


def test_taking_it_down_deletes_the_streams(made: Path, kinesis: "KinesisClient") -> None:
    """Every command of the document succeeds, up to the last deletion."""
    titles = [title for title, _ in BLOCKS]
    assert (titles[0], titles[-2:], len(titles)) == ("Names", ["Another model, another image", "Take it down"], 9)
    gone = run(made, "Names", "Take it down")
    assert gone.returncode == 0, gone.stderr
    assert not {"ride_events", "ride_predictions"} & set(kinesis.list_streams()["StreamNames"])
