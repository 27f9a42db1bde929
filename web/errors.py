"""Every error as JSON: problem details, or the Open Inference Protocol's own form on its routes."""

from typing import Any
from urllib.parse import quote

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from rides import InvalidRideError
from web import telemetry
from web.openapi import MAX_BODY_BYTES
from web.problems import PROBLEM_JSON, make_problem, problem_of
from web.rides import TooManyRidesError

PROTOCOL = "/v2"
"""The routes of the Open Inference Protocol begin with this."""

DETAILS = {
    400: "the request cannot be read: a header or the body is broken",
    404: "there is no such route: POST rides to /predict, or GET /, /health, /metrics, /openapi.json, /docs or /v2",
    413: f"the body has more than {MAX_BODY_BYTES:,} bytes: send fewer rides",
}
"""What is wrong and what to do, by status, for errors that Flask raises without an explanation of their own."""


def handle(app: Flask) -> None:
    """Answer all errors of the app's routes, and of requests that no route takes."""

    @app.errorhandler(InvalidRideError)
    def handle_rejection(error: InvalidRideError) -> Response:
        telemetry.note_rejection(error)
        return as_problem(problem_of(error))

    @app.errorhandler(TooManyRidesError)
    def handle_long_list(error: TooManyRidesError) -> Response:
        return as_problem(make_problem(422, str(error)))

    @app.errorhandler(HTTPException)
    def handle_http(error: HTTPException) -> Response:
        answer = as_problem(make_problem(error.code or 500, describe(error)))
        # Keep headers such as Allow, which lists the methods that a route takes.
        kept = [(name, value) for name, value in error.get_headers() if name.lower() != "content-type"]
        answer.headers.extend(kept)
        return answer

    @app.errorhandler(MemoryError)
    def handle_memory(_: MemoryError) -> Response:
        return as_problem(make_problem(503, "the service is out of memory: send fewer rides, or try again later"))

    @app.errorhandler(Exception)
    def handle_fault(error: Exception) -> Response:
        # The message may quote a ride, so the log gets the place in the code instead.
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        request_id = telemetry.current_id()
        telemetry.log("unexpected error", "ERROR", request_id=request_id, error=type(error).__name__, place=where)
        return as_problem(make_problem(500, f"an unexpected error: the log has it with the request id {request_id}"))


def describe(error: HTTPException) -> str:
    """Return what is wrong with a request and what to do: in the error's own words, if the app has given it any."""
    description = error.description or ""
    if description != type(error).description:
        return description
    if isinstance(error, MethodNotAllowed):
        return f"{request.path} does not take {request.method}: use {', '.join(sorted(error.valid_methods or ()))}"
    return DETAILS.get(error.code or 500, description)


def as_problem(problem: dict[str, Any]) -> Response:
    """Return a problem as the answer to the current request."""
    if f"{request.path}/".startswith(f"{PROTOCOL}/"):
        # The protocol has the status 400 for every wrong request.
        status = 400 if problem["status"] == 422 else problem["status"]
        return Response(msgspec.json.encode({"error": problem["detail"]}), status, content_type="application/json")
    body = msgspec.json.encode(problem | {"instance": quote(request.path)})
    return Response(body, problem["status"], content_type=PROBLEM_JSON)
