"""The web service in processes of its own, started as users start it, and clients that keep asking it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.cli import SAMPLE_MODEL
from tests.tools import PATIENCE, ROOT, wait_for

HOST = "127.0.0.1"
RIDE = {"PULocationID": 100, "DOLocationID": 200, "trip_distance": 3.5}
BODY = json.dumps(RIDE).encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@dataclass
class RunningService:
    """gunicorn's first process, the master, and its port."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    """The output of all its processes."""

    @property
    def workers(self) -> set[int]:
        """The process ids of the workers."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return {int(line) for line in found.stdout.split()}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[HTTPResponse, bytes]:
        """Send one request on a connection of its own; return the response and its body."""
        with contextlib.closing(HTTPConnection(HOST, self.port, timeout=PATIENCE)) as connection:
            sent = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body, {**sent, **headers})
            response = connection.getresponse()
            return response, response.read()

    def predict(self, rides: Any) -> Any:
        """Return the answer of POST /predict from JSON."""
        response, body = self.ask("POST", "/predict", json.dumps(rides).encode())
        assert response.status == 200, body
        return json.loads(body)

    def connect(self, sent: bytes = b"") -> socket.socket:
        """Return a new connection on which some bytes were sent."""
        connection = socket.create_connection((HOST, self.port), timeout=PATIENCE)
        connection.sendall(sent)
        return connection

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def is_up(self) -> bool:
        """Return whether the service says that it should get requests."""
        try:
            return self.ask("GET", "/health")[0].status == 200
        except OSError:
            return False


def can_connect(port: int) -> bool:
    """Return whether a server listens on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def find_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def start(port: int, output: Path, **variables: str) -> RunningService:
    """Start the course's command in the project's folder."""
    command = [str(Path(sys.executable).with_name("gunicorn")), f"--bind={HOST}:{port}", "web_service:app"]
    settings = {"MODEL_LOCATION": str(SAMPLE_MODEL), "LOG_LEVEL": "WARNING", "WEB_CONCURRENCY": "2", **variables}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **settings}, stdout=file, stderr=file, start_new_session=True
        )
    return RunningService(process, port, output)


@contextlib.contextmanager
def serve(**variables: str) -> Iterator[RunningService]:
    """Run the service for the length of the block, with these environment variables beside the test's own."""
    with TemporaryDirectory() as folder:
        service = start(find_port(), Path(folder, "output"), **variables)
        try:
            wait_for(lambda: service.is_up() or service.process.poll() is not None)
            assert service.process.returncode is None, service.output.read_text()
            yield service
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()


class Clients:
    """Threads that send the same ride again and again, each on a connection that it keeps until the server closes it.

    ``results`` counts the outcomes of the requests: right and wrong answers, and requests that were sent and not
    answered, by the error's name. A client stops if it cannot connect any more.
    """

    def __init__(self, service: RunningService, count: int) -> None:
        """Take the service and the number of clients."""
        self._service = service
        self._expected = service.predict(RIDE)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        self._stopped = threading.Event()
        self.results: Counter[str] = Counter()

    def __enter__(self) -> "Clients":
        """Start the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let each client get its last answer."""
        self._stopped.set()
        self.join()

    def join(self) -> None:
        """Wait until all clients have stopped."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _work(self) -> None:
        while not self._stopped.is_set():
            connection = HTTPConnection(HOST, self._service.port, timeout=PATIENCE)
            try:
                connection.connect()
            except OSError:
                return
            with contextlib.closing(connection):
                self._keep_asking(connection)

    def _keep_asking(self, connection: HTTPConnection) -> None:
        # Without a socket, the server has closed the connection, and http.client would open another one by itself.
        while connection.sock and not self._stopped.is_set():
            try:
                connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
            except Exception as error:
                self.results[type(error).__name__] += 1
                return
            self.results["right" if (response.status, answer) == (200, self._expected) else "wrong"] += 1
