"""docs/deploy-batch.md and docs/batch-cronjob.yaml fit the batch job, its image, Kubernetes and AWS."""

import datetime
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
import kubernetes_validate
import pytest
import yaml
from botocore.validate import validate_parameters

from batch import objects
from batch.months import Month
from batch_job import Job, score_month
from scripts.image.batch_scenarios import MEMORY_MB, USER
from scripts.localaws.chaos import ChaosEndpoint, serve
from settings import ModelSettings
from tests.conftest import SAMPLE_MODEL
from tests.deploy.test_policies import as_calls, denied, grants, superfluous
from tests.tools import PATIENCE, ROOT
from tests.trip_records import trip, write
from trip_cells import TripRecordError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PAGE = (ROOT / "docs" / "deploy-batch.md").read_text()
DOCUMENTS = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
POLICY, BATCH_JOB, SCHEDULE, SCHEDULE_ROLE, TASK = DOCUMENTS
MANIFEST = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "docs" / "batch-cronjob.yaml").read_text())}
CRONJOB = MANIFEST["CronJob"]["spec"]
POD = CRONJOB["jobTemplate"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
MONTH = Month("green", 2023, 2)
KEY = f"trip-data/{MONTH.file_name}"
MODEL = "1/models/m-0123/artifacts"


def has_gnu_date() -> bool:
    """Return whether ``date`` understands relative dates, as the image's does."""
    return subprocess.run(["date", "-d", "1 month ago"], capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", MANIFEST)
def test_kubernetes_accepts_the_manifest(kind: str) -> None:
    """The schema of the newest Kubernetes knows every field."""
    kubernetes_validate.validate(MANIFEST[kind], kubernetes_validate.latest_version(), strict=True)


def test_a_pod_is_as_confined_as_the_image_was_tested() -> None:
    """The image's user is a number, because Kubernetes cannot tell from a name that the user is not root."""
    stage = (ROOT / "Dockerfile").read_text().partition(" AS batch\n")[2]
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == [f"{USER}:{USER}"]
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["serviceAccountName"] == MANIFEST["ServiceAccount"]["metadata"]["name"]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert CONTAINER["resources"]["limits"]["memory"] == f"{MEMORY_MB}Mi"
    assert [mount["mountPath"] for mount in CONTAINER["volumeMounts"]] == ["/tmp"]  # noqa: S108


@pytest.mark.parametrize("command", [CONTAINER["command"], BATCH_JOB["containerProperties"]["command"]])
@pytest.mark.skipif(not has_gnu_date(), reason="date has no option -d")
def test_a_scheduled_command_scores_the_month_three_months_ago(command: list[str], tmp_path: Path) -> None:
    """The shell computes the month, and replaces itself by the job, which then gets SIGTERM."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "$PPID" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "INPUT": "s3://in put/", "OUTPUT": "s3://out"}

    def expected() -> str:
        # On the second day, so that no month is skipped: the test may run on any day.
        now = datetime.datetime.now(datetime.UTC)
        month = Month("green", now.year, now.month).before(3)
        return (
            f"{os.getpid()} -m batch_job green {month.year} {month.month:02} --input s3://in put/ --output s3://out\n"
        )

    faked = tmp_path / "date"
    date = shutil.which("date")
    faked.write_text(f'#!/bin/sh\nexec {date} -u -d "$({date} -u +%Y-%m-02) $2" "$3"\n')
    faked.chmod(0o755)
    before = expected()
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed in (before, expected())


def test_all_schedules_are_the_courses() -> None:
    """At 3:00 on the second day of each month, in UTC, which is EventBridge Scheduler's default."""
    assert (CRONJOB["schedule"], CRONJOB["timeZone"]) == ("0 3 2 * *", "Etc/UTC")
    assert SCHEDULE["ScheduleExpression"] == "cron(0 3 2 * ? *)"


@pytest.mark.parametrize(
    ("service", "operation", "parameters"),
    [
        ("batch", "RegisterJobDefinition", BATCH_JOB),
        ("ecs", "RegisterTaskDefinition", TASK),
        ("scheduler", "CreateSchedule", SCHEDULE),
        (
            "batch",
            "SubmitJob",
            # EventBridge Scheduler writes the first letter of each name as a capital.
            {name[0].lower() + name[1:]: value for name, value in json.loads(SCHEDULE["Target"]["Input"]).items()},
        ),
    ],
    ids=["job", "task", "schedule", "input of the schedule"],
)
def test_aws_knows_every_field(service: str, operation: str, parameters: dict[str, Any]) -> None:
    """The SDK refuses an unknown field, and one of another type."""
    shape: Any = botocore.session.get_session().get_service_model(service).operation_model(operation).input_shape
    validate_parameters(parameters, shape)


def test_the_schedule_may_submit_its_job() -> None:
    """The schedule, its role and the job name each other."""
    submitted = json.loads(SCHEDULE["Target"]["Input"])
    (statement,) = SCHEDULE_ROLE["Statement"]
    queue, job = (arn.rpartition("/")[2] for arn in statement["Resource"])
    assert (statement["Action"], queue, job) == (
        "batch:SubmitJob",
        submitted["JobQueue"],
        f"{submitted['JobDefinition']}*",
    )
    assert submitted["JobDefinition"] == BATCH_JOB["jobDefinitionName"]


@pytest.fixture
def recorded(endpoint: str, aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosEndpoint]:
    """Give an endpoint of the local AWS that keeps all requests, also the requests of clients that are made later."""
    with serve(endpoint, keeps_requests=True) as keeping:
        monkeypatch.setenv("AWS_ENDPOINT_URL", keeping.url)
        objects.client.cache_clear()
        yield keeping
    objects.client.cache_clear()


def test_the_role_allows_what_the_job_does_and_nothing_else(
    s3: "S3Client", recorded: ChaosEndpoint, tmp_path: Path
) -> None:
    """A month is missing, scored, done before, replaced from another input, and done again after a kill."""
    for bucket in ("my-trips", "my-models", "my-predictions"):
        s3.create_bucket(Bucket=bucket)
    for path in Path(SAMPLE_MODEL).iterdir():
        s3.upload_file(str(path), "my-models", f"{MODEL}/{path.name}")
    environment = {one["name"]: one["value"] for one in CONTAINER["env"]}
    settings = ModelSettings.from_environment(environment)

    def score(force: bool = False) -> bool:
        return score_month(Job(MONTH, environment["INPUT"], environment["OUTPUT"], force), settings).was_done

    with pytest.raises(TripRecordError, match="there is no such object"):
        score()
    outcomes = []
    for minutes, force in ((10, False), (10, False), (20, True)):
        s3.upload_file(str(write(tmp_path / "trips.parquet", [trip(minutes)])), "my-trips", KEY)
        outcomes.append(score(force))
    assert outcomes == [False, True, False]
    calls = [call for request in recorded.requests for call in as_calls(request)]
    given = grants(POLICY["Statement"])
    assert denied(calls, given) == []
    assert superfluous(calls, given) == []


def test_the_job_ends_itself_at_sigterm(tmp_path: Path) -> None:
    """Its exit code is not the kernel's, which has no default action for the first process of a container."""
    output = tmp_path / "output"
    environment = {**os.environ, "MODEL_LOCATION": SAMPLE_MODEL, "no_proxy": "*"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        places = [f"--input=http://127.0.0.1:{silent.getsockname()[1]}/", f"--output={output}"]
        command = [sys.executable, "-m", "batch_job", *map(str, MONTH), *places]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as job:
            # The job is connected, and waits for a response.
            connection, _ = silent.accept()
            job.terminate()
            _, stderr = job.communicate(timeout=PATIENCE)
            connection.close()
    assert (job.returncode, stderr) == (128 + signal.SIGTERM, b"")
    assert not output.exists()
