"""Wrong requests, and a service that fails: the status, the detail, and data that stays out of answers and logs."""

import io
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest

from tests.builders import ride_event
from tests.web.conftest import Lines

RIDE = json.dumps(ride_event()["ride"]).encode()
LIMIT = 1_048_576
ROUTES = "there is no such route: POST rides to /predict, or GET /, /health, /metrics, /openapi.json, /docs or /v2"
INFER = "/v2/models/ride_duration_prediction_model/infer"


def padded(size: int) -> bytes:
    """Build a good ride's body of this size."""
    return RIDE + b" " * (size - len(RIDE))


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        pytest.param(b"", 400, "Input data was truncated", id="empty"),
        pytest.param(b" ", 400, "Input data was truncated", id="white space"),
        pytest.param(RIDE[:-1], 400, "Input data was truncated", id="cut"),
        pytest.param(b"[", 400, "Input data was truncated", id="cut list"),
        pytest.param(b"[%b,]" % RIDE, 400, "JSON is malformed: ", id="comma at the end"),
        pytest.param(b"PULocationID=130", 400, "JSON is malformed: ", id="a form"),
        pytest.param(b"\xef\xbb\xbf" + RIDE, 400, "JSON is malformed: invalid character (byte 0)", id="BOM"),
        pytest.param(RIDE.decode().encode("utf-16"), 400, "the data is not UTF-8: ", id="UTF-16"),
        pytest.param(b"[%b\xff]" % RIDE, 400, "the data is not UTF-8: ", id="list with a broken byte"),
        pytest.param(b'{"x": "\xed\xa0\x80"}', 400, "the data is not UTF-8: ", id="half a surrogate pair as UTF-8"),
        pytest.param(RIDE.replace(b"3.66", b"NaN"), 400, "`$.trip_distance`", id="NaN"),
        pytest.param(RIDE.replace(b"3.66", b"-Infinity"), 400, "`$.trip_distance`", id="Infinity"),
        pytest.param(RIDE.replace(b"3.66", b"1e999"), 422, "Number out of range - at `$.trip_distance`", id="1e999"),
        pytest.param(RIDE.replace(b"3.66", b"9" * 300), 422, "at `$.trip_distance`", id="300 digits of miles"),
        pytest.param(RIDE.replace(b"130", b"9" * 5000), 422, "at `$.PULocationID`", id="5,000 digits"),
        pytest.param(RIDE.replace(b"130", b"130.0"), 422, "at `$.PULocationID`", id="zone with a point"),
        pytest.param(RIDE.replace(b"130", b"true"), 422, "at `$.PULocationID`", id="zone true"),
        pytest.param(RIDE.replace(b"130", b"null"), 422, "at `$.PULocationID`", id="zone null"),
        pytest.param(RIDE.replace(b"}", b', "ride_id": null}'), 422, "at `$.ride_id`", id="id null"),
        pytest.param(RIDE.replace(b"}", b', "ride_id": 1.5}'), 422, "at `$.ride_id`", id="id with a fraction"),
        pytest.param(RIDE.replace(b"}", b', "ride_id": %b}' % (b"9" * 257)), 422, "at `$.ride_id`", id="long id"),
        pytest.param(b"[" * 100_000, 400, "JSON is nested too deeply", id="100,000 brackets"),
        pytest.param(b'{"x":' * 100_000, 400, "JSON is nested too deeply", id="100,000 braces"),
        pytest.param(b"null", 422, "Expected `object`, got `null`", id="null"),
        pytest.param(b"3.66", 422, "Expected `object`, got `float`", id="a number"),
        pytest.param(b'"ride"', 422, "Expected `object`, got `str`", id="text"),
        pytest.param(b"{}", 422, "Object missing required field `PULocationID`", id="no field"),
        pytest.param(b'{"ride": {}}', 422, "Object missing required field `PULocationID` - at `$.ride`", id="no ride"),
        pytest.param(b'{"ride": %b}' % RIDE, 422, "Object missing required field `ride_id`", id="event without id"),
        pytest.param(b"[%b1]" % (b"1," * 500_000), 422, "at most 1,000 rides", id="500,001 numbers"),
        pytest.param(padded(LIMIT + 1), 413, "the body has more than 1,048,576 bytes: send fewer rides", id="too long"),
    ],
)
def test_a_wrong_body_is_a_problem_that_says_what_to_change(client: Any, body: bytes, status: int, detail: str) -> None:
    """Every wrong body gets a status from 400 to 499."""
    response = client.post("/predict", data=body, content_type="application/json")
    assert (response.status_code, response.content_type) == (status, "application/problem+json")
    assert response.json["status"] == status
    assert detail in response.json["detail"]


@pytest.mark.parametrize("extra", [-1, 0, 1, 1000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_of_1_mib_is_taken_and_a_longer_one_is_refused(client: Any, extra: int, chunked: bool) -> None:
    """A long body without a Content-Length is refused too: its first part is never answered as if it were the whole."""
    body = padded(LIMIT + extra)
    # What a server hands over if the client sends chunks.
    chunks = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"} if chunked else {}
    sent = {"input_stream": io.BytesIO(body)} if chunked else {"data": body}
    response = client.post("/predict", content_type="application/json", environ_overrides=chunks, **sent)
    assert response.status_code == (413 if extra > 0 else 200)


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "the body is JSON: send the header Content-Type: application/json"),
        ({"Content-Type": ""}, "the body is JSON: send the header Content-Type: application/json"),
        ({"Content-Type": "text/json"}, "the body is JSON: send the header Content-Type: application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "the body is JSON: send the header"),
        ({"Content-Type": "application/jsonp"}, "the body is JSON: send the header"),
        (
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            "send the body as it is, without the header Content-Encoding",
        ),
    ],
    ids=["none", "empty", "text", "form", "jsonp", "gzip"],
)
@pytest.mark.parametrize("path", ["/predict", INFER])
def test_another_content_type_is_refused(client: Any, path: str, headers: dict[str, str], detail: str) -> None:
    """The detail names the header to send."""
    response = client.post(path, data=RIDE, headers=headers)
    assert response.status_code == 415
    assert response.json["error" if path == INFER else "detail"].startswith(detail)


