"""Delivery: PutRecords to the output stream and objects to the failures bucket, within the invocation's time."""

import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from settings import SettingsError

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

MAX_ENTRIES = 500
"""The most entries that one PutRecords takes (API reference, PutRecords)."""

MAX_REQUEST_BYTES = 4_718_592
"""4.5 MiB of data and keys a request, which passes everywhere: AWS takes 10 MiB now and took 5 MiB until lately."""

MAX_TRIES = 8
"""How often an entry is put before it is left to the next delivery: about eight seconds of back-off in all."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 3.0

MARGIN_SECONDS = 1.0
"""What is kept of the invocation's time for storing rejections and for answering."""

RETRIED_CODES = {
    "InternalFailure",
    "InternalServerError",
    "KMSThrottlingException",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "ServiceUnavailable",
    "SlowDown",
    "ThrottlingException",
}
"""Errors of a whole PutRecords request that a moment's wait may cure (API reference, PutRecords and common errors)."""

logger = logging.getLogger(__name__)


class Context(Protocol):
    """What is used of the Lambda context."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends the invocation."""


class Deadline:
    """The moment by which delivering must be over; never, where there is no Lambda context."""

    def __init__(self, seconds: float = math.inf) -> None:
        """Set the deadline so many seconds from now."""
        self._at = time.monotonic() + seconds

    @classmethod
    def of(cls, context: Context | None) -> "Deadline":
        """Return the deadline of an invocation: the end of its time, less a margin."""
        if context is None:
            return cls()
        return cls(context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS)

    def left(self) -> float:
        """Return the seconds left; zero or less where there are none."""
        return self._at - time.monotonic()


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry for PutRecords, with the sequence number of the input record that it answers."""

    sequence_number: str
    partition_key: str
    data: bytes

    def __len__(self) -> int:
        """Return the bytes that the entry takes of a request."""
        return len(self.data) + len(self.partition_key.encode())


class OutputStream:
    """The stream that predictions are put on."""

    def __init__(self, client: "KinesisClient", name: str) -> None:
        """Take a client that does not retry by itself: see ``connect``."""
        self._client = client
        self._name = name

    @classmethod
    def connect(cls, name: str) -> "OutputStream":
        """Return the stream of that name, in the account and region that the SDK's own variables name.

        Raises:
            SettingsError: where they name no region.
        """
        # The retries here are our own: the SDK knows whole requests only, never the entries that failed in one.
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10)
        try:
            return cls(boto3.client("kinesis", config=config), name)
        except NoRegionError as error:
            raise SettingsError("AWS_DEFAULT_REGION is not set: name the region of the output stream") from error

    def put(self, entries: Sequence[Entry], deadline: Deadline) -> list[Entry]:
        """Put the entries, in order, and return those that Kinesis has not accepted.

        An entry that fails is put again until it is accepted, its tries are used up or the time is over. Where one
        stays behind, the requests after it are not sent: Lambda will deliver their records again anyway.
        """
        chunks = list(chunked(entries))
        for number, chunk in enumerate(chunks):
            failed = self._put_chunk(chunk, deadline)
            if failed:
                return [*failed, *(entry for later in chunks[number + 1 :] for entry in later)]
        return []

    def _put_chunk(self, chunk: list[Entry], deadline: Deadline) -> list[Entry]:
        pending = chunk
        for tries in range(MAX_TRIES):
            wait = backoff(tries)
            if wait >= deadline.left():
                logger.warning("no time left to put %d entries", len(pending))
                break
            time.sleep(wait)
            pending, curable = self._put_once(pending)
            if not pending or not curable:
                break
        return pending

    def _put_once(self, entries: list[Entry]) -> tuple[list[Entry], bool]:
        """Return the entries that failed, and whether it may help to put them again."""
        records: Any = [{"Data": entry.data, "PartitionKey": entry.partition_key} for entry in entries]
        try:
            results: Any = self._client.put_records(StreamName=self._name, Records=records)["Records"]
        except ClientError as error:
            # Not the message: Kinesis may quote a partition key in it, which is a ride's id.
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            logger.warning("PutRecords of %d entries failed: %s", len(entries), code)
            return entries, status >= 500 or code in RETRIED_CODES
        except (BotoCoreError, KeyError, ValueError, TypeError, AttributeError) as error:
            # What the SDK makes of an answer that was cut off, or that is none of Kinesis's.
            logger.warning("PutRecords of %d entries failed: %s", len(entries), type(error).__name__)
            return entries, True
        if len(results) != len(entries):
            logger.warning("PutRecords of %d entries was answered for %d", len(entries), len(results))
            return entries, True
        return [entry for entry, result in zip(entries, results, strict=True) if not _is_accepted(result)], True


class FailuresBucket:
    """The place in S3 where rejections are kept."""

    def __init__(self, client: "S3Client", location: str) -> None:
        """Take an ``s3://bucket/prefix`` URI; the prefix may be empty."""
        self._client = client
        self._bucket, _, prefix = location.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def connect(cls, location: str) -> "FailuresBucket":
        """Return the place that the URI names, in the account that the SDK's own variables name."""
        config = Config(retries={"total_max_attempts": 3, "mode": "standard"}, connect_timeout=2, read_timeout=10)
        return cls(boto3.client("s3", config=config), location)

    def store(self, key: str, body: bytes) -> bool:
        """Write an object under the prefix and return whether S3 holds it now."""
        try:
            self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}{key}", Body=body)
        except (ClientError, BotoCoreError) as error:
            logger.warning("s3://%s/%s%s could not be written: %s", self._bucket, self._prefix, key, error)
            return False
        return True


def _is_accepted(result: object) -> bool:
    """Return whether Kinesis says that it holds the entry: what it does not say so of is put again."""
    return isinstance(result, dict) and bool(result.get("SequenceNumber")) and not result.get("ErrorCode")


def chunked(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut the entries, in order, into requests of at most ``MAX_ENTRIES`` and ``MAX_REQUEST_BYTES``."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        if chunk and (len(chunk) == MAX_ENTRIES or size + len(entry) > MAX_REQUEST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry)
    if chunk:
        yield chunk


def backoff(tries: int) -> float:
    """Return the seconds to wait after so many tries: full jitter, so that many functions do not come back at once."""
    if tries == 0:
        return 0.0
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**tries))  # noqa: S311
