"""Kinesis streams as settings, options and events name them: by name, by ARN, or by the ARN of one of their consumers.

With enhanced fan-out, an event's records have the consumer's ARN: the stream's ARN followed by ``/consumer/NAME:TIME``.
"""

import re
from typing import Any, NamedTuple

NAME = "[a-zA-Z0-9_.-]{1,128}"
"""The pattern of a stream's name, and of a consumer's name (API reference, CreateStream and RegisterStreamConsumer)."""
STREAM = re.compile(
    rf"(?P<arn>arn:aws[a-z-]*:kinesis:(?P<region>[a-z0-9-]+):[0-9]{{12}}:stream/(?P<of_arn>{NAME}))"
    rf"(/consumer/{NAME}:[0-9]+)?|(?P<name>{NAME})"
)
UNKNOWN = "stream"
"""Takes the place of a stream's name if the name is not known."""


class StreamId(NamedTuple):
    """A stream."""

    name: str
    arn: str | None
    """The stream's own ARN, never a consumer's; None if only the name is known."""
    region: str | None


def parse_stream(text: str) -> StreamId | None:
    """Return the stream that a name, an ARN or a consumer's ARN names; None for all other texts."""
    found = STREAM.fullmatch(text)
    return StreamId(found["of_arn"] or found["name"], found["arn"], found["region"]) if found else None


def stream_parameter(text: str) -> dict[str, Any]:
    """Return the parameter that names a stream in a request: only an ARN names a stream of another account."""
    stream = parse_stream(text)
    return {"StreamARN": stream.arn} if stream and stream.arn else {"StreamName": text}


def stream_name(arn: str) -> str:
    """Return the name of the stream in an ARN. If the ARN is malformed, return its last part, or else ``UNKNOWN``.

    The result always has the form of a stream's name, so that it can be part of an object's key.
    """
    stream = parse_stream(arn) or parse_stream(arn.partition("/consumer/")[0].rpartition("/")[2])
    return stream.name if stream else UNKNOWN
