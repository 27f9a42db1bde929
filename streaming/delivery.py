"""Delivery: PutRecords to the output stream and objects to the failures bucket, within the invocation's time."""

import functools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - the SDK's own, which is no OSError
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoRegionError,
)
from msgspec import Struct

from settings import SettingsError
from streaming.wire import shortcut

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

MAX_ENTRIES = 500
"""The most entries that one PutRecords takes (API reference, PutRecords)."""

MAX_REQUEST_BYTES = 4_718_592
"""4.5 MiB of data and keys a request, which passes everywhere: AWS takes 10 MiB now and took 5 MiB until lately."""

MAX_ENTRY_BYTES = 1_048_576
"""1 MiB of data and key an entry: the most that a stream takes unless its MaxRecordSize was raised."""

MAX_FRUITLESS_TRIES = 8
"""After so many tries in a row that bring nothing the rest is left to the next delivery: about six seconds of waits."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 3.0

MARGIN_SECONDS, MARGIN_SHARE = 1.0, 0.2
"""What is kept of the invocation's time for answering: a second, and of short times a fifth."""

REQUEST_SECONDS, REQUEST_SHARE = 5.0, 1 / 3
"""What one request may take: five seconds, or a third of the time left if that is less, so that another can follow."""

LEAST_REQUEST_SECONDS = 0.25
"""No request is begun with less time than it needs as a rule, and none is given less."""

CONNECT_SECONDS = 1.0

RETRIED_STATUSES = {408, 409, 425, 429}
"""Beside every status from 500 on."""

RETRIED_CODES = {
    "BadDigest",
    "BandwidthLimitExceeded",
    "IncompleteBody",
    "InternalFailure",
    "InternalServerError",
    "KMSThrottlingException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "XAmzContentSHA256Mismatch",
}
"""Errors of a whole request that a moment's wait may cure (API references of PutRecords and of S3, common errors)."""

RETRIED_SDK_ERRORS = (
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
)
"""Errors of the SDK's own that a moment's wait may cure. The others mean that it is set up wrong."""

OUT_OF_TIME = "OutOfTime"
"""What stands among the errors for what was not even begun."""

Answer = TypeVar("Answer")


class Context(Protocol):
    """What is used of the Lambda context."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends the invocation."""


class DeliveryError(Exception):
    """No request of this invocation can succeed, and waiting would not change it; the message says what to look at."""

    def __init__(self, code: str, message: str) -> None:
        """Keep what AWS or the SDK calls the reason."""
        self.code = code
        super().__init__(message)


class Deadline:
    """The moment by which something must be over; never, where there is no Lambda context."""

    def __init__(self, seconds: float = math.inf) -> None:
        """Set the deadline so many seconds from now."""
        self._at = time.monotonic() + seconds

    @classmethod
    def of(cls, context: Context | None) -> "Deadline":
        """Return the deadline of an invocation: the end of its time, less a margin."""
        if context is None:
            return cls()
        left = context.get_remaining_time_in_millis() / 1000
        return cls(left - min(MARGIN_SECONDS, left * MARGIN_SHARE))

    def left(self) -> float:
        """Return the seconds left; zero or less where there are none."""
        return self._at - time.monotonic()

    def is_over(self) -> bool:
        """Return whether there are none."""
        return self.left() <= 0

    def earlier(self, share: float, most: float = math.inf) -> "Deadline":
        """Return a deadline that leaves this share of the time, and at most ``most`` seconds, for what follows it."""
        left = self.left()
        return Deadline() if left == math.inf else Deadline(left - min(most, left * share))


class Entry(Struct, frozen=True):
    """An entry for PutRecords, with the sequence number of the input record that it answers."""

    sequence_number: str
    partition_key: str
    data: bytes

    def __len__(self) -> int:
        """Return the bytes that the entry takes of a request."""
        key = self.partition_key
        return len(self.data) + (len(key) if key.isascii() else len(key.encode()))


@dataclass(slots=True)
class Delivery:
    """What became of entries: those that Kinesis has not accepted, and what it took to deliver the others."""

    undelivered: list[Entry] = field(default_factory=list)
    put_again: int = 0
    """How often entries were put that had been put before."""
    errors: Counter[str] = field(default_factory=Counter)
    """How often an entry failed, over all tries, by what Kinesis or the SDK calls it."""


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
        try:
            return cls(shortcut(boto3.client("kinesis", config=_single_tries())), name)
        except NoRegionError as error:
            raise SettingsError("AWS_DEFAULT_REGION is not set: name the region of the output stream") from error

    def put(self, entries: Sequence[Entry], deadline: Deadline) -> Delivery:
        """Put the entries and say which of them Kinesis has not accepted.

        An entry that fails is put again until it is accepted, the tries bring nothing any more or the time is over.
        Where one stays behind, the requests after it are not sent: Lambda will deliver their records again anyway.
        Entries of one partition key are accepted in their order, since none is sent before the one ahead of it is
        accepted: Kinesis promises no order among the entries of a request.

        Raises:
            DeliveryError: where no wait can help, as when there is no such stream or no permission.
        """
        delivery = Delivery()
        for chunk in chunked(entries):
            if delivery.undelivered:
                delivery.undelivered += chunk
            else:
                delivery.undelivered = self._put_chunk(chunk, deadline, delivery)
        return delivery

    def _put_chunk(self, chunk: list[Entry], deadline: Deadline, delivery: Delivery) -> list[Entry]:
        """Put what fits into one request, again and again, and return what is not accepted."""
        pending = chunk
        failed: list[Entry] = []
        fruitless = 0
        while pending and fruitless < MAX_FRUITLESS_TRIES:
            wait = backoff(max(1, fruitless)) if failed else 0.0
            if wait + LEAST_REQUEST_SECONDS > deadline.left():
                delivery.errors[OUT_OF_TIME] += len(pending)
                break
            if wait:
                time.sleep(wait)
            ready, held_back = first_of_each_key(pending)
            delivery.put_again += len(failed)
            failed = self._put_once(ready, deadline, delivery.errors)
            pending = [*failed, *held_back]
            fruitless = fruitless + 1 if len(failed) == len(ready) else 0
        return pending

    def _put_once(self, entries: list[Entry], deadline: Deadline, errors: Counter[str]) -> list[Entry]:
        """Return the entries that failed, in order."""
        records: Any = [{"Data": entry.data, "PartitionKey": entry.partition_key} for entry in entries]
        try:
            answer: Any = in_time(lambda: self._client.put_records(StreamName=self._name, Records=records), deadline)
            codes = [_error_code(result) for result in answer["Records"]]
            if len(codes) != len(entries):
                raise ValueError(f"{len(codes)} results for {len(entries)} entries")  # noqa: TRY301
        except MemoryError:
            raise
        except Exception as error:
            # Not its message: Kinesis may quote a partition key there, which is a ride's id.
            name = error_name(error)
            if not is_curable(error):
                raise DeliveryError(
                    name,
                    f"PutRecords of {len(entries)} entries to {self._name} failed with {name}, and would again:"
                    " look at the stream's name and region, and at the function's role",
                ) from error
            errors[name] += len(entries)
            return entries
        errors.update(filter(None, codes))
        return [entry for entry, code in zip(entries, codes, strict=True) if code]


