"""The load generator, a process of its own: it sends requests over many connections, and times and checks every answer.

Each connection sends its next request as soon as it has an answer, as wrk and locust do. If a server closes the
connection after its answer, the time to open the next one counts, because its users wait for that too.
"""

import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import cast

HOST = "127.0.0.1"
PATIENCE = 60.0
"""Seconds to wait for the last answers. A request without an answer by then is an error."""
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Traffic:
    """The requests to send. They end when ``seconds`` are over or ``requests`` of them were sent."""

    port: int
    path: str
    bodies: list[str]
    """The JSON of the requests, which are sent one after the other, again and again."""
    connections: int
    seconds: float
    requests: int


@dataclass(frozen=True)
class Answers:
    """The answers to some traffic, and how long they took."""

    requests: int
    """The number of correct answers."""
    seconds: float
    """The time from the first request to the last answer."""
    p50: float
    """Seconds from a request to its answer."""
    p99: float
    generator_cpu: float
    """The seconds of CPU time that the load generator took itself."""
    errors: dict[str, int]
    """The number of errors of each kind. Figures with errors are no result."""
    bodies: list[str | None]
    """The answer to each body; None if it was not sent. If a later answer to the same body differs, it is an error."""
    service_cpu: float | None = None
    """The seconds of CPU time that the service took; None if they were not measured."""


def send(traffic: Traffic) -> Answers:
    """Send the traffic from a new process, and return what came back."""
    command = [sys.executable, "-m", "scripts.benchmark.load"]
    done = subprocess.run(command, input=json.dumps(asdict(traffic)), stdout=subprocess.PIPE, text=True, check=True)
    return Answers(**json.loads(done.stdout))


class _Run:
    """The connections of a run, and what they have measured so far."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        head = f"POST {traffic.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        requests = [f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode() for body in traffic.bodies]
        self.requests = itertools.cycle(enumerate(requests))
        self.bodies: list[bytes | None] = [None] * len(requests)
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self.sent = 0
        self.began = self.ended = time.perf_counter()
        self.cpu_began = time.process_time()

    @property
    def is_over(self) -> bool:
        return self.sent >= self.traffic.requests or time.perf_counter() - self.began >= self.traffic.seconds

    async def keep_sending(self) -> None:
        """Keep one connection open, and open it again if it was closed, until the run is over."""
        loop = asyncio.get_running_loop()
        while not self.is_over:
            began = time.perf_counter()
            try:
                _, client = await loop.create_connection(lambda: _Client(self), HOST, self.traffic.port)
            except OSError:
                self.sent += 1
                self.errors["no connection"] += 1
                await asyncio.sleep(0.01)
                continue
            client.send(began)
            await client.closed

    async def measure(self) -> Answers:
        tasks = [asyncio.create_task(self.keep_sending()) for _ in range(self.traffic.connections)]
        done, waiting = await asyncio.wait(tasks, timeout=self.traffic.seconds + PATIENCE)
        for task in done:
            task.result()
        if waiting:
            self.errors["no answer"] += len(waiting)
        latencies = sorted(self.latencies) or [0.0]
        return Answers(
            requests=len(self.latencies),
            seconds=self.ended - self.began,
            p50=latencies[len(latencies) // 2],
            p99=latencies[len(latencies) * 99 // 100],
            generator_cpu=time.process_time() - self.cpu_began,
            errors=dict(self.errors),
            bodies=[body if body is None else body.decode() for body in self.bodies],
        )


class _Client(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class is not derived from it

    def send(self, began: float) -> None:
        self.place, request = next(self.run.requests)
        self.began, self.received, self.is_waiting = began, b"", True
        self.run.sent += 1
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, _, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        # An answer without a length counts as an error when the connection closes.
        if not length or len(body) < int(length[1]) or not self.is_waiting:
            return
        now = time.perf_counter()
        self.is_waiting = False
        self.check(head, body, now)
        self.run.ended = now
        if CLOSE.search(head) or self.run.is_over:
            self.transport.close()
        else:
            self.send(now)

    def check(self, head: bytes, body: bytes, now: float) -> None:
        """Count the answer as a correct one, or as an error."""
        expected = self.run.bodies[self.place]
        if head[9:12] != b"200":
            self.run.errors[f"status {head[9:12].decode()}"] += 1
        elif expected is not None and body != expected:
            self.run.errors["another answer than before"] += 1
        else:
            self.run.bodies[self.place] = body
            self.run.latencies.append(now - self.began)

    def connection_lost(self, _: Exception | None) -> None:
        if self.is_waiting:
            self.run.errors["closed before the answer"] += 1
        self.closed.set_result(None)


if __name__ == "__main__":
    # Imported here because only this process needs it, and the commands that measure something else may not have it.
    import uvloop

    print(json.dumps(asdict(uvloop.run(_Run(Traffic(**json.load(sys.stdin))).measure()))))
