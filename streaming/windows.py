"""Drift as the function sees it: the rides of a sandbox, judged a window at a time."""

import threading
from collections.abc import Mapping

from drift import Shares, find_usual_shares, judge
from ride_counts import Counter

RIDES = 2_000
"""The number of rides in a window. A sandbox that ends does not judge the window that it has begun."""


class DriftWindows:
    """The rides that a sandbox has counted since it judged its last window."""

    def __init__(self) -> None:
        """Begin with no rides."""
        self._window: list[Counter] = []
        self._predicted = self._rejected = 0
        self._usual: Mapping[str, Shares] | None = None
        self._lock = threading.Lock()  # the local mapping invokes the function for several shards at once

    def add(self, counter: Counter) -> float | None:
        """Add the rides of an invocation. If they complete a window, return its drift, and begin the next window.

        The drift is the excess of the worst finding of ``drift.judge``.
        """
        with self._lock:
            # Adding them up here would take longer for each invocation than once for all.
            self._window += [counter] if counter.predicted or counter.rejected else []
            self._predicted += counter.predicted
            self._rejected += counter.rejected
            # Rejected rides alone complete a window too: they may be the drift.
            if max(self._predicted, self._rejected) < RIDES:
                return None
            window, self._window = self._window, []
            self._predicted = self._rejected = 0
        every = Counter(counter.bins)
        for one in window:
            every.merge(one)
        baseline = counter.bins.baseline
        self._usual = self._usual or find_usual_shares(baseline)
        findings = judge(baseline, every.total(), self._usual)
        return findings[0].excess if findings else None
