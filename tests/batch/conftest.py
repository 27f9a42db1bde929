"""What tests of the batch job share: the outputs, a client for S3 of each test's own, and small web servers."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@contextlib.contextmanager
def serve(handler: Callable[..., Any]) -> Iterator[str]:
    """Serve HTTP in a thread, and give the URL with a slash at its end."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


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
