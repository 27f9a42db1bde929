"""Delivery within the invocation's time: PutRecords to the output stream, and objects to the failures bucket."""

import functools
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from botocore import exceptions as sdk
from botocore.config import Config
from msgspec import Struct

import clients
from arns import stream_parameter
from streaming.connections import make_closable
from streaming.records import Rejection, rejections_objects
from streaming.requests import run_side_by_side
from streaming.wire import speed_up_put_records

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

MAX_ENTRIES = 500
"""The most entries that one PutRecords takes (API reference, PutRecords)."""

MAX_REQUEST_BYTES = 4_718_592
"""4.5 MiB of data and keys a request. AWS takes 10 MiB now and took 5 MiB until recently, so this passes everywhere."""

MAX_ENTRY_BYTES = 1_048_576
"""1 MiB of data and key an entry: the most that a stream takes unless its MaxRecordSize was raised."""

MAX_IN_FLIGHT = 10
"""The most requests of one batch in flight side by side: the SDK keeps as many connections by default.

They hold 5,000 entries, which five shards take in a second (a shard takes 1,000 entries or 1 MB a second), so more
requests would be throttled instead of being faster. Each request has its body in memory, up to 6 MiB of base64.
"""

MAX_ATTEMPTS_WITHOUT_PROGRESS = 8
"""Give up after this many attempts in a row with no entry accepted, about six seconds of waits. Lambda redelivers."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 3.0

MARGIN_SECONDS, MARGIN_SHARE = 1.0, 0.2
"""The part of the invocation's time that is reserved for responding: a second, or a fifth of a short time."""

REQUEST_SECONDS, REQUEST_SHARE = 5.0, 1 / 3
"""The most that one request may take: five seconds, or a third of the time left if that is less, for a retry to fit."""

BYTES_PER_SECOND = 1_048_576
"""An object gets another second for each MiB, because S3 may take it no faster."""

MIN_REQUEST_SECONDS = 0.25
"""A request usually needs this long. No request is started with less time left, and no request gets less."""

SDK_CONFIG = Config(
    retries={"total_max_attempts": 1},
    connect_timeout=1.0,
    read_timeout=REQUEST_SECONDS,
    max_pool_connections=MAX_IN_FLIGHT,
    parameter_validation=False,
)
"""The SDK does not retry, because only this module knows the entries and the time that is left. It does not validate
parameters, because all entries are made here in one form, and validating an entry takes longer than putting it."""

S3_CONFIG = SDK_CONFIG.merge(Config(connect_timeout=60.0, read_timeout=60.0))
"""``request_seconds`` limits the time of an object by its size. The SDK's connect timeout is also the time for sending
the whole body, and one second would be too short for a large one."""

RETRIED_STATUSES = {408, 409, 425, 429}
"""HTTP statuses that are retried, besides every status from 500 on."""

# fmt: off
RETRIED_CODES = {
    "BadDigest", "BandwidthLimitExceeded", "IncompleteBody", "InternalFailure", "InternalServerError",
    "KMSThrottlingException", "LimitExceededException", "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException",
    "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "SlowDown", "ThrottledException", "Throttling",
    "ThrottlingException", "TooManyRequestsException", "XAmzContentSHA256Mismatch",
}
# fmt: on
"""Errors of a whole request that may pass (API references of PutRecords and of S3, common errors)."""

RETRIED_SDK_ERRORS = (
    *(sdk.ConnectionError, sdk.HTTPClientError, sdk.IncompleteReadError),
    *(sdk.CredentialRetrievalError, sdk.MetadataRetrievalError),
)
"""Errors of the SDK itself that may pass. All others mean that it is configured wrongly."""

OUT_OF_TIME = "OutOfTime"
"""The error's name if a request was not started because too little time was left."""


class Context(Protocol):
    """The part of the Lambda context that is used."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends the invocation."""


class DeliveryError(Exception):
    """No request of this invocation can succeed, and no retry would change that. The message says what to check."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the name that AWS or the SDK gives the error as ``code``."""
        self.code = code
        super().__init__(message)


class Deadline:
    """The moment by which a step must be over. Without a Lambda context there is no such moment."""

    def __init__(self, seconds: float = math.inf) -> None:
        """Set the deadline to ``seconds`` from now."""
        self._at = time.monotonic() + seconds

    @classmethod
    def of(cls, context: Context | None) -> "Deadline":
        """Return the deadline of an invocation: the end of its time, minus a margin."""
        if context is None:
            return cls()
        left = context.get_remaining_time_in_millis() / 1000
        return cls(left - min(MARGIN_SECONDS, left * MARGIN_SHARE))

    def left(self) -> float:
        """Return the seconds left; zero or less if the time is over."""
        return self._at - time.monotonic()

    def is_over(self) -> bool:
        """Return whether no time is left."""
        return self.left() <= 0

    def reserving(self, share: float, most: float = math.inf) -> "Deadline":
        """Return an earlier deadline that reserves this share of the time left, at most ``most`` seconds, for later."""
        left = self.left()
        return Deadline() if left == math.inf else Deadline(left - min(most, left * share))


