"""Fixtures of the batch job's tests: the outputs, and a client for S3 of each test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch import objects
from tests.batch.outputs import Output

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture(autouse=True)
def new_client() -> Iterator[None]:
    """Let the job make a client for the test's own endpoint."""
    objects.client.cache_clear()
    yield
    objects.client.cache_clear()


@pytest.fixture
def bucket_output(bucket: str, s3: "S3Client") -> Output:
    """Give an output in S3."""
    return Output(f"s3://{bucket}/output", s3)


@pytest.fixture(params=["folder", "S3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, bucket_output: Output) -> Output:
    """Give an output of each kind."""
    return bucket_output if request.param == "S3" else Output(str(tmp_path / "output"))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK retry at once."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
