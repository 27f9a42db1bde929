"""Fixtures that tests of several subjects share: the servers that play AWS, and clients for them."""

import contextlib
import gc
import importlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from unittest import mock

import boto3
import pytest

from scripts.localaws import moto, sandbox
from scripts.localaws.chaos import ChaosEndpoint, serve
from scripts.localaws.faults import Decide
from scripts.localaws.setup import FUNCTION_VARIABLES
from streaming import delivery
from tests.flow import Flow
from tests.localaws import second_kinesis

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

# Two threads of OpenMP that share a core wait for each other: training takes ten times as long on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SAMPLE_MODEL = str(Path(__file__).parents[1] / "scripts" / "sample_model" / "model")


SERVERS = {"endpoint", "kinesis_endpoint", "kinesis_local"}
"""Fixtures that start a server in a process of its own."""
SLOW_MODULES = {
    *(
        "test_bench",
        "test_consumers",
        "test_environment",
        "test_invoke",
        "test_put_rides",
        "test_run",
        "test_shadow",
        "test_smoke",
        "test_soak",
        "test_interrupts",
    ),
    *("test_deploy", "test_emulator", "test_help", "test_image_files", "test_sandbox"),
}
"""Modules whose tests start processes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that ``./scripts/test --quick`` passes on."""
    parser.addoption("--quick", action="store_true", help="leave out the tests that take a second or more")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--quick``, leave out tests that start servers or other processes, and those that are marked as slow."""
    if not config.getoption("--quick"):
        return
    slow = [
        item
        for item in items
        if item.path.stem in SLOW_MODULES
        or item.get_closest_marker("slow")
        or SERVERS & set(getattr(item, "fixturenames", ()))
    ]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "slow: takes a second or more, so that --quick leaves it out")
    config.addinivalue_line(
        "markers",
        "kinesis(*names, reason): the servers that play Kinesis for a test, moto and kinesis-local; moto alone by"
        " default. A test's own marker takes precedence over its module's",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that talks to Kinesis once against each server that it names."""
    marker = metafunc.definition.get_closest_marker("kinesis")
    if marker and "kinesis_endpoint" in metafunc.fixturenames:
        metafunc.parametrize("kinesis_endpoint", marker.args, indirect=True)


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Give the environment back after each test: a command that runs in this process may set variables."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Run one moto server for the whole test session and give its URL."""
    with moto.serve() as url:
        yield url


@pytest.fixture(scope="session")
def kinesis_local() -> Iterator[str]:
    """Run one kinesis-local for the whole test session and give its URL; skip the test if it cannot be installed."""
    try:
        second_kinesis.install()
    except second_kinesis.NotInstallableError as error:
        pytest.skip(f"no kinesis-local: {error}")
    with second_kinesis.serve() as url:
        yield url


@pytest.fixture
def kinesis_endpoint(request: pytest.FixtureRequest, endpoint: str) -> str:
    """Give the URL of the server that plays Kinesis for the test."""
    servers = {"moto": "endpoint", "kinesis-local": "kinesis_local"}
    url: str = request.getfixturevalue(servers[getattr(request, "param", "moto")])
    return url


@pytest.fixture(autouse=True)
def aws_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from real AWS: dummy credentials, and the endpoints of the servers that the test uses."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_KINESIS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in moto.DUMMY_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    url = request.getfixturevalue("endpoint") if "endpoint" in request.fixturenames else "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    if "kinesis_endpoint" in request.fixturenames and request.getfixturevalue("kinesis_endpoint") != url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", request.getfixturevalue("kinesis_endpoint"))


@pytest.fixture
def kinesis(kinesis_endpoint: str, aws_environment: None) -> "KinesisClient":
    """Give a Kinesis client for the server that plays Kinesis."""
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
def cold_start(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Give a function that imports the handler's module anew, with just these variables set and the sample model.

    The module hides its objects from GC for a sandbox's life; the fixture gives them back after the test.
    """

    def start(**environment: str) -> ModuleType:
        for name in (*FUNCTION_VARIABLES, "LOG_LEVEL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"MODEL_LOCATION": SAMPLE_MODEL, **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delitem(sys.modules, "lambda_function", raising=False)
        return importlib.import_module("lambda_function")

    yield start
    gc.enable()
    gc.unfreeze()


@pytest.fixture(scope="session")
def boosted_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a small boosted model that wants the time, once for the whole test session, and give its folder."""
    # Imported here because it takes seconds, and most tests need no mlflow.
    from tests.core.saved_models import save_boosted

    folder = str(tmp_path_factory.mktemp("boosted") / "model")
    save_boosted(folder)
    return folder


class Clock:
    """A clock that stands still while code runs, however slow the machine is, and goes on only when code sleeps."""

    def __init__(self) -> None:
        """Start at zero."""
        self.now = 0.0

    def monotonic(self) -> float:
        """Return the seconds that were slept so far."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give delivery and the Lambda context a clock that does not depend on how fast the machine is."""
    clock = Clock()
    monkeypatch.setattr(delivery, "time", clock)
    monkeypatch.setattr(sandbox, "time", clock)
    return clock


@pytest.fixture
def chaos(
    kinesis_endpoint: str, endpoint: str, aws_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., contextlib.AbstractContextManager[ChaosEndpoint]]:
    """Give a function that puts a fault-injecting endpoint between new clients of a service and its server."""

    @contextlib.contextmanager
    def spoil(decide: Decide, service: str = "kinesis") -> Iterator[ChaosEndpoint]:
        upstream = kinesis_endpoint if service == "kinesis" else endpoint
        with serve(upstream, decide) as spoiled, monkeypatch.context() as environment:
            environment.setenv(f"AWS_ENDPOINT_URL_{service.upper()}", spoiled.url)
            yield spoiled

    return spoil


@pytest.fixture
def flow(
    kinesis: "KinesisClient",
    s3: "S3Client",
    stream: str,
    bucket: str,
    cold_start: Callable[..., ModuleType],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Flow:
    """Give the flow. Its function hardly waits between attempts."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)
    kinesis.create_stream(StreamName=f"{stream}-out", ShardCount=1)
    return Flow(kinesis, s3, stream, f"{stream}-out", bucket, cold_start, capsys)
