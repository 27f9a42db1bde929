"""A mapping of a test's stream, and functions for it."""

import base64
import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import EventRecord, MappingSettings

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


class Function:
    """A function that keeps the data of the records of its invocations, event by event, and responds as it is told."""

    def __init__(self, respond: Callable[[dict[str, Any]], object] = lambda event: None) -> None:
        """Respond with null by default."""
        self.events: list[dict[str, Any]] = []
        self.batches: list[list[str]] = []
        self._respond = respond

    def __call__(self, event: dict[str, Any]) -> object:
        """Keep a copy of the event, and respond."""
        self.events.append(copy.deepcopy(event))
        self.batches.append(texts(event))
        return self._respond(event)


def texts(event: dict[str, Any]) -> list[str]:
    """Decode the data of an event's records."""
    return [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]


def failing_on(poison: str) -> Callable[[dict[str, Any]], object]:
    """Return a response function that raises if the poison is among the records."""

    def respond(event: dict[str, Any]) -> None:
        if poison in texts(event):
            raise ValueError(poison)

    return respond


def put(kinesis: "KinesisClient", stream: str, data: Iterable[str]) -> None:
    """Put records one after another, in order, with their data as partition keys."""
    for text in data:
        kinesis.put_record(StreamName=stream, PartitionKey=text, Data=text.encode())


Play = Callable[..., EventSourceMapping]


@pytest.fixture
def play(kinesis: "KinesisClient", s3: "S3Client", stream: str) -> Play:
    """Give a mapping of the test's stream, without pauses between retries."""

    def mapping(
        invoke: Callable[[dict[str, Any]], object],
        *,
        back_off: Callable[[int], float] = lambda attempts: 0.0,
        on_delivered: Callable[[Sequence[EventRecord]], None] = lambda records: None,
        stream: str = stream,
        **settings: Any,
    ) -> EventSourceMapping:
        return EventSourceMapping(kinesis, s3, stream, invoke, MappingSettings(**settings), back_off, on_delivered)

    return mapping
