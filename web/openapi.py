"""The OpenAPI document: every route, its bodies, and its answers by status. The metrics count what it lists."""

from collections.abc import Iterable
from typing import Any

import msgspec

from features import SAMPLE_RIDE
from rides import RIDE, RIDE_ID, TIME, RideEvent, RideId
from web.metrics import OTHER, Request
from web.open_inference import ACCEPTED, DATATYPES, OPTIONAL
from web.problems import PROBLEM_JSON
from web.rides import MAX_RIDES, BareRide

MAX_BODY_BYTES = 1_048_576
"""The largest body of a request."""

UNMATCHED = ("200", "304", "404", "405", "500", "503")
"""Statuses of requests whose method and route are not in the document: the files of the pages, and wrong requests."""
UNCOUNTED = "408"
"""The status that the server gives without calling the app, which therefore does not count it."""

MEANINGS = {
    400: "The body is not JSON in UTF-8, or its JSON is cut off or nested too deeply.",
    404: "The service has another model, or another version of it.",
    408: "The body came too slowly.",
    413: f"The body has more than {MAX_BODY_BYTES:,} bytes.",
    415: "The header Content-Type is not application/json, or the body has a Content-Encoding.",
    422: f"The JSON is not a ride, a list has more than {MAX_RIDES:,} rides, or the model has no value for the ride.",
    500: "An unexpected error. The log has a line about it with the request's id.",
    503: "The service has no memory left for the request: send fewer rides, or try again later.",
}
"""The meaning of each status, unless a route describes it in other words."""

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}

EVENT = msgspec.to_builtins(RideEvent(SAMPLE_RIDE, 256))
TIMED_RIDE = EVENT[RIDE]
BARE_RIDE = {name: TIMED_RIDE[name] for name in DATATYPES}
TENSORS = {
    "id": "42",
    "inputs": [
        {"name": name, "datatype": datatype, "shape": [2], "data": [BARE_RIDE[name]] * 2}
        for name, datatype in DATATYPES.items()
    ],
}
RIDE_EXAMPLES = {
    "ride": {"summary": "A ride", "value": BARE_RIDE},
    "time": {"summary": "A ride with its time", "value": TIMED_RIDE},
    "event": {"summary": f"A ride event, whose {RIDE_ID} the answer repeats", "value": EVENT},
    "list": {"summary": "A list of both", "value": [BARE_RIDE, EVENT, {**BARE_RIDE, RIDE_ID: "a-1"}]},
    "errors": {
        "summary": "A list with a ride that is not valid",
        "value": [BARE_RIDE, {**BARE_RIDE, [*BARE_RIDE][-1]: -1, RIDE_ID: "a-2"}],
    },
}
TIME_SCHEMA = {
    "anyOf": [{"type": "string", "format": "date-time", "pattern": "^(19[789][0-9]|20[0-9][0-9])-"}, {"type": "null"}],
    "description": "When the ride begins, from 1970 to 2099. Without a UTC offset, it is what a clock shows where the"
    " ride takes place. If it is absent or null, the time of the request takes its place.",
}
HEADERS = {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", "traceparent")}
"""The headers of every answer."""
HEADER_PARAMETERS = [{"$ref": f"#/components/parameters/{name}"} for name in HEADERS]

INTRODUCTION = """\
Every error is a problem (RFC 9457), with a `detail` that says what to change. A path that does not exist (404) and a
method that a path does not take (405, with the header `Allow`) have one too. Paths that begin with `/v2/` have the
errors of the Open Inference Protocol instead: `{"error": "..."}`."""


def make_document(*, model: str, version: str, field: str, unit: str) -> Schema:
    """Return the document for a service with this model, whose value has the name ``field``, and a unit if known."""
    value = f"{field} in {unit}" if unit else field
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ride predictions",
            "version": version,
            "description": f"Predicts the {value} of a ride.\n\n{INTRODUCTION}",
        },
        "tags": [
            {"name": "Predictions"},
            {"name": "Service", "description": "For people who run the service."},
            {"name": "Pages", "description": "For people with a browser."},
            {"name": "Open Inference Protocol", "description": "Version 2, for model platforms such as KServe."},
        ],
        "paths": {**_own_paths(model), **_protocol_paths(model, version)},
        "components": {
            "schemas": _request_schemas() | _answer_schemas(model, version, field, value),
            "parameters": _header_parameters(),
            "headers": {
                "X-Request-ID": {
                    "description": "The id of the request, which is also in its log line.",
                    "required": True,
                    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
                },
                "traceparent": {"description": "The header of the request, if it had a valid one.", "schema": STRING},
            },
        },
    }


def list_requests(document: Schema) -> list[Request]:
    """Return every method, route and status of the document, and an entry for each status of all other requests."""
    return [
        *(
            (method.upper(), route, status)
            for route, methods in document["paths"].items()
            for method, operation in methods.items()
            for status in operation["responses"]
            if status != UNCOUNTED
        ),
        *((OTHER, OTHER, status) for status in UNMATCHED),
    ]


