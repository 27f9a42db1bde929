"""How the service is served: slow clients, workers that die, the stop, and a start that fails."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.builders import copy_saying
from tests.tools import wait_for
from tests.web.servers import BODY, HEAD, REQUEST, RIDE, Clients, RunningService, can_connect, find_port, serve, start

ANSWER = b'{"duration":17.230024695991023,"model_version":"a74aaab7ca9e444ca8fc468eb4bd20e7"}'
LARGE = b" " * 1_048_577


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """Run one service for the tests that do not end it."""
    with serve() as running:
        yield running


def receive(connection: socket.socket, end: bytes) -> bytes:
    """Return what the server sends, up to an end."""
    received = b""
    while not received.endswith(end) and (data := connection.recv(65_536)):
        received += data
    return received


@pytest.mark.parametrize(
    ("count", "sent"),
    [
        pytest.param(1_000, b"", id="idle"),
        pytest.param(200, HEAD[:60], id="half a head"),
        pytest.param(200, REQUEST[:-20], id="half a body"),
    ],
)
def test_slow_clients_hold_up_nobody(service: RunningService, count: int, sent: bytes) -> None:
    """Each slow client would occupy a thread of a server with threads. One that continues gets its answer."""
    slow = [service.connect(sent) for _ in range(count)]
    assert [service.predict(RIDE)["duration"] for _ in range(20)] == [json.loads(ANSWER)["duration"]] * 20
    slow[0].sendall(REQUEST[len(sent) :])
    assert receive(slow[0], ANSWER).startswith(b"HTTP/1.1 200 OK\r\n")
    for connection in slow:
        connection.close()


OFFER = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "content"),
    [
        pytest.param(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), b"200", ANSWER, id="chunked"),
        pytest.param(CHUNKED + b"100001\r\n%b\r\n0\r\n\r\n" % LARGE, b"413", b"}", id="too large, chunked"),
        pytest.param(HEAD + b"Content-Length: 1048577\r\n\r\n" + LARGE, b"413", b"}", id="too large"),
        pytest.param(HEAD + b"Content-Length: 5000000\r\n\r\n" + bytes(5_000_000), b"413", b"}", id="far too large"),
        pytest.param(REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), b"200", ANSWER, id="HTTP/1.0"),
        pytest.param(
            REQUEST.replace(b"Host: x", b"Host: x\r\nContent_Type: text/plain"), b"200", ANSWER, id="underscore"
        ),
        pytest.param(REQUEST.replace(b"/predict", b"/%ff%00"), b"404", b"}", id="not a path"),
        pytest.param(b"POST\r\n\r\n", b"400", b"}", id="not HTTP"),
        pytest.param(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"400", b"}", id="CONNECT"),
        pytest.param(REQUEST.replace(b"Host: x", OFFER), b"200", ANSWER, id="offer of HTTP/2"),
        pytest.param(
            CHUNKED.replace(b"Content-Type: application/json\r\n", b"")
            + b"%x\r\n%b\r\n0\r\nContent-Type: application/json\r\n\r\n" % (len(BODY), BODY),
            b"415",
            b"}",
            id="trailer",
        ),
    ],
)
def test_every_form_of_request_is_answered(service: RunningService, sent: bytes, status: bytes, content: bytes) -> None:
    """The client gets the answer, even if it first sends the whole of a body that is too large."""
    with service.connect(sent) as connection:
        received = receive(connection, content)
    assert received.split(b" ")[1] == status
    assert received.endswith(content)


def test_requests_that_follow_each_other_at_once_are_answered_in_order(service: RunningService) -> None:
    """A client may send the next request before it has an answer (pipelining)."""
    with service.connect(REQUEST + REQUEST.replace(b"/predict", b"/unknown") + REQUEST) as connection:
        received = b""
        while received.count(b"HTTP/1.1 ") < 3 or not received.endswith(ANSWER):
            received += connection.recv(65_536)
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


@pytest.mark.parametrize("sent", [REQUEST * 2, REQUEST * 2 + b"\0", REQUEST.replace(b"Host: x", OFFER) * 2])
def test_requests_are_answered_although_nothing_can_follow(service: RunningService, sent: bytes) -> None:
    """The client has closed its side, or goes on with something else than HTTP."""
    with service.connect(sent) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, b"no end").count(ANSWER) == 2


def test_a_head_has_a_limit(service: RunningService) -> None:
    """The parser would keep any amount of it in memory."""
    with service.connect(REQUEST + b"G") as connection:
        receive(connection, ANSWER)
        connection.sendall(b"ET / HTTP/1.1\r\nA: ".ljust(65_537, b"a"))
        assert receive(connection, b"no end").startswith(b"HTTP/1.1 431 ")


def test_a_request_has_a_limit(service: RunningService) -> None:
    """A trailer counts, too. The answer may be lost, because the client has not stopped sending."""
    received = b""
    with service.connect(CHUNKED + b"1\r\n1\r\n0\r\nA: ") as connection, contextlib.suppress(OSError):
        for _ in range(100):
            connection.sendall(bytes(1_000_000).replace(b"\0", b"a"))
        received = receive(connection, b"no end")
    assert b" 408 " not in received


def test_a_client_may_ask_before_it_sends_its_body(service: RunningService) -> None:
    """Curl does so with large bodies."""
    with service.connect(REQUEST[: -len(BODY) - 2] + b"Expect: 100-continue\r\n\r\n") as connection:
        assert receive(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert receive(connection, ANSWER).startswith(b"HTTP/1.1 200 OK\r\n")


def kill_a_worker(service: RunningService, clients: Clients) -> None:
    """Kill a worker at work, and wait until there is another one in its place."""
    enough = clients.results["right"] + 50
    wait_for(lambda: clients.results["right"] > enough)
    worker = min(service.workers)
    os.kill(worker, signal.SIGKILL)
    # Until the master has noticed it, a killed process still has its id.
    wait_for(lambda: worker not in service.workers and len(service.workers) == 2)


def test_killed_workers_are_replaced_and_no_answer_is_wrong() -> None:
    """Only requests that a killed worker had begun may stay without an answer."""
    with serve() as service, Clients(service, 8) as clients:
        for _ in range(6):
            kill_a_worker(service, clients)
    assert clients.results["wrong"] == 0
    assert clients.results.total() - clients.results["right"] <= 6 * 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_no_request_is_dropped(number: signal.Signals) -> None:
    """SIGTERM ends the service, after its health was 503 for a while; SIGHUP replaces all workers."""
    with serve(DRAIN_SECONDS="1") as service, Clients(service, 8) as clients:
        wait_for(lambda: clients.results["right"] > 100)
        before = service.workers
        service.signal(number)
        if number == signal.SIGTERM:
            wait_for(lambda: service.ask("GET", "/health")[0].status == 503)
            assert service.process.wait(tools.PATIENCE) == 0
            clients.join()
        else:
            wait_for(lambda: len(service.workers) == 2 and not service.workers & before)
            assert service.is_up()
    assert set(clients.results) == {"right"}


def test_a_request_that_has_begun_is_answered_before_the_end() -> None:
    """Its body comes when the service has stopped listening."""
    with serve(DRAIN_SECONDS="0") as service:
        with service.connect(REQUEST[:-20]) as begun:
            service.predict(RIDE)
            service.signal(signal.SIGTERM)
            wait_for(lambda: not service.is_up())
            begun.sendall(REQUEST[-20:])
            assert b"connection: close" in receive(begun, ANSWER)
        assert service.process.wait(tools.PATIENCE) == 0


def test_workers_end_with_their_master() -> None:
    """If it was killed, they would keep the port, and the next start would fail."""
    with serve() as service:
        service.signal(signal.SIGKILL)
        wait_for(lambda: not can_connect(service.port))


def test_sighup_changes_no_setting_and_no_signal() -> None:
    """Gunicorn itself would forget the metrics' port, and Ctrl-C would leave the workers alone."""
    port = find_port()
    with serve(METRICS_PORT=str(port)) as service:
        before = service.workers
        service.signal(signal.SIGHUP)
        wait_for(lambda: len(service.workers) == 2 and not service.workers & before)
        assert service.is_up()
        assert can_connect(port)
        service.signal(signal.SIGINT)
        wait_for(lambda: not can_connect(service.port))