@pytest.mark.parametrize(
    ("method", "path", "detail"),
    [
        ("GET", "/predict", "/predict does not take GET: use OPTIONS, POST"),
        ("PUT", "/predict", "/predict does not take PUT: use OPTIONS, POST"),
        ("POST", "/health", "/health does not take POST: use GET, HEAD, OPTIONS"),
        ("POST", "/", "/ does not take POST: use GET, HEAD, OPTIONS"),
        ("BREW", "/metrics", "/metrics does not take BREW: use GET, HEAD, OPTIONS"),
        ("POST", "/v2", "/v2 does not take POST: use GET, HEAD, OPTIONS"),
        ("GET", INFER, f"{INFER} does not take GET: use OPTIONS, POST"),
    ],
)
def test_another_method_is_refused_with_those_to_use(client: Any, method: str, path: str, detail: str) -> None:
    """The header Allow says the same."""
    response = client.open(path, method=method)
    assert response.status_code == 405
    assert response.json["error" if path.startswith("/v2") else "detail"] == detail
    assert sorted(response.headers["Allow"].split(", ")) == detail.rpartition("use ")[2].split(", ")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/predict/", "/health//", "/PREDICT", "/health/1", "/\xe9\u20ac", "/a b?"]
)
def test_another_path_is_refused_with_the_routes(client: Any, path: str) -> None:
    """No request is redirected: few clients would send the body again."""
    raw = {"PATH_INFO": path.encode().decode("latin-1")}
    response = client.open("/", method="POST", environ_overrides=raw, data=RIDE, content_type="application/json")
    assert (response.status_code, response.content_type) == (404, "application/problem+json")
    assert response.json["detail"] == ROUTES
    assert response.json["instance"].isascii()
    assert unquote(response.json["instance"]) == path
    protocol = client.get("/v2/nowhere")
    assert (protocol.status_code, protocol.json) == (404, {"error": ROUTES})


@pytest.mark.parametrize("host", ["x" * 3000, "a b", "[::1", "\xff", ""], ids=["long", "space", "half", "byte", "none"])
def test_an_odd_host_is_no_fault_of_the_service(client: Any, host: str) -> None:
    """Scanners send such headers. The service never uses the host to make a URL."""
    response = client.post("/predict", data=RIDE, content_type="application/json", headers={"Host": host})
    assert response.status_code in (200, 400)
    assert response.status_code == 200 or response.json["detail"].startswith("the request cannot be read")


def test_head_and_options_are_answered(client: Any) -> None:
    """HEAD gets the headers of GET, and OPTIONS gets the methods."""
    for path in ("/health", "/metrics", "/openapi.json", "/docs", "/", "/v2"):
        head = client.head(path)
        assert (head.status_code, head.data, head.content_type) == (200, b"", client.get(path).content_type)
    options = client.options("/predict")
    assert (options.status_code, options.data, set(options.allow)) == (200, b"", {"POST", "OPTIONS"})


SECRET = "Zq7-a-rides-secret"


def fail(error: type[BaseException]) -> Callable[..., Any]:
    """Build a model that raises and quotes a ride in its message."""

    def call(*_: object, **__: object) -> Any:
        raise error(SECRET)

    return call


@pytest.mark.parametrize("body", [ride_event(SECRET), [ride_event(SECRET)]], ids=["ride", "list"])
@pytest.mark.parametrize("path", ["/predict", INFER])
def test_no_memory_is_a_503(client: Any, serve_model: Callable[..., None], path: str, body: object) -> None:
    """The request may succeed later, or elsewhere."""
    serve_model(fail(MemoryError))
    tensors = [
        {"name": name, "shape": [1], "datatype": "INT64", "data": [5]}
        for name in ("PULocationID", "DOLocationID", "trip_distance")
    ]
    response = client.post(path, json=body if path == "/predict" else {"inputs": tensors})
    assert response.status_code == 503
    assert response.json["detail" if path == "/predict" else "error"] == (
        "the service is out of memory: send fewer rides, or try again later"
    )


def test_an_unexpected_error_is_a_500_that_tells_nobody_of_a_ride(
    service: ModuleType, client: Any, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    """Neither the answer nor the log has a traceback or the error's message; the log has its place in the code."""
    monkeypatch.setattr(service.MODEL, "predict", fail(KeyError))
    response = client.post("/predict", json=ride_event(SECRET), headers={"X-Request-ID": "an-id"})
    assert (response.status_code, response.content_type) == (500, "application/problem+json")
    assert response.json["detail"] == "an unexpected error: the log has it with the request id an-id"
    fault, request = lines()
    assert {name: fault[name] for name in ("level", "message", "request_id", "error")} == {
        "level": "ERROR",
        "message": "unexpected error",
        "request_id": "an-id",
        "error": "KeyError",
    }
    assert fault["place"].startswith(f"{__file__}:")
    assert (request["status"], request["rides"]) == (500, 0)
    for seen in (response.data.decode(), str(response.headers), json.dumps([fault, request])):
        assert SECRET not in seen
        assert "Traceback" not in seen
