"""Lambda's Runtime API, and a sandbox in which the runtime client that Lambda itself uses runs the function against it.

What the paths, headers and states are is said in the Lambda developer guide, "Using the Lambda runtime API".
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from scripts.localaws.setup import FUNCTION_VARIABLES
from tests.tools import PATIENCE, ROOT

ARN = "arn:aws:lambda:us-east-1:000000000000:function:ride-duration"
FUNCTION = {"AWS_LAMBDA_FUNCTION_NAME": "ride-duration", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769"}
"""What Lambda tells a function of itself, as far as it is looked at here."""


class FunctionError(Exception):
    """The handler raised."""

    def __init__(self, error: dict[str, Any]) -> None:
        """Take the error as the runtime client posts it."""
        super().__init__(f"{error['errorType']}: {error['errorMessage']}")
        self.type: str = error["errorType"]
        self.message: str = error["errorMessage"]


class InitError(FunctionError):
    """The function could not be loaded."""


class CrashedError(Exception):
    """The sandbox's process ended by itself; the message has its exit code."""


class TimedOutError(Exception):
    """The function had not answered when its time was over; its process was killed."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """An event on its way to the function, and the moment by which it must have answered, in seconds of the epoch."""

    event: object
    deadline: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True)
class News:
    """What was heard of the sandbox: that it is ready for an event, its response, an error, or its end."""

    kind: str
    body: Any = None


class RuntimeApi(ThreadingHTTPServer):
    """The API's server: hands out invocations and hears what becomes of them."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free loopback port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.invocations: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RuntimeApi

    def do_GET(self) -> None:
        self.server.news.put(News("ready"))
        invocation = self.server.invocations.get()
        if invocation is None:
            self.close_connection = True
            return
        self._answer(
            HTTPStatus.OK,
            json.dumps(invocation.event).encode(),
            {
                "Content-Type": "application/json",
                "Lambda-Runtime-Aws-Request-Id": invocation.id,
                "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": ARN,
            },
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = "init error" if self.path.endswith("/init/error") else self.path.rpartition("/")[2]
        self.server.news.put(News(kind, body))
        self._answer(HTTPStatus.ACCEPTED, b'{"status": "OK"}', {})

    def _answer(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""


class Sandbox:
    """A process that Lambda's runtime client runs the function in, one invocation after another."""

    def __init__(self, api: RuntimeApi, process: subprocess.Popen[bytes], log: Path) -> None:
        """Take the API that the process was told to ask, and the file that it prints to."""
        self._api = api
        self._process = process
        self._log = log

    def invoke(self, event: object, timeout: float = PATIENCE) -> Any:
        """Invoke the function and return its response; ``timeout`` is the function's, in seconds.

        Loading the function, before the first event, is not part of it.

        Raises:
            FunctionError: where the handler raised.
            InitError: where the function could not be loaded.
            CrashedError: where its process ended.
            TimedOutError: where it took longer than the timeout; the sandbox is of no use any more.
        """
        self._hear("ready", PATIENCE)
        self._api.invocations.put(Invocation(event, time.time() + timeout))
        return self._hear("response", timeout)

    def output(self) -> str:
        """Return what the process has printed: logs and metrics."""
        return self._log.read_text()

    def _hear(self, expected: str, seconds: float) -> Any:
        try:
            news = self._api.news.get(timeout=seconds)
        except queue.Empty:
            self._process.kill()
            raise TimedOutError(f"no {expected} within {seconds} seconds") from None
        if news.kind == "error":
            raise FunctionError(news.body)
        if news.kind == "init error":
            raise InitError(news.body)
        if news.kind == "end":
            raise CrashedError(f"exit code {news.body}")
        assert news.kind == expected
        return news.body


@contextlib.contextmanager
def sandbox(handler: str = "lambda_function.lambda_handler", **variables: str) -> Iterator[Sandbox]:
    """Run a handler in a sandbox for the length of the block, with these variables beside the test's AWS ones."""
    with contextlib.ExitStack() as leaving:
        api = leaving.enter_context(_serving())
        log = Path(leaving.enter_context(tempfile.TemporaryDirectory())) / "log"
        process = leaving.enter_context(_started(handler, api, log, variables))
        yield Sandbox(api, process, log)


@contextlib.contextmanager
def _serving() -> Iterator[RuntimeApi]:
    api = RuntimeApi()
    thread = threading.Thread(target=api.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield api
    finally:
        api.invocations.put(None)  # whoever still waits for one
        api.shutdown()
        thread.join()
        api.server_close()


@contextlib.contextmanager
def _started(handler: str, api: RuntimeApi, log: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    others = {name: value for name, value in os.environ.items() if name not in (*FUNCTION_VARIABLES, "LOG_LEVEL")}
    address = f"127.0.0.1:{api.server_port}"
    environment = {**others, **FUNCTION, "AWS_LAMBDA_RUNTIME_API": address, "no_proxy": "127.0.0.1", **variables}
    command = [sys.executable, "-m", "awslambdaric", handler]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output) as process,
    ):
        watch = threading.Thread(target=lambda: api.news.put(News("end", process.wait())))
        watch.start()
        try:
            yield process
        finally:
            process.kill()
            watch.join()