class Entry(Struct, frozen=True, gc=False):
    """An entry for PutRecords, with the sequence number of the input record that it comes from."""

    sequence_number: str
    partition_key: str
    data: bytes

    @property
    def size(self) -> int:
        """The bytes that the entry counts in a request: data and partition key."""
        key = self.partition_key
        return len(self.data) + (len(key) if key.isascii() else len(key.encode()))


@dataclass(slots=True)
class Delivery:
    """The result of putting entries: the entries that Kinesis has not accepted, the retries and the errors."""

    undelivered: list[Entry] = field(default_factory=list)
    put_again: int = 0
    """How often an entry was put again."""
    errors: Counter[str] = field(default_factory=Counter)
    """How often an entry failed, over all attempts, by the name that Kinesis or the SDK gives the error."""


class OutputStream:
    """The stream that predictions are put on."""

    def __init__(self, client: "KinesisClient", name: str) -> None:
        """Take a client that does not retry on its own, as ``connect`` makes it, and the stream's name or ARN."""
        self._client = client
        self._name = name
        self._parameter = stream_parameter(name)

    @classmethod
    def connect(cls, name: str) -> "OutputStream":
        """Return the stream with a name, in the SDK's account and region, or with an ARN. Raises SDKSettingsError."""
        return cls(speed_up_put_records(make_closable(clients.kinesis(name, SDK_CONFIG))), name)

    def put(self, entries: Sequence[Entry], deadline: Deadline) -> Delivery:
        """Put the entries and return which of them Kinesis has not accepted, in their order.

        Up to ``MAX_IN_FLIGHT`` requests are in flight side by side. A failed entry is put again until it is accepted,
        attempts bring no progress, or the time is over. If an entry remains undelivered, no later group of requests is
        sent, because Lambda redelivers their records anyway. Entries with one partition key are accepted in order: each
        entry is sent after the entry before it was accepted, because Kinesis promises no order within a request or
        between requests in flight.

        Raises:
            DeliveryError: if no wait can help, for example if there is no such stream or no permission.
        """
        delivery = Delivery()
        most = MAX_IN_FLIGHT
        done = 0
        while done < len(entries) and not delivery.undelivered:
            group = entries[done : done + most * MAX_ENTRIES]
            most = self._put_group(group, most, deadline, delivery)
            done += len(group)
        delivery.undelivered += entries[done:]
        return delivery

    def _put_group(self, group: Sequence[Entry], most: int, deadline: Deadline, delivery: Delivery) -> int:
        """Put entries with retries, at most ``most`` requests at once, and add the result to the delivery.

        Return the number of requests with which the next group may begin. A failure sets the number to 1, and each
        attempt without a failure doubles it. So a throttled stream gets one request at a time, because several requests
        side by side would only fail again.
        """
        pending = list(group)
        failed: set[int] = set()  # ids of entries, because two entries may be equal
        is_failing = False
        attempts = 0
        while pending and attempts < MAX_ATTEMPTS_WITHOUT_PROGRESS:
            # There is no wait if nothing failed, and the remaining entries only waited for an entry with their key.
            if not _wait(backoff(max(1, attempts)) if is_failing else 0.0, deadline):
                delivery.errors[OUT_OF_TIME] += len(pending)
                break
            requests = list(itertools.islice(split_into_requests(first_of_each_key(pending)), most))
            sent = set(map(id, itertools.chain(*requests)))
            delivery.put_again += len(failed & sent)
            failures = self._put_once(requests, deadline)
            delivery.errors.update(failures.values())
            accepted = sent - failures.keys()
            failed = (failed | failures.keys()) - accepted
            pending = [entry for entry in pending if id(entry) not in accepted]
            is_failing = bool(failures)
            attempts = 0 if accepted else attempts + 1
            most = 1 if is_failing else min(2 * most, MAX_IN_FLIGHT)
        delivery.undelivered = pending
        return most

    def _put_once(self, requests: Sequence[Sequence[Entry]], deadline: Deadline) -> dict[int, str]:
        """Send requests side by side; return the error's name for each entry that failed, by the id of the entry."""
        calls = [functools.partial(self._put_records, entries) for entries in requests]
        outcomes = run_side_by_side(calls, request_seconds(deadline))
        failures: dict[int, str] = {}
        for entries, outcome in zip(requests, outcomes, strict=True):
            codes = self._error_codes(entries, outcome)
            failures |= {id(entry): code for entry, code in zip(entries, codes, strict=True) if code}
        return failures

    def _put_records(self, entries: Sequence[Entry]) -> Any:
        """Send a request, in a worker's thread, and return the response."""
        records: Any = [{"Data": entry.data, "PartitionKey": entry.partition_key} for entry in entries]
        return self._client.put_records(**self._parameter, Records=records)

    def _error_codes(self, entries: Sequence[Entry], outcome: "Future[Any]") -> Sequence[str | None]:
        """Return the name of each entry's error, or None if Kinesis accepted it."""
        try:
            results = outcome.result()["Records"]
            return [_error_code(result) for _, result in zip(entries, results, strict=True)]
        except MemoryError:
            raise  # a retry would run out of memory too; Lambda redelivers the batch
        except Exception as error:
            # The message is left out, because Kinesis may quote a partition key there, which is a ride's id.
            name = error_name(error)
            if not is_retryable(error):
                what = f"PutRecords of {len(entries)} entries to {self._name} failed with {name}, and would again"
                check = "look at the stream's name and region, and at the function's role"
                raise DeliveryError(name, f"{what}: {check}") from error
            return [name] * len(entries)