def test_sigusr2_hands_over_to_a_second_master() -> None:
    """Both listen on one socket, so the first must not shut it down."""
    with serve(DRAIN_SECONDS="0") as service:
        service.signal(signal.SIGUSR2)
        wait_for(lambda: len(service.workers) == 3)
        second = max(service.workers)
        wait_for(lambda: service.output.read_text().count("Started server process") == 4)
        service.signal(signal.SIGTERM)
        assert service.process.wait(tools.PATIENCE) == 0
        assert service.is_up()
        os.kill(second, signal.SIGTERM)
        wait_for(lambda: not can_connect(service.port))


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY is a number of workers from 1 to 64, not 0"),
        ({"MODEL_LOCATION": "/nowhere"}, "there is no folder /nowhere: set MODEL_LOCATION"),
        ({"MODEL_LOCATION": ""}, "MODEL_LOCATION is not set"),
        ({"METRICS_PORT": "0"}, "METRICS_PORT is a port from 1 to 65535, not '0'"),
        ({"PREDICTION_FIELD": "error"}, "PREDICTION_FIELD is 'error', a field that answers have already"),
    ],
    ids=["no workers", "no such model", "no model", "metrics port", "field"],
)
def test_a_start_that_fails_gives_one_line_and_an_exit_code(
    variables: dict[str, str], line: str, tmp_path: Path
) -> None:
    """The service ends before it listens."""
    service = start(find_port(), tmp_path / "output", **variables)
    assert service.process.wait(tools.PATIENCE) == 1
    assert service.output.read_text().partition(": ")[2].startswith(line)
    assert service.output.read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"target": "error"}, "the model's target is 'error', a field that answers have already: set PREDICTION_FIELD"),
        ({"target": "model_version"}, "the model's target is 'model_version', a field that answers have already"),
        ({"target": "ride_id"}, "metadata.ride_model that cannot be read"),
        ({"target": "x" * 100_000}, "metadata.ride_model that cannot be read"),
        ({"features": ["rain"]}, "wants the features rain, which are not known here: update this service"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_artifact_cannot_name_the_value_like_another_field(said: object, reason: str, tmp_path: Path) -> None:
    """The service ends before it listens, with one line. A name from PREDICTION_FIELD takes the place of a target."""
    model = copy_saying(said, tmp_path / "model")
    service = start(find_port(), tmp_path / "output", MODEL_LOCATION=model)
    assert service.process.wait(tools.PATIENCE) == 1
    assert reason in service.output.read_text()
    assert service.output.read_text().count("\n") == 1
    if "set PREDICTION_FIELD" in reason:
        with serve(MODEL_LOCATION=model, PREDICTION_FIELD="mistake", WEB_CONCURRENCY="1") as renamed:
            assert "mistake" in renamed.predict(RIDE)


def test_serve_is_the_same_with_the_sample_model() -> None:
    """The command prints a line that works when it is pasted; Ctrl-C ends the service at once."""
    port = find_port()
    tool = tools.start(
        "serve", f"--port={port}", "--workers=1", DRAIN_SECONDS="100", MODEL_LOCATION="", MODEL_BUCKET=""
    )
    with tool:
        shown = "".join(tool.stderr.readline() for _ in range(3)) if tool.stderr else ""
        wait_for(lambda: can_connect(port))
        command = shown.partition("Try it:\n\n")[2]
        asked = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
        assert asked.stdout == b'{"duration":15.717900398172926,"model_version":"a74aaab7ca9e444ca8fc468eb4bd20e7"}'
        example = f"$ {command.strip()}\n{asked.stdout.decode()}\n".replace(str(port), "9696")
        assert example in (tools.ROOT / "README.md").read_text()
        tool.send_signal(signal.SIGINT)
        assert tool.wait(tools.PATIENCE) == 0
