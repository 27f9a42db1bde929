"""The faults that the chaos endpoint can do to a call, and how often it does them."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Operation = Literal["PutRecords", "PutObject", "other"]
"""The operations that can fail. All other calls pass through unchanged, unless the endpoint decides on them too."""
THROTTLED = "ProvisionedThroughputExceededException"
"""The error code of an entry or a request that exceeds the throughput of its shard (API reference, PutRecords)."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that can fail: call ``number`` of its operation, counted from 0.

    ``entries`` are the entries of a PutRecords call as JSON has them, with ``Data`` in base64. ``key`` is the bucket
    and the key of a PutObject call, or of another one of S3: ``bucket/a/key``.
    """

    operation: Operation
    number: int
    entries: Sequence[Mapping[str, Any]] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class FailedEntries:
    """The entries at these indexes of a PutRecords call are throttled; the others are put.

    The ``label`` of a fault is its name in a count of faults, a format string whose argument is the fault.
    """

    label: ClassVar[str] = f"entries answered {THROTTLED}"
    indexes: frozenset[int]


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


def seeded(seed: int, delay_seconds: float) -> Decide:
    """Return a function that draws faults far more often than AWS on its worst day has them.

    Each of the five faults of a whole PutRecords request has a rate of 5 %; in the other requests, 30 % of the entries
    are throttled. Of the PutObject calls 5 % fail. Late responses come after ``delay_seconds``.

    The fault depends only on the seed and on the call's operation, number and count of entries. So call number n gets
    the same fault in every run with the same seed, whatever other calls came between.
    """
    of_requests: dict[Fault | None, float] = {
        FailedRequest(400, THROTTLED): 0.05,
        FailedRequest(500, "InternalFailure"): 0.025,
        FailedRequest(503, "ServiceUnavailable"): 0.025,
        DroppedBefore(): 0.05,
        DroppedAfter(): 0.05,
        Delayed(delay_seconds): 0.05,
        None: 0.75,
    }
    of_objects: dict[Fault | None, float] = {
        FailedRequest(500, "InternalError"): 0.0125,
        FailedRequest(503, "SlowDown"): 0.0125,
        DroppedBefore(): 0.025,
        None: 0.95,
    }

    def decide(call: Call) -> Fault | None:
        draw = random.Random(f"{seed} {call.operation} {call.number}")
        rates = of_objects if call.operation == "PutObject" else of_requests
        if fault := draw.choices(list(rates), list(rates.values()))[0]:
            return fault
        indexes = frozenset(index for index in range(len(call.entries)) if draw.random() < 0.3)
        return FailedEntries(indexes) if indexes else None

    return decide


class Switch:
    """Draws faults with a function while it is on. Any thread may switch it."""

    def __init__(self, decide: Decide, *, is_on: bool) -> None:
        """Keep the function that draws the faults. The switch begins in the position ``is_on``."""
        self.is_on = is_on
        self.count = 0
        """The number of calls that got a fault."""
        self._decide = decide

    def __call__(self, call: Call) -> Fault | None:
        """Return the fault for a call; None while the switch is off."""
        fault = self._decide(call) if self.is_on else None
        self.count += fault is not None
        return fault
