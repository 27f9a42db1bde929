"""Errors as problem details (RFC 9457): JSON with a status, a title, and a detail that says what to change."""

from typing import Any

from werkzeug.http import HTTP_STATUS_CODES

from rides import InvalidRideError, RejectionKind

PROBLEM_JSON = "application/problem+json"
"""The media type of a problem."""


def make_problem(status: int, detail: str, kind: RejectionKind | None = None) -> dict[str, Any]:
    """Return a problem.

    Args:
        status: the HTTP status, whose name becomes the title.
        detail: what is wrong; for a ride, the reason with which the stream would reject it.
        kind: the step that rejected a ride, as in the stream's rejections.
    """
    problem = {"type": "about:blank", "title": HTTP_STATUS_CODES[status], "status": status, "detail": detail}
    return problem | ({"kind": kind} if kind else {})


def problem_of(error: InvalidRideError) -> dict[str, Any]:
    """Return the problem of a body that is not JSON (400), or that is JSON but not a ride (422)."""
    return make_problem(400 if error.kind in ("json", "utf-8") else 422, error.reason, error.kind)
