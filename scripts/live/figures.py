"""The figures of one consumer on the live page: rates, latency, reasons, and actual against predicted values."""

import base64
import math
import re
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from rides import Ride
from scripts.live.ledger import Outcomes
from targets import Target
from trips import is_usual

SECONDS, RATE_SECONDS = 60, 5
"""A rate's chart shows this many seconds; the rate itself is the mean of the last ones."""
LATEST = 2_000
"""The percentiles of the latency are over this number of predictions, the last ones."""
REASONS = 50
"""The number of reasons that are counted separately. A producer could cause any number of different reasons."""
MAX_REASON = 160
"""A longer reason is cut off: a name that a producer chose may be in it."""
OTHER = "other reasons"
CELLS = 48
"""Rows and columns of the density of actual and predicted values."""
_PLACES = re.compile(r" ?\(byte \d+\)| at byte \d+| \(char \d+\)")
"""Where in the data an error is. Without it, rejections for the same reason have the same text."""


class Rate:
    """Counts events in each second of the last minute."""

    def __init__(self) -> None:
        """Begin without events."""
        self._counts: Counter[int] = Counter()

    def add(self, at: float, number: int = 1) -> None:
        """Count events at this time, in seconds since the epoch."""
        self._counts[int(at)] += number

    def latest(self, until: float) -> list[int]:
        """Return the counts of the last whole seconds before a time, oldest first, and forget older ones.

        The time is the one until which all was counted. If it were now, a page that reads late would show rates of 0.
        """
        first = int(until) - SECONDS
        for second in [one for one in self._counts if one < first]:
            del self._counts[second]
        return [self._counts[second] for second in range(first, int(until))]


class RunningErrors:
    """How far predictions are from actual values, over the rides that models are trained on."""

    def __init__(self, target: Target) -> None:
        """Begin without rides; the density's axes go from 0 to the largest value of the target."""
        self._target = target
        self.known = 0
        """Predicted rides whose actual value is known, the unusual ones too."""
        self._rides = 0
        self._absolute = self._squares = 0.0
        self._cells = np.zeros((CELLS, CELLS), np.int64)
        self._scale = CELLS / math.log1p(target.most)

    def add(self, ride: Ride, actual: float, predicted: float) -> None:
        """Add a predicted ride."""
        self.known += 1
        if is_usual(ride, actual, self._target):
            self._rides += 1
            self._absolute += abs(predicted - actual)
            self._squares += (predicted - actual) ** 2
            self._cells[self._cell(predicted), self._cell(actual)] += 1

    def _cell(self, value: float) -> int:
        return min(CELLS - 1, int(math.log1p(max(0.0, value)) * self._scale))

    def summary(self) -> dict[str, Any] | None:
        """Return the errors and the density for the page; None if no ride has an actual value."""
        if not self._rides:
            return None
        levels = np.log1p(self._cells) / np.log1p(self._cells.max()) * 255
        return {
            "rides": self._rides,
            "known": self.known,
            "mae": self._absolute / self._rides,
            "rmse": math.sqrt(self._squares / self._rides),
            "least": self._target.least,
            "most": self._target.most,
            "unit": self._target.unit,
            "density": base64.b64encode(levels.astype(np.uint8).tobytes()).decode(),
        }


class Figures:
    """The figures of one consumer, for the records that were read so far."""

    def __init__(self, target: Target | None) -> None:
        """Begin without rides. Without a target, no actual values can be known."""
        self.outcomes = Outcomes()
        self.duplicates = 0
        """Predictions that repeat the event id of another."""
        self.errors = RunningErrors(target) if target else None
        self._rate = Rate()
        self._latencies: deque[float] = deque(maxlen=LATEST)
        self._reasons: Counter[tuple[str, str]] = Counter()

    def predicted(self, arrived: float, came_in: float) -> None:
        """Count the first prediction of a ride, and when both arrived, in seconds since the epoch."""
        self._rate.add(arrived)
        self._latencies.append(arrived - came_in)

    def rejected(self, kind: str, reason: str) -> None:
        """Count a rejected ride."""
        key = (kind, _PLACES.sub("", reason)[:MAX_REASON])
        self._reasons[key if key in self._reasons or len(self._reasons) < REASONS else (kind, OTHER)] += 1

    def summary(self, rides: int, until: float) -> dict[str, Any]:
        """Return the figures for the page. ``rides`` came in, and all predictions before ``until`` were counted."""
        counts = self._rate.latest(until)
        latencies = sorted(self._latencies)
        return {
            "predicted": self.outcomes.predicted,
            "rejected": self.outcomes.rejected,
            "given_up": self.outcomes.given_up,
            "behind": rides - self.outcomes.settled - self.outcomes.given_up,
            "duplicates": self.duplicates,
            "rate": mean_rate(counts),
            "rates": counts,
            "p50": percentile(latencies, 50),
            "p95": percentile(latencies, 95),
            "reasons": [[kind, reason, number] for (kind, reason), number in self._reasons.items()],
            "errors": self.errors.summary() if self.errors else None,
        }


def mean_rate(counts: Sequence[int]) -> float:
    """Return the mean of the last seconds' counts."""
    return sum(counts[-RATE_SECONDS:]) / RATE_SECONDS


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the value within which ``percent`` of the ordered values stay (nearest rank)."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None
