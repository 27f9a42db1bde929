"""The signs of a request for operators: its id, one log line without a ride, and its counts in the metrics."""

import contextlib
import datetime
import functools
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from flask import Flask, Request, Response, g, request

from ride_counts import Counter
from rides import InvalidRideError
from web.metrics import OTHER, Metrics

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids that a client may give a request. Any other id could break a log line or a header."""
TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The header that names the trace and the caller's span (W3C, Trace Context)."""
HEADERS = {"request_id": "X-Request-ID", "traceparent": "traceparent"}
"""The headers of an answer, by the names that their values have in the log line."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
"""The methods that a log line names. Any other word, which a client may send too, is logged as ``other``."""


@dataclass(slots=True)
class Observation:
    """The state of a request that is being answered."""

    request_id: str
    began: float
    outcomes: dict[str, int] = field(default_factory=dict)
    """The number of rides by outcome: ``predicted``, or the kind of the rejection."""
    counter: Counter | None = None
    """Has counted the predicted rides in the bins of the model's baseline; None if the model has no baseline."""


def observe(app: Flask, metrics: Metrics, level: str) -> None:
    """Count and log every request of the app, and give its answer the request's id."""
    logs = logging.getLevelName(level) <= logging.INFO

    @app.before_request
    def begin() -> None:
        g.observation = Observation(find_request_id(request), time.perf_counter())
        metrics.begin()

    @app.after_request
    def end(response: Response) -> Response:
        # Flask looks up the objects behind "g" and "request" at each use, which takes longer than the metrics do.
        seen: Observation = g.observation
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        seconds = time.perf_counter() - seen.began
        route, status = find_route(asked), response.status_code
        identity = {"request_id": seen.request_id, **find_trace(asked)}
        for name, header in HEADERS.items():
            if name in identity:
                response.headers[header] = identity[name]
        # Count before the answer is sent, so that a client that has its answer finds it in the metrics.
        if seen.outcomes:
            metrics.count_rides(seen.outcomes, seen.counter)
        metrics.end((asked.method, route, str(status)), seconds)
        if logs:
            log(
                **identity,
                method=asked.method if asked.method in METHODS else OTHER,
                route=route,
                status=status,
                rides=sum(seen.outcomes.values()),
                milliseconds=round(seconds * 1000, 3),
            )
        return response


def note_outcomes(outcomes: Sequence[float | InvalidRideError], counter: Counter | None) -> None:
    """Remember the outcomes of the request's rides and what has counted them, for its log line and the metrics."""
    kinds = [one.kind if isinstance(one, InvalidRideError) else "predicted" for one in outcomes]
    seen: Observation = g.observation
    seen.outcomes, seen.counter = {kind: kinds.count(kind) for kind in set(kinds)}, counter


def note_rejection(error: InvalidRideError) -> None:
    """Remember that a request was rejected as a whole, unless the outcomes of its rides are known."""
    observation: Observation = g.observation
    observation.outcomes = observation.outcomes or {error.kind: 1}


def current_id() -> str:
    """Return the id of the current request."""
    observation: Observation = g.observation
    return observation.request_id


def find_request_id(request: Request) -> str:
    """Return the id that the client or a proxy gave the request, or a new one if there is no valid id."""
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    return given if given and REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def find_trace(request: Request) -> dict[str, str]:
    """Return the trace that the request is part of; an empty dictionary if it names none."""
    given = request.environ.get("HTTP_TRACEPARENT", "")
    return {"traceparent": given} if given and TRACEPARENT.fullmatch(given) else {}


def find_route(request: Request) -> str:
    """Return the route of the request, such as ``/v2/models/{name}``, and never its path, which may contain a ride."""
    return write_route(request.url_rule.rule) if request.url_rule else OTHER


@functools.cache
def write_route(rule: str) -> str:
    """Return a rule of Flask, such as ``/static/<path:name>``, as OpenAPI writes it."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def log(message: str = "request", level: str = "INFO", **fields: Any) -> None:
    """Write one line of JSON to stdout. If stdout is closed or full, the line is lost, but the request is answered."""
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = msgspec.json.encode({"level": level, "message": message, "timestamp": stamp, **fields})
    with contextlib.suppress(OSError, ValueError):
        # One write for the whole line, because all workers share stdout. With PYTHONUNBUFFERED, print makes two.
        sys.stdout.write(f"{line.decode()}\n")
        sys.stdout.flush()
