"""S3 that fails: the run succeeds or says in one line what to do, and nothing half is ever visible."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from batch.objects import ATTEMPTS
from batch.outputs import OutputError
from batch_job import Job, arguments_of
from scripts.localaws.faults import Call, DroppedAfter, FailedRequest, Fault
from tests.batch.outputs import MONTH, VERSION, Output, behind, check_done, check_nothing_half, score, write_month
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, ROOT, failed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a month of trips."""
    return write_month(tmp_path / "input", 200)


@pytest.mark.parametrize("is_forced", [False, True], ids=["first", "forced"])
@pytest.mark.parametrize("seed", range(4))
def test_half_of_the_requests_fail(
    bucket_output: Output, source: Path, endpoint: str, quick_retries: None, seed: int, is_forced: bool
) -> None:
    """Of these, half are answered with 503, and of half the response is lost. The SDK's retries are enough."""
    if is_forced:
        score(write_month(source.parent, 100), bucket_output)
    draw = random.Random(seed)  # noqa: S311  the same faults every time, no secret

    def fail_half(call: Call) -> Fault | None:
        return draw.choice((FailedRequest(503, "SlowDown"), DroppedAfter(), None, None))

    with behind(endpoint, fail_half) as server:
        assert not score(source, bucket_output, force=is_forced).was_done
    assert server.faults
    assert check_done(bucket_output.read()).counts.predicted == 200


@pytest.mark.parametrize("is_forced", [False, True], ids=["first", "forced"])
@pytest.mark.parametrize("requests", range(9))
def test_an_outage_can_begin_at_any_request(
    bucket_output: Output, source: Path, endpoint: str, quick_retries: None, requests: int, is_forced: bool
) -> None:
    """A run makes at most this many requests before it fails; the next one completes the month."""
    if is_forced:
        score(write_month(source.parent, 100), bucket_output)
    seen = 0

    def fail_from_then_on(call: Call) -> Fault | None:
        nonlocal seen
        seen += 1
        return FailedRequest(503, "SlowDown") if seen > requests else None

    with behind(endpoint, fail_from_then_on):
        try:
            score(source, bucket_output, force=is_forced)
        except OutputError as error:
            assert bucket_output.month in str(error)  # noqa: PT017
            assert str(error).endswith("try again later")  # noqa: PT017
            # A failed run may ask once more for the manifest, to learn whether its files are needed.
            assert seen <= requests + 2 * ATTEMPTS
    manifest = check_nothing_half(bucket_output.read())
    assert manifest or not is_forced
    score(source, bucket_output, force=is_forced)
    assert check_done(bucket_output.read()).counts.predicted == 200


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (FailedRequest(403, "AccessDenied"), "the role needs s3:GetObject, s3:PutObject, s3:DeleteObject and s3:Li"),
        (FailedRequest(404, "NoSuchBucket"), "create the bucket, or check the URI"),
        (FailedRequest(400, "AuthorizationHeaderMalformed"), "set AWS_DEFAULT_REGION to the bucket's region"),
        (FailedRequest(400, "KeyTooLongError"), "KeyTooLongError"),
    ],
    ids=lambda value: value.code if isinstance(value, FailedRequest) else "",
)
@pytest.mark.parametrize("operation", ["PutObject", "other"])
def test_a_refusal_says_what_to_do(
    bucket_output: Output, source: Path, endpoint: str, fault: FailedRequest, line: str, operation: str
) -> None:
    """It is not repeated, whether S3 refuses to read or to write."""

    def refuse(call: Call) -> Fault | None:
        return fault if call.operation == operation else None

    with behind(endpoint, refuse), pytest.raises(OutputError, match=rf"\A{bucket_output.month}: .*{line}.*\Z"):
        score(source, bucket_output)
    assert bucket_output.read() == {}


def test_a_missing_bucket_is_found_before_the_rows_are_scored(s3: Any, source: Path) -> None:
    """The line names the place."""
    with pytest.raises(OutputError, match=r"\As3://no-such-bucket/colour=.*create the bucket, or check the URI\Z"):
        score(source, "s3://no-such-bucket")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"),
        ({"AWS_ENDPOINT_URL_S3": "localhost"}, "the SDK cannot use AWS_ENDPOINT_URL_S3"),
    ],
    ids=["no credentials", "a wrong setting"],
)
def test_a_wrong_setting_of_the_sdk_is_one_line(
    bucket_output: Output, source: Path, tmp_path: Path, variables: dict[str, str], line: str
) -> None:
    """The process ends with exit code 1."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    sdk = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    model = {"MODEL_LOCATION": SAMPLE_MODEL, "RUN_ID": VERSION}
    command = [sys.executable, "-m", "batch_job", *arguments_of(Job(MONTH, str(source), bucket_output.location))]
    environment = {**others, **sdk, **files, **model, **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert line in failed(done)


def test_files_that_vanish_are_written_again(bucket_output: Output, source: Path, endpoint: str) -> None:
    """Another program deletes the predictions after the job has read their manifest."""
    score(source, bucket_output)

    def delete_part(call: Call) -> None:
        if call.operation == "other" and "/part-" in call.key:
            bucket, _, key = call.key.partition("/")
            boto3.client("s3", endpoint_url=endpoint).delete_object(Bucket=bucket, Key=key)

    with behind(endpoint, delete_part):
        assert not score(source, bucket_output).was_done
    assert score(source, bucket_output).was_done
    check_done(bucket_output.read())
