"""The OpenAPI document: every route, its bodies, and its answers by status. The metrics count what it lists."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from rides import RideEvent
from web.metrics import OTHER, Request
from web.open_inference import InferenceRequest
from web.problems import PROBLEM_JSON
from web.rides import MAX_RIDES, BareRide

MAX_BODY_BYTES = 1_048_576
"""The largest body of a request."""

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
PROBLEM = {
    "type": "object",
    "description": "Problem details (RFC 9457).",
    "properties": {
        "type": STRING,
        "title": STRING,
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong; for a ride, the reason that the stream gives."},
        "kind": {"type": "string", "description": "The step that rejected a ride, as in the stream's rejections."},
        "instance": {"type": "string", "description": "The path of the request."},
    },
    "required": ["type", "title", "status", "detail"],
}
RIDES = {
    "type": "array",
    "maxItems": MAX_RIDES,
    "description": "Rides, each in either form. Other elements get a problem.",
}
REJECTED = (400, 413, 415, 422)
FAILED = (500, 503)
UNMATCHED = ("404", "405", "413", "500", "503")
"""Statuses of requests that no route takes, or that take none of a route's methods."""


def make_document(*, model: str, version: str, field: str) -> Schema:
    """Return the document for a service with this model, whose predicted value has the name ``field``."""
    _, components = msgspec.json.schema_components(
        [BareRide, RideEvent, InferenceRequest], ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ride durations",
            "version": version,
            "description": f"Predicts how many minutes a taxi ride takes, with the model {model}.",
        },
        "paths": {**_own_paths(field), **_protocol_paths(field)},
        "components": {"schemas": {**components, "Problem": PROBLEM, "Answer": _answer(field)}},
    }


def list_requests(document: Schema) -> list[Request]:
    """Return every method, route and status of the document, and those of requests that no route takes."""
    return [
        *(
            (method.upper(), route, status)
            for route, methods in document["paths"].items()
            for method, operation in methods.items()
            for status in operation["responses"]
        ),
        *((OTHER, OTHER, status) for status in UNMATCHED),
    ]


def _own_paths(field: str) -> Schema:
    answer = _ref("Answer")
    of_list = {"type": "array", "items": {"anyOf": [answer, _object(error=_ref("Problem"))]}}
    health = _object(status=STRING, model=STRING, model_version=STRING, service_up_since=STRING)
    return {
        "/predict": {
            "post": {
                "summary": "Predict a ride, or each ride of a list",
                "description": f"A list has at most {MAX_RIDES:,} rides. Its answer has the same order, and in the place"
                " of a ride that is not valid, the problem. A ride that is not in a list gets the problem's status.",
                "requestBody": _body({"anyOf": [_ref("BareRide"), _ref("RideEvent"), RIDES]}),
                "responses": {
                    "200": _content("The predictions", {"anyOf": [answer, of_list]}),
                    **{str(status): _problem(status) for status in (*REJECTED, *FAILED)},
                },
            }
        },
        "/health": {
            "get": _operation("Whether the service should get requests", health, (200, 503)),
            "head": {
                "summary": "The same without a body",
                "responses": {status: _answer_without_body(status) for status in ("200", "503")},
            },
        },
        "/metrics": {
            "get": _text("The counts of all workers, for Prometheus", "text/plain", "application/openmetrics-text")
        },
        "/openapi.json": {"get": _operation("This document", {"type": "object"}, (200,))},
        "/docs": {"get": _text("A page that shows this document", "text/html")},
        "/": {"get": _text("A page on which a person picks zones and sees the minutes", "text/html")},
    }


def _protocol_paths(field: str) -> Schema:
    """Return the routes of the Open Inference Protocol."""
    model = _object(name=STRING, versions={"type": "array", "items": STRING}, platform=STRING)
    output = _object(
        name={"const": field}, datatype=STRING, shape={"type": "array"}, data={"type": "array", "items": NUMBER}
    )
    response = _object(model_name=STRING, model_version=STRING, outputs={"type": "array", "items": output})
    is_ready = _object(ready={"type": "boolean"})
    paths: Schema = {
        "/v2": {"get": _operation("The server", _object(name=STRING, version=STRING), (200,))},
        "/v2/health/live": {"get": _operation("That the process answers", _object(live={"type": "boolean"}), (200,))},
        "/v2/health/ready": {"get": _operation("Whether it should get requests", is_ready, (200, 503))},
    }
    for route, names in (
        ("/v2/models/{name}", ["name"]),
        ("/v2/models/{name}/versions/{version}", ["name", "version"]),
    ):
        parameters = [{"name": name, "in": "path", "required": True, "schema": STRING} for name in names]
        infer = _operation("Predict rides as tensors", response, (200,)) | {
            "requestBody": _body(_ref("InferenceRequest"))
        }
        infer["responses"] |= {str(status): _protocol_error(status) for status in (400, 404, 413, 415, *FAILED)}
        described = _operation("The model's inputs and outputs", model, (200,))
        ready = _operation("Whether the model should get requests", is_ready, (200, 503))
        for operation in (described, ready):
            operation["responses"]["404"] = _protocol_error(404)
        paths[route] = {"get": described | {"parameters": parameters}}
        paths[f"{route}/ready"] = {"get": ready | {"parameters": parameters}}
        paths[f"{route}/infer"] = {"post": infer | {"parameters": parameters}}
    return paths


def _answer(field: str) -> Schema:
    return _object(model_version=STRING, **{field: NUMBER}) | {"description": "A ride's prediction."}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _content(description: str, schema: Schema, *media_types: str) -> Schema:
    return {
        "description": description,
        "content": {one: {"schema": schema} for one in media_types or ("application/json",)},
    }


def _answer_without_body(status: str) -> Schema:
    return {"description": HTTPStatus(int(status)).phrase}


def _problem(status: int) -> Schema:
    return _content(HTTPStatus(status).phrase, _ref("Problem"), PROBLEM_JSON)


def _protocol_error(status: int) -> Schema:
    return _content(HTTPStatus(status).phrase, _object(error=STRING))


def _operation(summary: str, schema: Schema, statuses: Sequence[int]) -> Schema:
    responses = {str(status): _content(HTTPStatus(status).phrase, schema) for status in statuses}
    return {"summary": summary, "responses": responses}


def _text(summary: str, *media_types: str) -> Schema:
    return {"summary": summary, "responses": {"200": _content(summary, STRING, *media_types)}}
