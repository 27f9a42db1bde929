"""The faults that the chaos endpoint can do to a call, and how often it does them."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Operation = Literal["PutRecords", "PutObject"]
"""The operations that can fail. All other calls pass through unchanged."""

EntryErrorCode = Literal["ProvisionedThroughputExceededException", "InternalFailure"]
"""The error codes of an entry that Kinesis did not accept (API reference, PutRecordsResultEntry)."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that can fail: call ``number`` of its operation, counted from 0.

    ``entries`` are the entries of a PutRecords call as JSON has them, with ``Data`` in base64. ``key`` is the bucket
    and the key of a PutObject call: ``bucket/a/key``.
    """

    operation: Operation
    number: int
    entries: Sequence[Mapping[str, Any]] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class FailedEntries:
    """The entries at these indexes of a PutRecords call fail with the code; the others are put.

    The ``label`` of a fault is its name in a count of faults, a format string whose argument is the fault.
    """

    label: ClassVar[str] = "entries answered {0.code}"
    indexes: frozenset[int]
    code: EntryErrorCode = "ProvisionedThroughputExceededException"


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """Nothing is applied, and the response is an error in the form of Kinesis or S3."""

    label: ClassVar[str] = "answered {0.status} {0.code}"
    status: int
    code: str


@dataclass(frozen=True, slots=True)
class DroppedBefore:
    """Nothing is applied, and the connection is closed without a response."""

    label: ClassVar[str] = "dropped before it was applied"


@dataclass(frozen=True, slots=True)
class DroppedAfter:
    """The call is applied, but the connection is closed without a response."""

    label: ClassVar[str] = "dropped after it was applied"


@dataclass(frozen=True, slots=True)
class Delayed:
    """The call is applied at once, and its response comes after this many seconds."""

    label: ClassVar[str] = "answered late"
    seconds: float


@dataclass(frozen=True, slots=True)
class Dripping:
    """Nothing is applied; the response begins, and one byte of its body follows every second, without end."""

    label: ClassVar[str] = "answered a byte at a time"


@dataclass(frozen=True, slots=True)
class Answered:
    """Nothing is applied, and the response has status 200 and this body."""

    label: ClassVar[str] = "answered with another body"
    body: bytes


Fault = FailedEntries | FailedRequest | DroppedBefore | DroppedAfter | Delayed | Dripping | Answered

Decide = Callable[[Call], Fault | None]
"""Returns the fault for a call, or None to let the call through. Calls are decided one at a time, by number."""


def no_fault(call: Call) -> Fault | None:  # noqa: ARG001 - a Decide takes the call
    """Let every call through."""
    return None


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each fault happens, from 0 (never) to 1 (always).

    A PutRecords call gets one fault of the whole request or none. If it gets none, each of its entries is throttled at
    the rate ``throttled_entries``. PutObject calls fail at the rate ``failed_s3_puts`` alone.
    """

    throttled_entries: float = 0.0
    throttled_requests: float = 0.0
    server_errors: float = 0.0
    dropped_before: float = 0.0
    dropped_after: float = 0.0
    delayed: float = 0.0
    failed_s3_puts: float = 0.0
    delay_seconds: float = 0.0


HARD = Rates(
    throttled_entries=0.3,
    throttled_requests=0.05,
    server_errors=0.05,
    dropped_before=0.05,
    dropped_after=0.05,
    delayed=0.05,
    failed_s3_puts=0.05,
    delay_seconds=2.0,
)
"""Far worse than AWS on its worst day. Clients with a read timeout under two seconds lose the late responses too."""


def seeded(rates: Rates, seed: int) -> Decide:
    """Return a function that draws faults at these rates.

    The fault depends only on the seed and on the call's operation, number and count of entries. So call number n gets
    the same fault in every run with the same seed, whatever other calls came between.
    """

    def decide(call: Call) -> Fault | None:
        draw = random.Random(f"{seed} {call.operation} {call.number}")
        if call.operation == "PutObject":
            return _draw_s3_fault(rates, draw)
        return _draw_request_fault(rates, draw) or _draw_entries_fault(rates, draw, len(call.entries))

    return decide


def _draw_s3_fault(rates: Rates, draw: random.Random) -> Fault | None:
    if draw.random() >= rates.failed_s3_puts:
        return None
    faults: list[Fault] = [FailedRequest(500, "InternalError"), FailedRequest(503, "SlowDown"), DroppedBefore()]
    return draw.choices(faults, [1, 1, 2])[0]


def _draw_request_fault(rates: Rates, draw: random.Random) -> Fault | None:
    weights: dict[Fault | None, float] = {
        FailedRequest(400, "ProvisionedThroughputExceededException"): rates.throttled_requests,
        FailedRequest(500, "InternalFailure"): rates.server_errors / 2,
        FailedRequest(503, "ServiceUnavailable"): rates.server_errors / 2,
        DroppedBefore(): rates.dropped_before,
        DroppedAfter(): rates.dropped_after,
        Delayed(rates.delay_seconds): rates.delayed,
    }
    weights[None] = 1 - math.fsum(weights.values())
    return draw.choices(list(weights), list(weights.values()))[0]


def _draw_entries_fault(rates: Rates, draw: random.Random, count: int) -> Fault | None:
    indexes = frozenset(index for index in range(count) if draw.random() < rates.throttled_entries)
    return FailedEntries(indexes) if indexes else None