def _own_paths(model: str) -> Schema:
    predicted = {"anyOf": [_ref("Answer"), _ref("ListAnswer")]}
    rides = {"anyOf": [_ref("BareRide"), _ref("RideEvent"), _ref("RideList")]}
    up = "The service should get requests."
    down = "The service should get no requests: it is about to stop, or its model cannot predict."
    health = {200: _json(_ref("Health"), up), 503: _json(_ref("Health"), down)}
    bare_health = {200: {"description": up}, 503: {"description": down}}
    metrics = _content(STRING, "The metrics", "text/plain")
    elsewhere = "The metrics are on another port, METRICS_PORT."
    return {
        "/predict": {
            "post": {
                "operationId": "predict",
                "tags": ["Predictions"],
                "summary": "Predict a ride, or each ride of a list",
                "description": f"The model is `{model}`. A list has at most {MAX_RIDES:,} rides, and its answer has the"
                " same order. A ride of a list that is not valid has its problem in its place, and the others have"
                " their predictions. A single ride that is not valid has the problem as its answer.",
                "parameters": HEADER_PARAMETERS,
                "requestBody": _body(rides, RIDE_EXAMPLES),
                "responses": _responses({200: _json(predicted), **_problems(400, 408, 413, 415, 422, 500, 503)}),
            }
        },
        "/health": {
            "get": _operation("health", "Service", "Say whether the service should get requests", health),
            "head": _operation("health_without_body", "Service", "Say the same without a body", bare_health),
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Service",
                "Return the counts of all workers for Prometheus",
                {200: metrics, 404: _problem(404, elsewhere)},
            )
        },
        "/openapi.json": {
            "get": _operation("openapi", "Service", "Return this document", {200: _json({"type": "object"})})
        },
        "/": {"get": _operation("form", "Pages", "Pick two zones and see the prediction", {200: _page()})},
        "/docs": {"get": _operation("docs", "Pages", "Read this document and try it out", {200: _page()})},
    }


def _protocol_paths(model: str, version: str) -> Schema:
    """Return the routes of the Open Inference Protocol. Each route of a model has a second form, with the version."""
    ready = {200: _json(_ref("Ready"), "It should get requests."), 503: _json(_ref("Ready"), "It should not.")}
    live = _json(_object(live={"const": True}))
    paths: Schema = {
        "/v2": {"get": _protocol("server", "Describe the server", {200: _json(_ref("Server"))})},
        "/v2/health/live": {"get": _protocol("live", "Say that the process answers", {200: live})},
        "/v2/health/ready": {"get": _protocol("ready", "Say whether the service should get requests", ready)},
    }
    name = _path_parameter("name", model, "The model's name, MODEL_NAME.")
    number = _path_parameter("version", version, "The model's version.")
    for route, suffix, parameters in (
        ("/v2/models/{name}", "", [name]),
        ("/v2/models/{name}/versions/{version}", "_version", [name, number]),
    ):
        described = {200: _json(_ref("ModelMetadata")), **_protocol_errors(404)}
        inferred = {200: _json(_ref("InferenceResponse")), **_protocol_errors(400, 404, 408, 413, 415, 500, 503)}
        paths[route] = {"get": _protocol(f"model{suffix}", "Describe the model", described, parameters)}
        paths[f"{route}/ready"] = {
            "get": _protocol(
                f"model{suffix}_ready",
                "Say whether the model should get requests",
                {**ready, **_protocol_errors(404)},
                parameters,
            )
        }
        infer = _protocol(f"infer{suffix}", "Predict rides as tensors", inferred, [*parameters, *HEADER_PARAMETERS])
        infer["requestBody"] = _body(_ref("InferenceRequest"), {"rides": {"summary": "Two rides", "value": TENSORS}})
        paths[f"{route}/infer"] = {"post": infer}
    return paths


