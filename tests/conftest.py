"""What tests of several subjects share: moto's server, and clients that talk to it over HTTP."""

import importlib
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import boto3
import pytest

from scripts import moto_server
from scripts.local_aws import FUNCTION_VARIABLES

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

SAMPLE_MODEL = str(Path(__file__).parents[1] / "scripts" / "sample_model" / "model")


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Run one moto server for the whole test session and give its URL."""
    with moto_server.serve() as url:
        yield url


@pytest.fixture(autouse=True)
def aws_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from real AWS: dummy credentials, and moto's endpoint where the test uses it."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_KINESIS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in moto_server.DUMMY_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    url = request.getfixturevalue("endpoint") if "endpoint" in request.fixturenames else "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)


@pytest.fixture
def kinesis(endpoint: str, aws_environment: None) -> "KinesisClient":
    """Give a Kinesis client for moto's server."""
    return boto3.client("kinesis")


@pytest.fixture
def s3(endpoint: str, aws_environment: None) -> "S3Client":
    """Give an S3 client for moto's server."""
    return boto3.client("s3")


@pytest.fixture
def stream(kinesis: "KinesisClient") -> str:
    """Create a stream of one shard, of the test's own, and give its name."""
    name = f"stream-{uuid.uuid4().hex}"
    kinesis.create_stream(StreamName=name, ShardCount=1)
    return name


@pytest.fixture
def bucket(s3: "S3Client") -> str:
    """Create a bucket of the test's own and give its name."""
    name = f"bucket-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def cold_start(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Give a function that imports the handler's module anew, with just these variables set and the sample model."""

    def start(**environment: str) -> ModuleType:
        for name in (*FUNCTION_VARIABLES, "LOG_LEVEL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"MODEL_LOCATION": SAMPLE_MODEL, **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delitem(sys.modules, "lambda_function", raising=False)
        return importlib.import_module("lambda_function")

    return start
