"""What ./scripts/drift prints: a table of the tests and sentences for people, or a document for JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from baselines import DISTANCE, HOUR, PICKUP, PREDICTION, RATIO, Baseline
from drift import Finding
from scripts.cli import printable
from scripts.models.error_estimates import CONFIDENCE, EstimateCheck
from scripts.watching.judging import JudgedWindow

NUMBERS = {
    DISTANCE: "below {:.4g} miles",
    RATIO: "below {:.4g} × usual",
    PREDICTION: "predictions below {:.3g}",
    HOUR: "before {:g}:00",
}
"""The rides of the share, for the tests of numbers."""
MOST_ERRORS = 5
"""The number of tests of errors that are shown: the ones with the largest excess."""
_console = Console()


def as_document(judged: JudgedWindow) -> dict[str, Any]:
    """Return the verdict and all that it is made of as a value for JSON."""
    window, model = judged.window, judged.model
    baseline = model.baseline
    check = judged.check
    return {
        "verdict": judged.verdict,
        "reason": judged.reason,
        "sentences": judged.sentences,
        "model": {"location": model.location, "version": model.version, "baseline": model.bins.name},
        "target": baseline.target,
        "unit": baseline.unit,
        "source": window.source,
        "notes": window.notes,
        "rides": window.counts.rides,
        "without_distance": window.counts.without_distance,
        "rejected": window.counts.rejected,
        "tests": [{**asdict(one), "excess": one.excess, "place": name_place(one, baseline)} for one in judged.findings],
        "estimate": judged.estimate and asdict(judged.estimate),
        "errors": [{**asdict(one), "excess": one.excess} for one in judged.errors],
        "no_errors": judged.no_errors,
        "check": {**asdict(check), "holds": check.holds, "confidence": CONFIDENCE} if check else None,
    }


def show(judged: JudgedWindow) -> None:
    """Print the verdict and all that it is made of."""
    for line in describe_window(judged):
        _print_line(line)
    if judged.findings:
        columns = (Column(name, justify="right") for name in ("share", "usual", "of its limit"))
        table = Table("test", Column("rides", overflow="fold"), *columns)
        for name, place, *numbers in rows_of_tests(judged):
            table.add_row(name, place, *numbers)
        _console.print(table)
    if judged.errors:
        heads = ("rides", "mean error", "mean prediction", "of its limit")
        title = f"Actual minus predicted, {judged.model.baseline.unit}"
        table = Table("rides of", *(Column(name, justify="right") for name in heads), title=title, title_justify="left")
        for row in rows_of_errors(judged)[:MOST_ERRORS]:
            table.add_row(*row)
        _console.print(table)
    for line in (*describe_errors(judged), *(f"- {one}" for one in judged.sentences), explain_verdict(judged)):
        _print_line(line)


def describe_window(judged: JudgedWindow) -> list[str]:
    """Return lines about the rides and their source."""
    counts, model = judged.window.counts, judged.model
    rides = (
        f"{counts.rides + counts.without_distance:,} predicted rides, {counts.without_distance:,} of them of 0 miles"
    )
    return [
        f"{judged.window.source}: {rides}; {counts.rejected:,} rejected",
        f"compared with the {model.baseline.rides:,} training rides of {model.location}, version {model.version}",
        *(f"- {note}" for note in judged.window.notes),
    ]


def rows_of_tests(judged: JudgedWindow) -> list[list[str]]:
    """Return a row for each test of the counts: its name, the rides of the share, the shares, and the excess."""
    return [
        [
            one.name.replace("_", " "),
            name_place(one, judged.model.baseline),
            f"{one.share:.2%}",
            f"{one.usual:.2%}",
            _as_excess(one.excess),
        ]
        for one in judged.findings
    ]


def name_place(finding: Finding, baseline: Baseline) -> str:
    """Return which rides a finding's share has, such as "below 3 miles"; empty if the test's name says it."""
    if finding.name == PICKUP:
        return f"zone {baseline.pickup_zones[finding.place]}"
    form = NUMBERS.get(finding.name)
    return form.format(baseline.edges[finding.name][finding.place]) if form else ""


def rows_of_errors(judged: JudgedWindow) -> list[list[str]]:
    """Return a row for each test of the errors: the zone, its rides, the mean error and prediction, and the excess."""
    return [
        [
            one.name.replace("_", " ") + (f" {one.zone}" if one.zone is not None else ""),
            f"{one.rides:,}",
            f"{one.difference:+.2f}",
            f"{one.predicted:.2f}",
            _as_excess(one.excess),
        ]
        for one in judged.errors
    ]


def describe_errors(judged: JudgedWindow) -> list[str]:
    """Return lines about the errors: estimated, measured, or why they are not judged."""
    unit = judged.model.baseline.unit
    lines = []
    if judged.check:
        lines += _describe_check(judged.check, unit)
    elif judged.estimate:
        lines.append(
            f"Estimated errors of {judged.estimate.rides:,} rides: MAE {judged.estimate.mae:.3f}, RMSE"
            f" {judged.estimate.rmse:.3f} {unit}, if the model is as good as in validation"
        )
    if judged.no_errors:
        lines.append(f"The errors are not judged: {judged.no_errors}")
    return lines


def _describe_check(check: EstimateCheck, unit: str) -> list[str]:
    estimate, measured = check.estimate, check.measured
    word = "inside" if check.holds else "outside"
    lines = [
        f"Errors of {estimate.rides:,} rides whose actual value is known: MAE {measured.mae:.3f}, RMSE"
        f" {measured.rmse:.3f} {unit}",
        f"Estimated without the actual values: MAE {estimate.mae:.3f}, RMSE {estimate.rmse:.3f}; the measured MAE is"
        f" {word} the range of {CONFIDENCE:.0%} of such windows, {check.low:.3f} to {check.high:.3f}",
    ]
    if check.unusual:
        lines.append(
            f"- {check.unusual:,} rides are left out of these errors because models are not trained on such rides"
        )
    return lines


def explain_verdict(judged: JudgedWindow) -> str:
    """Return the verdict and its reason."""
    tests = judged.excesses
    if judged.verdict == "too few rides":
        return f"Verdict: {judged.verdict}: {judged.reason}"
    if judged.verdict == "drift":
        return f"Verdict: drift: {len(judged.sentences)} of {len(tests)} tests are beyond their limits"
    largest = _as_excess(max(tests))
    return f"Verdict: no drift: the largest of {len(tests)} tests is at {largest} of its limit"


def _as_excess(excess: float) -> str:
    # A share that is far on the good side is below 0.
    return f"{max(excess, 0.0):.2f}"


def _print_line(text: str) -> None:
    # People copy from these lines, so they are neither wrapped nor coloured.
    _console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
