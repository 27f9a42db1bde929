"""What tests of the batch job share: a client for S3 of each test's own, and small web servers."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batch import objects


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
