"""What operators see of a request: its id, one log line without a ride, and its part of the metrics."""

import contextlib
import functools
import logging
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from flask import Flask, Request, Response, g, request

from rides import InvalidRideError
from web.metrics import OTHER, Metrics

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids of requests that are taken over. Others could break a log line or a header."""
TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The header that names the trace and the caller's span (W3C, Trace Context)."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
"""The methods that a log line names. A client can send any other word as well."""


def observe(app: Flask, metrics: Metrics, level: str) -> None:
    """Count and log every request of the app, and give its answer the request's id."""
    logs = logging.getLevelName(level) <= logging.INFO

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()
        g.request_id = find_request_id(request)
        g.outcomes = Counter()
        metrics.begin()

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.began
        route = find_route(request)
        response.headers["X-Request-ID"] = g.request_id
        trace = request.headers.get("traceparent", "")
        traced = {"traceparent": trace} if TRACEPARENT.fullmatch(trace) else {}
        response.headers.update(traced)
        # Counted before the answer is sent, so that whoever has an answer finds it counted.
        if g.outcomes:
            metrics.count_rides(g.outcomes)
        metrics.end((request.method, route, str(response.status_code)), seconds)
        if logs:
            log(
                request_id=g.request_id,
                **traced,
                method=request.method if request.method in METHODS else OTHER,
                route=route,
                status=response.status_code,
                rides=g.outcomes.total(),
                milliseconds=round(seconds * 1000, 3),
            )
        return response


def note_outcomes(outcomes: Sequence[float | InvalidRideError]) -> None:
    """Remember what became of the request's rides, for its log line and the metrics."""
    g.outcomes = Counter(one.kind if isinstance(one, InvalidRideError) else "predicted" for one in outcomes)


def note_rejection(error: InvalidRideError) -> None:
    """Remember that a request was rejected as a whole, unless the outcomes of its rides are known."""
    g.outcomes = g.outcomes or Counter({error.kind: 1})


def find_request_id(request: Request) -> str:
    """Return the id that the client or a proxy gave the request, or else a new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def find_route(request: Request) -> str:
    """Return the route that takes the request, such as ``/v2/models/{name}``, never the path, which may be a ride."""
    return write_route(request.url_rule.rule) if request.url_rule else OTHER


@functools.cache
def write_route(rule: str) -> str:
    """Return a rule of Flask, such as ``/static/<path:name>``, as OpenAPI writes it."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def log(message: str = "request", level: str = "INFO", **fields: Any) -> None:
    """Write one line of JSON to stdout. If that is closed or full, the line is lost, but the request is answered."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now := time.time())) + f".{int(now % 1 * 1000):03}Z"
    line = msgspec.json.encode({"level": level, "message": message, "timestamp": stamp, **fields})
    with contextlib.suppress(OSError, ValueError):
        # One write for the whole line, because all workers share stdout. With PYTHONUNBUFFERED, print makes two.
        sys.stdout.write(f"{line.decode()}\n")
        sys.stdout.flush()