def _request_schemas() -> Schema:
    _, schemas = msgspec.json.schema_components([BareRide, RideEvent], ref_template="#/components/schemas/{name}")
    # The service reads a body that has RIDE as a ride event, so a bare ride cannot have this field.
    schemas["BareRide"]["properties"][RIDE] = False
    for name in ("BareRide", "Ride"):
        schemas[name]["properties"] |= {TIME: TIME_SCHEMA}
    tensors = [
        _object(
            name={"const": name},
            datatype={"enum": list(ACCEPTED[datatype])},
            shape={"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 2},
            data={"type": "array", "items": {"anyOf": [value, _array(value, 1, 1)]}, "minItems": 1},
        )
        for name, datatype in (DATATYPES | OPTIONAL).items()
        for value in [schemas["Ride"]["properties"][name]]
    ]
    request = _object(inputs=_array({"oneOf": tensors}, len(DATATYPES)))
    request["properties"]["id"] = {"type": ["string", "null"], "description": "The answer repeats it."}
    request["description"] = (
        "Each input is there once, with the same number of values, `n`. Its shape is `[n]` or `[n, 1]`."
        f" Only {', '.join(f'`{name}`' for name in OPTIONAL)} may be left out."
    )
    other = {"description": "An element that is not a ride has a problem in the answer."}
    ride = {"anyOf": [_ref("BareRide"), _ref("RideEvent"), other]}
    return schemas | {"RideList": _array(ride, 0, MAX_RIDES), "InferenceRequest": request}


def _answer_schemas(model: str, version: str, field: str, value: str) -> Schema:
    given_id = {RIDE_ID: msgspec.json.schema(RideId) | {"description": "The ride's own id, if it has one."}}
    its_version = {"const": version, "description": "The version of the model."}
    answer = _object(**{field: NUMBER | {"description": f"The predicted {value}."}}, model_version=its_version)
    error = _object(error=_ref("Problem"))
    for schema in (answer, error):
        schema["properties"] |= given_id
    kinds = {"enum": ["utf-8", "json", "ride", "prediction"], "description": "The step that rejected the ride."}
    problem = _object(type={"const": "about:blank"}, title=STRING, status=INTEGER, detail=STRING)
    problem["properties"] |= {"kind": kinds, "instance": STRING | {"description": "The path of the request."}}
    tensor = _object(name=STRING, datatype=STRING, shape=_array(INTEGER))
    output = _object(name={"const": field}, datatype={"const": "FP64"}, shape=_array(INTEGER), data=_array(NUMBER))
    response = _object(model_name={"const": model}, model_version=its_version, outputs=_array(output, 1, 1))
    response["properties"]["id"] = STRING
    return {
        "Answer": answer,
        "ListAnswer": _array({"anyOf": [_ref("Answer"), error]}, 0, MAX_RIDES),
        "Problem": problem | {"description": "Problem details (RFC 9457)."},
        "Health": _object(
            status={"enum": ["ok", "draining", "unable to predict"]},
            model={"const": model},
            model_version=its_version,
            service_up_since={"type": "string", "format": "date-time"},
        ),
        "Ready": _object(ready=BOOLEAN),
        "Server": _object(name=STRING, version=STRING, extensions=_array(STRING)),
        "ModelMetadata": _object(
            name={"const": model},
            versions=_array(STRING),
            platform=STRING,
            inputs=_array(tensor),
            outputs=_array(tensor),
        ),
        "InferenceResponse": response,
        "InferenceError": _object(error=STRING),
    }


def _header_parameters() -> Schema:
    """Return the headers that a request may have. A value in a wrong form is ignored."""
    texts = {
        "X-Request-ID": "The id of the request: up to 128 visible ASCII characters. Without it, the service makes one.",
        "traceparent": "The trace of the request (W3C Trace Context), which the log and the answer repeat.",
    }
    return {name: {"name": name, "in": "header", "description": text, "schema": STRING} for name, text in texts.items()}


def _path_parameter(name: str, value: str, description: str) -> Schema:
    schema = {"type": "string", "enum": [value], "default": value}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _operation(name: str, tag: str, summary: str, answers: dict[int, Schema]) -> Schema:
    return {"operationId": name, "tags": [tag], "summary": summary, "responses": _responses(answers)}


def _protocol(name: str, summary: str, answers: dict[int, Schema], parameters: Iterable[Schema] = ()) -> Schema:
    operation = _operation(f"v2_{name}", "Open Inference Protocol", summary, answers)
    return operation | ({"parameters": list(parameters)} if parameters else {})


def _responses(answers: dict[int, Schema]) -> Schema:
    return {
        str(status): answer | ({} if str(status) == UNCOUNTED else {"headers": HEADERS})
        for status, answer in answers.items()
    }


def _page() -> Schema:
    return _content(STRING, "The page", "text/html")


def _json(schema: Schema, description: str = "") -> Schema:
    return _content(schema, description or "OK", "application/json")


def _problem(status: int, description: str = "") -> Schema:
    schema = {"allOf": [_ref("Problem"), {"properties": {"status": {"const": status}}}]}
    return _content(schema, description or MEANINGS[status], PROBLEM_JSON)


def _problems(*statuses: int) -> dict[int, Schema]:
    return {status: _problem(status) for status in statuses}


def _protocol_errors(*statuses: int) -> dict[int, Schema]:
    texts = MEANINGS | {400: "The body is not JSON in UTF-8, or not a request of the protocol with valid rides."}
    errors = {status: _json(_ref("InferenceError"), texts[status]) for status in statuses}
    return errors | {status: _problem(status) for status in statuses if str(status) == UNCOUNTED}


def _content(schema: Schema, description: str, *media_types: str) -> Schema:
    return {"description": description, "content": {name: {"schema": schema} for name in media_types}}


def _body(schema: Schema, examples: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Schema) -> Schema:
    """Return the schema of an object with these properties, all of them required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, "minItems": least} | ({} if most is None else {"maxItems": most})