class FailuresBucket:
    """The place in S3 where rejections are kept."""

    def __init__(self, location: str) -> None:
        """Take an ``s3://bucket/prefix`` URI, whose prefix may be empty. The SDK's variables name the account."""
        self._bucket, _, prefix = location.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    @functools.cached_property
    def _client(self) -> "S3Client":
        """The client, which is created with the first rejection because it takes six megabytes."""
        return make_closable(clients.s3(S3_CONFIG))

    def keep(self, rejections: Iterable[Rejection], deadline: Deadline) -> tuple[list[Rejection], str | None]:
        """Write the objects of the rejections; return the rejections that S3 does not hold and the error's name."""
        not_stored: list[Rejection] = []
        error = None
        for part in rejections_objects(rejections):
            error = error or self.store(part.key, part.body, deadline)
            if error:
                not_stored += part.rejections
        return not_stored, error

    def store(self, key: str, body: bytes | bytearray, deadline: Deadline) -> str | None:
        """Write an object under the prefix, with retries; return the name of the last error if S3 does not hold it."""
        try:
            client = self._client
        except (sdk.BotoCoreError, ValueError) as error:
            return error_name(error)  # the SDK is configured wrongly: no retry helps
        content: Any = body
        put_object = functools.partial(client.put_object, Bucket=self._bucket, Key=self._prefix + key, Body=content)
        reason = OUT_OF_TIME
        for attempt in range(MAX_ATTEMPTS_WITHOUT_PROGRESS):
            if not _wait(backoff(attempt), deadline):
                break
            try:
                (outcome,) = run_side_by_side([put_object], request_seconds(deadline, len(body)))
                outcome.result()
            except MemoryError:
                raise  # as in _error_codes
            except Exception as error:
                reason = error_name(error)
                if not is_retryable(error):
                    break
            else:
                return None
        return reason


def _wait(seconds: float, deadline: Deadline) -> bool:
    """Wait and return True, or return False at once if too little time for a request would be left afterwards."""
    if seconds + MIN_REQUEST_SECONDS > deadline.left():
        return False
    if seconds:
        time.sleep(seconds)
    return True


def request_seconds(deadline: Deadline, size: int = 0) -> float:
    """Return the most seconds that a request, with a body of ``size`` bytes, may take if it starts now."""
    most = REQUEST_SECONDS + size / BYTES_PER_SECOND
    return min(most, max(MIN_REQUEST_SECONDS, deadline.left() * REQUEST_SHARE))


def error_name(error: Exception) -> str:
    """Return the name that AWS or the SDK gives an error. It is never empty, even if the response has no code."""
    code = error.response.get("Error", {}).get("Code") if isinstance(error, sdk.ClientError) else None
    return code or type(error).__name__


def is_retryable(error: Exception) -> bool:
    """Return whether the same request may succeed a moment later."""
    if isinstance(error, sdk.ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or status in RETRIED_STATUSES or error_name(error) in RETRIED_CODES
    # Other exceptions come from parsing a truncated response, or one that is not from AWS. Retry those too.
    return isinstance(error, RETRIED_SDK_ERRORS) or not isinstance(error, sdk.BotoCoreError)


def _error_code(result: Any) -> str | None:
    """Return the error code of an entry's result; None only if Kinesis confirms that it holds the entry."""
    fields = result if isinstance(result, dict) else {}
    if fields.get("SequenceNumber") and not fields.get("ErrorCode"):
        return None
    return str(fields.get("ErrorCode") or "NoSequenceNumber")


def first_of_each_key(entries: Iterable[Entry]) -> list[Entry]:
    """Return the first entry of each partition key, in order. The key's other entries have to wait for it."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(entry.partition_key, entry)
    return list(first.values())


def split_into_requests(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Split the entries, in order, into requests of at most ``MAX_ENTRIES`` and ``MAX_REQUEST_BYTES``."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        size += entry.size
        if chunk and (len(chunk) == MAX_ENTRIES or size > MAX_REQUEST_BYTES):
            yield chunk
            chunk, size = [], entry.size
        chunk.append(entry)
    if chunk:
        yield chunk


def backoff(attempts: int) -> float:
    """Return the seconds to wait after ``attempts``, with full jitter, so that functions do not retry all at once."""
    most = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**attempts)
    return random.uniform(0, most) if attempts else 0.0  # noqa: S311
