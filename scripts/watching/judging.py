"""The verdict on a window: every test of its counts, and of its errors if actual values are known."""

from dataclasses import dataclass
from typing import Literal

from drift import Finding, explain_no_verdict, judge
from scripts.models.actual_errors import ErrorFinding, explain_no_error_verdict, judge_actuals
from scripts.models.drift_sizes import describe, describe_error
from scripts.models.error_estimates import ErrorEstimate, EstimateCheck, check_estimate, estimate_errors
from scripts.watching.windows import WatchedModel, Window

Word = Literal["no drift", "drift", "too few rides"]


@dataclass(frozen=True)
class JudgedWindow:
    """A window with the outcome of all tests."""

    model: WatchedModel
    window: Window
    reason: str | None
    """Why there is no verdict on the counts; None if there is one."""
    findings: list[Finding]
    """The tests of the counts, the largest excess first."""
    estimate: ErrorEstimate | None
    """The errors that the predictions are expected to have; None if there are no predictions."""
    errors: list[ErrorFinding]
    """The tests of the errors, of all rides and by zone, the largest excess first."""
    no_errors: str | None
    """Why there is no verdict on the errors; None if there is one."""
    check: EstimateCheck | None
    """The estimate for the rides whose actual value is known, beside their errors."""

    @property
    def excesses(self) -> list[float]:
        """The excess of each test."""
        return [one.excess for one in self.findings] + [one.excess for one in self.errors]

    @property
    def verdict(self) -> Word:
        """The verdict in a word or two."""
        if any(excess > 1 for excess in self.excesses):
            return "drift"
        return "too few rides" if self.reason else "no drift"

    @property
    def sentences(self) -> list[str]:
        """A sentence with sizes for each test that finds drift, without a full stop."""
        baseline, counts = self.model.baseline, self.window.counts
        found = [describe(one, baseline, counts) for one in self.findings if one.excess > 1]
        return found + [describe_error(one, baseline) for one in self.errors if one.excess > 1]


def judge_window(model: WatchedModel, window: Window) -> JudgedWindow:
    """Return the outcome of all tests that the window's source allows."""
    baseline, counts = model.baseline, window.counts
    rides = window.rides.as_actual_rides() if window.rides else None
    no_errors = "the source has no actual values"
    return JudgedWindow(
        model,
        window,
        explain_no_verdict(baseline, counts),
        judge(baseline, counts),
        estimate_errors(baseline, counts),
        judge_actuals(baseline, rides) if rides else [],
        explain_no_error_verdict(baseline, rides) if rides else no_errors,
        check_estimate(baseline, rides) if rides else None,
    )
