"""The web service for its operators: request ids, health, and log lines without a ride."""

import io
import json
import logging
import sys
from datetime import datetime
from types import ModuleType
from typing import Any

import pytest

from model import Model
from tests.builders import ride_event
from tests.web.conftest import Lines, WebService
from web.health import Health

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MARKS = {"ride_id": "Zq7Id", "path": "Zq7Path", "query": "Zq7Query", "header": "Zq7Header", "note": "Zq7Note"}
ZONE = 987654321


def test_a_request_writes_one_line(client: Any, lines: Lines) -> None:
    """The line has these fields and no others. A request without a trace has no field for one."""
    headers = {"X-Request-ID": "an-id", "traceparent": TRACE}
    client.post("/predict", json=[ride_event(), {}, ride_event()], headers=headers)
    client.get("/v2/models/a/versions/b")
    traced, other = lines()
    assert datetime.fromisoformat(traced.pop("timestamp")) <= datetime.fromisoformat(other.pop("timestamp"))
    assert 0 < traced.pop("milliseconds") < 60_000
    assert traced == {
        "level": "INFO",
        "message": "request",
        "request_id": "an-id",
        "traceparent": TRACE,
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "rides": 3,
    }
    assert set(other) == {"level", "message", "request_id", "method", "route", "status", "rides", "milliseconds"}
    assert (other["route"], other["status"], other["rides"]) == ("/v2/models/{name}/versions/{version}", 404, 0)


@pytest.mark.parametrize(
    ("method", "path", "route", "logged"),
    [
        ("GET", "/health", "/health", "GET"),
        ("HEAD", "/health", "/health", "HEAD"),
        ("GET", "/static/no/such.css", "/static/{name}", "GET"),
        ("GET", "/nowhere", "other", "GET"),
        ("GET", "/predict", "other", "GET"),
        ("BREW", "/predict", "other", "other"),
    ],
)
def test_a_line_has_the_route_and_never_the_path(
    client: Any, lines: Lines, method: str, path: str, route: str, logged: str
) -> None:
    """If no route takes a request, its line has the route ``other``."""
    client.open(path, method=method)
    (line,) = lines()
    assert (line["method"], line["route"]) == (logged, route)


@pytest.mark.parametrize("given", ["a", "0" * 128, "Root=1-67891233-abcdef", '"\\{}<>;,'])
def test_a_request_id_is_taken_over(client: Any, lines: Lines, given: str) -> None:
    """The caller's own log and this one then have the same id."""
    assert client.get("/health", headers={"X-Request-ID": given}).headers.getlist("X-Request-ID") == [given]
    assert lines()[0]["request_id"] == given


@pytest.mark.parametrize("given", [None, "", "0" * 129, "two words", "tab\t", "\x7f", "\x1b[0m", "\xe9", "\u2028"])
def test_any_other_request_id_is_replaced(client: Any, lines: Lines, given: str | None) -> None:
    """Each request gets an id of its own. An id cannot break a header or a line."""
    sent = {} if given is None else {"HTTP_X_REQUEST_ID": given}
    ids = [client.get("/nowhere", environ_overrides=sent).headers["X-Request-ID"] for _ in range(2)]
    assert [line["request_id"] for line in lines()] == ids
    assert len({*ids, given}) == 3
    assert all(len(made) == 32 and made.isalnum() for made in ids)


@pytest.mark.parametrize(
    "given",
    [
        *("", "x", TRACE.upper(), f"{TRACE}-more", f" {TRACE}", f"{TRACE},{TRACE}", TRACE.replace("00-", "ff-", 1)),
        *(TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), TRACE.replace("00f067aa0ba902b7", "0" * 16)),
    ],
)
def test_a_wrong_traceparent_is_dropped(client: Any, lines: Lines, given: str) -> None:
    """A valid one comes back; any other names no trace (W3C, Trace Context)."""
    assert client.get("/health", headers={"traceparent": TRACE}).headers["traceparent"] == TRACE
    assert "traceparent" not in client.get("/health", environ_overrides={"HTTP_TRACEPARENT": given}).headers
    assert ["traceparent" in line for line in lines()] == [True, False]