class FailuresBucket:
    """The place in S3 where rejections are kept."""

    def __init__(self, location: str) -> None:
        """Take an ``s3://bucket/prefix`` URI, whose prefix may be empty; the SDK's own variables name the account."""
        self._bucket, _, prefix = location.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    @functools.cached_property
    def _client(self) -> "S3Client":
        """Made for the first rejection: as long as there is none, it would be six megabytes for nothing."""
        return boto3.client("s3", config=_single_tries())

    def store(self, key: str, body: bytes, deadline: Deadline) -> str | None:
        """Write an object under the prefix, trying again where that may help.

        Return None once S3 holds it; where it does not, what S3 or the SDK calls the reason.
        """
        try:
            client = self._client
        except (BotoCoreError, ValueError) as error:
            return error_name(error)  # of the SDK's settings, which no wait cures
        reason = OUT_OF_TIME
        for tries in range(MAX_FRUITLESS_TRIES):
            wait = backoff(tries)
            if wait + LEAST_REQUEST_SECONDS > deadline.left():
                break
            time.sleep(wait)
            try:
                in_time(lambda: client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=body), deadline)
            except MemoryError:
                raise
            except Exception as error:
                reason = error_name(error)
                if not is_curable(error):
                    break
            else:
                return None
        return reason


def in_time(call: Callable[[], Answer], deadline: Deadline) -> Answer:
    """Return what the call returns, unless that takes longer than one request may.

    The SDK's timeouts bound one wait for the other side, not the whole: looking up a name has none, and an answer that
    drips never runs into one. The call that is left behind ends by itself, and what it returns counts for nothing.

    Raises:
        TimeoutError: where it takes longer. Whatever the call raises is raised too.
    """
    future: Future[Answer] = Future()
    threading.Thread(target=_settle, args=(future, call), daemon=True).start()
    return future.result(min(REQUEST_SECONDS, max(LEAST_REQUEST_SECONDS, deadline.left() * REQUEST_SHARE)))


def _settle(future: "Future[Answer]", call: Callable[[], Answer]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _single_tries() -> Config:
    """Return the SDK's settings: the retries are our own, which know entries and the time that is left.

    Parameters are not checked: what we put is of one form, and looking at each entry takes longer than putting it.
    """
    return Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=REQUEST_SECONDS,
        parameter_validation=False,
    )


def error_name(error: Exception) -> str:
    """Return what AWS or the SDK calls an error; never nothing, as an odd answer might."""
    code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
    return code or type(error).__name__


def is_curable(error: Exception) -> bool:
    """Return whether a moment's wait may cure an error of a whole request."""
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or status in RETRIED_STATUSES or error_name(error) in RETRIED_CODES
    # What is not the SDK's own is what it stumbles over in an answer that was cut off, or that is none of AWS's.
    return isinstance(error, RETRIED_SDK_ERRORS) or not isinstance(error, BotoCoreError)


def _error_code(result: Any) -> str | None:
    """Return the error of an entry's result; None only where Kinesis says that it holds the entry."""
    if isinstance(result, dict) and result.get("SequenceNumber") and not result.get("ErrorCode"):
        return None
    return str((isinstance(result, dict) and result.get("ErrorCode")) or "NoSequenceNumber")


def first_of_each_key(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return the first entry of each partition key, and those that have to wait behind one, each in order."""
    first: dict[str, Entry] = {}
    held_back = [entry for entry in entries if first.setdefault(entry.partition_key, entry) is not entry]
    return list(first.values()), held_back


def chunked(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut the entries, in order, into requests of at most ``MAX_ENTRIES`` and ``MAX_REQUEST_BYTES``."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry)
        if chunk and (len(chunk) == MAX_ENTRIES or size > MAX_REQUEST_BYTES):
            yield chunk
            chunk, size = [], len(entry)
        chunk.append(entry)
    if chunk:
        yield chunk


def backoff(tries: int) -> float:
    """Return the seconds to wait after so many tries: full jitter, so that many functions do not come back at once."""
    if tries == 0:
        return 0.0
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**tries))  # noqa: S311
