"""The web service in a container with the same restrictions as the function's."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from scripts.cli import CommandError, find_free_port
from scripts.image import container
from scripts.image.container import Container, Engine
from scripts.localaws.server import HOST

MEMORY_MB = 512
SUM_MEMORY = """
import os, pathlib
own = pathlib.Path(f"/proc/{os.getpid()}")
maps = [path.read_text() for path in own.parent.glob("[0-9]*/smaps_rollup") if path.parent != own]
print(sum(int(line.split()[1]) for one in maps for line in one.splitlines() if line.startswith("Pss:")))
"""
PATIENCE_SECONDS = 60
"""The longest time for a start, an answer or a stop, perhaps on a busy machine."""


@dataclass(frozen=True)
class WebContainer(Container):
    """The container of a web service, which may not listen yet."""

    port: int

    def connect(self) -> HTTPConnection:
        """Return a connection for requests."""
        return HTTPConnection(HOST, self.port, timeout=PATIENCE_SECONDS)

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the body, from JSON, of the answer to a GET, or to a POST with a body as JSON."""
        with contextlib.closing(self.connect()) as connection:
            return ask(connection, path, body)

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the body of the answer to a GET."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def wait_until_ready(self) -> None:
        """Return as soon as the service is healthy. Raises CommandError if it ends, or if it takes too long."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end and self.is_running:
            # Ask the engine only once a second, because each call takes CPU time from the service.
            asked = time.monotonic()
            while time.monotonic() < asked + 1:
                with contextlib.suppress(OSError, HTTPException):
                    if self.get("/health")[0] == 200:
                        return
                time.sleep(0.02)
        raise CommandError(f"the web service does not become healthy; its log is {''.join(self.output())[-500:]!r}")

    def memory(self) -> int:
        """Return the memory, in bytes, of all processes of the service. Memory that they share counts once."""
        return int(self.python(SUM_MEMORY)) * 1024


def ask(connection: HTTPConnection, path: str, body: object = None) -> tuple[int, Any]:
    """Return the status and the body, from JSON, of the answer to a GET, or to a POST with a body as JSON."""
    given = None if body is None else json.dumps(body)
    headers = {} if body is None else {"Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", path, given, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@contextlib.contextmanager
def run_web(engine: Engine, image: str, variables: Mapping[str, str]) -> Iterator[WebContainer]:
    """Start the image's web service, on a free port, for the length of the block."""
    port = find_free_port()
    with container.run(engine, image, {**variables, "PORT": str(port)}, MEMORY_MB) as name:
        yield WebContainer(engine, name, port)
