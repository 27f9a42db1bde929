"""GET /metrics of a service with four workers: it adds up to what was sent, whatever happens to the workers."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.builders import ride_event
from tests.tools import wait_for
from tests.web.servers import RIDE, Clients, RunningService, find_port, serve
from tests.web.test_metrics import read, requests, values

pytestmark = pytest.mark.slow

LISTED = json.dumps([ride_event(), {}, ride_event()]).encode()
MIX = {
    ("POST", "/predict", "200"): ("POST", "/predict", LISTED),
    ("POST", "/predict", "400"): ("POST", "/predict", b"{"),
    ("POST", "/predict", "422"): ("POST", "/predict", b"{}"),
    ("GET", "/v2/health/live", "200"): ("GET", "/v2/health/live", None),
    ("GET", "/v2/models/{name}", "404"): ("GET", "/v2/models/other", None),
    ("other", "other", "404"): ("GET", "/nowhere", None),
    ("other", "other", "405"): ("GET", "/predict", None),
    ("other", "other", "200"): ("OPTIONS", "/predict", None),
}
"""A request for each of these counts."""
OUTCOMES = {"predicted": 2, "ride": 2, "json": 1, "utf-8": 0, "prediction": 0}
"""The outcomes of the rides of one mix."""


class Sender:
    """A client that sends mixes and counts them."""

    def __init__(self, service: RunningService) -> None:
        """Take the service."""
        self._service = service
        self._mixes = 0

    def send(self, mixes: int) -> None:
        """Send this number of mixes, sixteen requests at the same time; each has a connection of its own."""
        wanted = list(MIX.items()) * mixes
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda one: self._service.ask(*one[1])[0].status, wanted))
        assert statuses == [int(labels[2]) for labels, _ in wanted]
        self._mixes += mixes

    def check(self) -> None:
        """Compare the metrics with what was sent: nothing is lost and nothing doubled."""
        families = read(self._service.ask("GET", "/metrics")[1].decode())
        counted = {labels: count for labels, count in requests(families).items() if labels in MIX}
        assert counted == dict.fromkeys(MIX, self._mixes)
        outcomes = {outcome: number * self._mixes for outcome, number in OUTCOMES.items()}
        assert values(families["predictions"], "outcome") == outcomes
        assert families["http_server_active_requests"].samples[0].value == 1


def kill(service: RunningService, worker: int) -> None:
    """Kill a worker, and wait until it is gone and another one is in its place."""
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: worker not in service.workers and len(service.workers) == 4)


def kill_at_work(service: RunningService, clients: Clients) -> None:
    """Kill a worker after some answers have come since the last one was killed."""
    enough = clients.results["right"] + 50
    wait_for(lambda: clients.results["right"] > enough)
    kill(service, min(service.workers))


def test_the_metrics_are_exact_before_and_after_workers_were_replaced() -> None:
    """No count is lost by SIGKILL, SIGHUP, SIGTTIN or SIGTTOU, which kill, replace, add and remove workers."""
    with serve(WEB_CONCURRENCY="4", DRAIN_SECONDS="0") as service:
        wait_for(lambda: len(service.workers) == 4)
        sender = Sender(service)
        for worker in service.workers:
            # The others stand still, so this worker has to answer.
            others = service.workers - {worker}
            for other in others:
                os.kill(other, signal.SIGSTOP)
            sender.send(1)
            for other in others:
                os.kill(other, signal.SIGCONT)
        sender.check()
        sender.send(20)
        sender.check()
        for worker in service.workers:
            kill(service, worker)
            sender.send(1)
        sender.check()
        before = service.workers
        service.signal(signal.SIGHUP)
        wait_for(lambda: len(service.workers) == 4 and not service.workers & before)
        sender.send(5)
        service.signal(signal.SIGTTIN)
        wait_for(lambda: len(service.workers) == 5)
        sender.send(5)
        service.signal(signal.SIGTTOU)
        wait_for(lambda: len(service.workers) == 4)
        sender.send(5)
        sender.check()


def test_every_answered_request_is_counted_while_workers_are_killed() -> None:
    """A request that was sent and not answered may be counted or not; no request is counted twice."""
    with serve(WEB_CONCURRENCY="4", DRAIN_SECONDS="0") as service:
        wait_for(lambda: len(service.workers) == 4)
        with Clients(service, 8) as clients:
            for _ in range(8):
                kill_at_work(service, clients)
        results = clients.results
        families = read(service.ask("GET", "/metrics")[1].decode())
        # The clients have asked once more, for the right answer.
        counted = requests(families)["POST", "/predict", "200"] - 1
        assert results["wrong"] == 0
        assert results["right"] <= counted <= results.total()
        rides = values(families["predictions"], "outcome")
        assert counted <= rides["predicted"] - 1 <= results.total()
        assert families["http_server_active_requests"].samples[0].value == 1


def test_the_metrics_port_is_apart() -> None:
    """One port has only the metrics, and the other port has all other routes, whatever the header Host says."""
    port = find_port()
    with serve(METRICS_PORT=str(port)) as service:
        apart = RunningService(service.process, port, service.output)
        assert service.predict(RIDE)["duration"] > 0
        assert service.ask("GET", "/metrics", Host=f"localhost:{port}")[0].status == 404
        assert apart.ask("POST", "/predict", b"{}", Host=f"localhost:{service.port}")[0].status == 404
        response, body = apart.ask("GET", "/metrics")
        assert response.status == 200
        assert requests(read(body.decode()))["POST", "/predict", "200"] == 1
