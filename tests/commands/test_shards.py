"""Reading a shard by its iterators."""

from typing import TYPE_CHECKING, Any, Literal

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from scripts.aws.shards import ShardReader, shard_ids

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


def expire_next_read(kinesis: "KinesisClient") -> None:
    """Make the client's next GetRecords fail as it does on AWS, because moto's iterators never expire."""
    bodies = [b'{"__type": "ExpiredIteratorException", "message": "Iterator expired."}']

    def answer(request: Any, **_: Any) -> Any:
        if not bodies:
            return None
        raw: Any = type("Raw", (), {"stream": lambda self, **_: iter([bodies.pop()])})()
        return AWSResponse(request.url, 400, HTTPHeaders(), raw)

    kinesis.meta.events.register("before-send.kinesis.GetRecords", answer)


def put(kinesis: "KinesisClient", stream: str, data: str) -> None:
    """Put one record."""
    kinesis.put_record(StreamName=stream, PartitionKey="key", Data=data.encode())


def read(reader: ShardReader) -> list[str]:
    """Read the next records as text."""
    return [record["Data"].decode() for record in reader.read()]


def reader_of(kinesis: "KinesisClient", stream: str, start: Literal["TRIM_HORIZON", "LATEST"]) -> ShardReader:
    """Return a reader of the stream's only shard."""
    (shard_id,) = shard_ids(kinesis, stream)
    return ShardReader(kinesis, stream, shard_id, start)


def test_an_expired_iterator_loses_and_repeats_nothing(kinesis: "KinesisClient", stream: str) -> None:
    """The next read continues where the last successful one ended."""
    reader = reader_of(kinesis, stream, "TRIM_HORIZON")
    put(kinesis, stream, "first")
    assert read(reader) == ["first"]
    put(kinesis, stream, "second")
    expire_next_read(kinesis)
    assert read(reader) == []
    assert read(reader) == ["second"]


@pytest.mark.parametrize(("start", "expected"), [("TRIM_HORIZON", ["old", "new"]), ("LATEST", ["new"])])
def test_an_iterator_may_expire_before_the_first_record(
    kinesis: "KinesisClient", stream: str, start: Literal["TRIM_HORIZON", "LATEST"], expected: list[str]
) -> None:
    """This happens on an empty stream, if a laptop sleeps."""
    put(kinesis, stream, "old")
    reader = reader_of(kinesis, stream, start)
    expire_next_read(kinesis)
    put(kinesis, stream, "new")
    assert read(reader) == []
    assert read(reader) == expected