def test_no_line_has_anything_of_a_ride(client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Zones, ids, paths, queries, headers and bodies stay out, whatever comes of the request."""
    ride = ride_event(MARKS["ride_id"], PULocationID=ZONE, note=MARKS["note"])
    bodies = [ride, [ride, {**ride, "ride": MARKS["note"]}], {"ride": {"PULocationID": MARKS["note"]}}, MARKS["note"]]
    headers = dict.fromkeys(["User-Agent", "Cookie", "Referer", "traceparent", "Forwarded"], MARKS["header"])
    headers |= {"X-Request-ID": "an-id", "Host": MARKS["header"]}
    for body in [*map(json.dumps, bodies), json.dumps(ride)[:-5], f"\xff{MARKS['note']}".encode("latin-1")]:
        for path in ("/predict", f"/{MARKS['path']}", f"/v2/models/{MARKS['path']}/infer", f"/docs/{MARKS['path']}"):
            for media_type in ("application/json", f"text/{MARKS['header']}"):
                for method in ("POST", "GET", MARKS["header"].upper()):
                    url = f"{path}?{MARKS['query']}={ZONE}"
                    client.open(url, method=method, data=body, content_type=media_type, headers=headers)
    printed = capfd.readouterr()
    assert printed.err == ""
    assert len(printed.out.splitlines()) == 6 * 4 * 2 * 3
    assert [mark for mark in [*MARKS.values(), str(ZONE)] if mark.lower() in printed.out.lower()] == []


@pytest.mark.parametrize("level", ["WARNING", "error"])
def test_a_higher_level_writes_no_lines_of_requests(web_service: WebService, lines: Lines, level: str) -> None:
    """The level changes only the log, and not the answers."""
    response = web_service(LOG_LEVEL=level).app.test_client().post("/predict", json=ride_event(1))
    assert (response.status_code, response.headers["X-Request-ID"].isalnum()) == (200, True)
    assert lines() == []


class RawOutput(io.BytesIO):
    """An output that keeps each write by itself, or takes nothing if it is full."""

    def __init__(self, *, full: bool = False) -> None:
        """Begin without writes."""
        super().__init__()
        self._full = full
        self.writes: list[bytes] = []

    def write(self, data: Any) -> int:
        """Keep the data, or fail as a file on a full disk does."""
        if self._full:
            raise OSError(28, "No space left on device")
        self.writes.append(bytes(data))
        return len(data)


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
def test_a_request_is_answered_even_if_its_line_cannot_be_written(
    client: Any, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """The log must not turn a prediction into an error."""
    output = io.TextIOWrapper(RawOutput(full=full), write_through=True)
    if not full:
        output.close()
    monkeypatch.setattr(sys, "stdout", output)
    assert client.post("/predict", json=ride_event(1)).status_code == 200


def test_a_line_is_one_write(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers share stdout: with two writes, as PYTHONUNBUFFERED makes them of a print, their lines would mix."""
    raw = RawOutput()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
    client.get("/health")
    client.get("/nowhere")
    assert [write[-2:] for write in raw.writes] == [b"}\n", b"}\n"]


def test_health_says_which_model_is_served_since_when(service: ModuleType, client: Any) -> None:
    """While the service drains, its status says so."""
    response = client.get("/health")
    assert (response.status_code, response.content_type) == (200, "application/json")
    report = response.json
    assert report.pop("service_up_since").endswith("+00:00")
    assert report == {"status": "ok", "model": "ride_duration_prediction_model", "model_version": "a-run"}
    service.HEALTH.drain()
    response = client.get("/health")
    assert (response.status_code, response.json["status"]) == (503, "draining")
    assert (client.head("/health").status_code, client.head("/health").data) == (503, b"")
    assert client.post("/predict", json=ride_event(1)).status_code == 200


def test_health_is_503_if_the_model_cannot_predict(
    service: ModuleType, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that turns every ride into an error should get no requests."""
    monkeypatch.setattr(service, "HEALTH", Health("a model", Model(lambda rides: [float("nan")], "1"), 0.0))
    assert client.get("/health").status_code == client.head("/health").status_code == 503
    assert client.get("/health").json["status"] == "unable to predict"


def test_flask_itself_logs_nothing(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Flask's own lines would contain paths, and tracebacks with rides."""
    with caplog.at_level(logging.DEBUG):
        client.post("/predict", data=b"{", content_type="application/json")
    assert caplog.records == []
