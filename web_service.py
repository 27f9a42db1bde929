"""The web service: it takes rides by HTTP and answers the predicted values. Any WSGI server can serve ``app``.

    body     -- decode  --> rides    | problem 400, 413, 415 or 422
    rides    -- predict --> outcomes                          one model call for the whole request
    outcomes -- answer  --> JSON in the rides' order, with a problem in the place of a ride that has no prediction

It uses the same model, the same contract and the same code as the stream, and gives the same values.
"""

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from flask import Flask, Response, abort, request

from artifacts import ModelError
from model import load_from_settings
from model_metadata import NO_METADATA
from ride_counts import Counter
from rides import InvalidRideError, encodable, with_time
from settings import ANSWER_FIELDS, SettingsError, WebSettings
from web import errors, open_inference, openapi, pages, telemetry
from web.health import Health
from web.metrics import TEXT, Metrics
from web.rides import RequestedRide, decode_list, decode_one, is_list, make_answer

try:
    SETTINGS = WebSettings.from_environment(os.environ)
    MODEL = load_from_settings(SETTINGS.model)
except (SettingsError, ModelError) as error:
    sys.exit(f"web_service: {error}")
NAME, VERSION = SETTINGS.model.name, MODEL.version
FIELD = SETTINGS.model.prediction_field or MODEL.metadata.target
if FIELD in ANSWER_FIELDS:
    sys.exit(f"web_service: the model's target is {FIELD!r}, a field that answers have already: set PREDICTION_FIELD")
# An artifact without metadata counts as a model of durations. With a name of the user's own, it may be another model.
UNIT = "" if SETTINGS.model.prediction_field and MODEL.metadata is NO_METADATA else MODEL.metadata.unit
WANTS_TIME = MODEL.metadata.wants_time
NAMES = {"model": NAME, "version": VERSION, "field": FIELD}
HEALTH = Health(NAME, MODEL, SETTINGS.drain_seconds)
DOCUMENT = openapi.make_document(**NAMES, unit=UNIT)
METRICS = Metrics(openapi.list_requests(DOCUMENT), {"model": NAME, "version": VERSION}, MODEL.bins)

app = Flask(__name__, static_folder=None)
app.extensions["health"] = HEALTH
# One byte above the limit, because Flask cuts a chunked body off here without an error; read_json refuses such a body.
app.config["MAX_CONTENT_LENGTH"] = openapi.MAX_BODY_BYTES + 1
# A path with two slashes gets a 404. Flask would redirect it, and few clients send the body again after a redirect.
app.url_map.merge_slashes = False
telemetry.observe(app, METRICS, SETTINGS.log_level)
errors.handle(app)
pages.add(app, DOCUMENT, field=FIELD, unit=UNIT, wants_time=WANTS_TIME)


@app.before_request
def keep_metrics_apart() -> None:
    """If METRICS_PORT is set, serve only ``/metrics`` on this port, and everything else on the other one."""
    if SETTINGS.metrics_port:
        # The port of the socket, because a client can write any port into the header Host.
        is_metrics_port = request.environ["SERVER_PORT"] == str(SETTINGS.metrics_port)
        if is_metrics_port != (request.path == "/metrics"):
            abort(404, f"ask the port {SETTINGS.metrics_port} for /metrics, and the other port for all other routes")


@app.post("/predict")
def predict() -> Response:
    """Predict a ride, or each ride of a list."""
    body = read_json()
    has_list = is_list(body)
    rides = decode_list(body) if has_list else [decode_one(body)]
    outcomes = predict_each(rides)
    answers = [make_answer(*pair, FIELD, VERSION) for pair in zip(rides, outcomes, strict=True)]
    if has_list:
        return as_json(answers)
    return errors.as_problem(answers[0]["error"]) if "error" in answers[0] else as_json(answers[0])


@app.post("/v2/models/<name>/infer")
@app.post("/v2/models/<name>/versions/<version>/infer")
def infer(name: str, version: str = VERSION) -> Response:
    """Predict rides that come as tensors of the Open Inference Protocol."""
    check_model(name, version)
    request_id, rides = open_inference.decode_request(read_json())
    outcomes = predict_each([RequestedRide(ride, None) for ride in rides])
    return as_json(open_inference.make_response(outcomes, request_id, **NAMES))


@app.get("/health")
def health() -> Response:
    """Say whether the service should get requests, and which model it has."""
    return as_json(HEALTH.report(), 200 if HEALTH.is_ready else 503)


@app.get("/v2/health/live")
def live() -> Response:
    """Say that the process answers."""
    return as_json({"live": True})


@app.get("/v2/health/ready")
def ready() -> Response:
    """Say whether the service should get requests."""
    return as_json({"ready": HEALTH.is_ready}, 200 if HEALTH.is_ready else 503)


@app.get("/v2/models/<name>/ready")
@app.get("/v2/models/<name>/versions/<version>/ready")
def model_ready(name: str, version: str = VERSION) -> Response:
    """Say whether the model should get requests."""
    check_model(name, version)
    return ready()


@app.get("/v2/models/<name>")
@app.get("/v2/models/<name>/versions/<version>")
def describe(name: str, version: str = VERSION) -> Response:
    """Describe the model's inputs and outputs."""
    check_model(name, version)
    return as_json(open_inference.describe_model(**NAMES, wants_time=WANTS_TIME))


@app.get("/v2")
def server() -> Response:
    """Describe the server."""
    return as_json({"name": "ride-duration", "version": VERSION, "extensions": []})


@app.get("/metrics")
def metrics() -> Response:
    """Return the counts of all workers for Prometheus."""
    return Response(METRICS.exposition(), content_type=TEXT)


def read_json() -> bytes:
    """Return the body, if the headers say that it is JSON. Raises HTTPException with the status 413 or 415."""
    if not request.is_json:
        abort(415, "the body is JSON: send the header Content-Type: application/json")
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        abort(415, "send the body as it is, without the header Content-Encoding")
    body = request.get_data(cache=False)
    if len(body) > openapi.MAX_BODY_BYTES:
        abort(413)
    return body


def predict_each(rides: Sequence[RequestedRide | InvalidRideError]) -> list[float | InvalidRideError]:
    """Return each ride's predicted value, or an error with the reason why it has no value. The model is called once."""
    valid = [one.ride for one in rides if isinstance(one, RequestedRide)]
    if MODEL.metadata.wants_time:
        now = datetime.now(UTC)
        valid = [with_time(ride, now) for ride in valid]
    counter = Counter(MODEL.bins) if MODEL.bins else None
    predicted = iter(MODEL.predict(valid, counter=counter))
    values = [next(predicted) if isinstance(one, RequestedRide) else one for one in rides]
    outcomes = [
        value if isinstance(value, float | InvalidRideError) else InvalidRideError("prediction", encodable(str(value)))
        for value in values
    ]
    telemetry.note_outcomes(outcomes, counter)
    return outcomes


def check_model(name: str, version: str) -> None:
    """Raise HTTPException with the status 404 if the service has another model."""
    if (name, version) != (NAME, VERSION):
        abort(404, f"there is no model {name} of the version {version}, only {NAME} of the version {VERSION}")


def as_json(value: Any, status: int = 200) -> Response:
    """Return a value as the body of an answer."""
    return Response(msgspec.json.encode(value), status, content_type="application/json")
