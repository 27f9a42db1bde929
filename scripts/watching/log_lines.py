"""The rides in log lines of the function: each invocation writes their counts into its line of metrics."""

import gzip
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO, cast

import msgspec
from msgspec import Struct

from ride_counts import KEY, RideCounts
from scripts.cli import STDOUT, CommandError
from scripts.watching.windows import WatchedModel, Window, choose_counts

CONTINUED = (" ", "\t", "}", "]")
"""How a line begins that belongs to the line before: ``aws logs`` prints JSON over several lines."""

JSON = re.compile(r'\{\s*"')
"""The start of an object with members."""


class _Event(Struct):
    message: str


class _Document(Struct):
    """A line of metrics, for which CloudWatch takes lists of values, or what ``aws logs filter-log-events`` prints."""

    counts: RideCounts | None = msgspec.field(name=KEY, default=None)
    undelivered: list[float] = msgspec.field(name="Undelivered", default_factory=list)
    events: list[_Event] = []


def read_log(names: Iterable[str], model: WatchedModel) -> Window:
    """Return the rides that the lines of files count; ``-`` is stdin. Raises CommandError if no line has counts."""
    found: list[_Document] = []
    damaged = 0
    names = list(names)
    for name in names:
        with _open(name) as file:
            for text in _join(file):
                lines = list(_parse(text))
                found += lines
                damaged += not lines and f'"{KEY}"' in text
    place = " and ".join("stdin" if name == STDOUT else name for name in names)
    counts = [line.counts for line in found if line.counts]
    if not counts:
        raise CommandError(
            f"{place}: no line has {KEY}, which the function writes into its metrics if its model has a baseline: give"
            " the function's log, without a filter that leaves these lines out"
        )
    total, notes = choose_counts(model, counts, place)
    notes.insert(0, f"{len(counts):,} lines of metrics are added up")
    if again := sum(any(line.undelivered) for line in found if line.counts):
        notes.append(
            f"{again:,} of them left records undelivered: Lambda delivered these records again, and a ride that was"
            " counted in both deliveries counts twice here"
        )
    if damaged:
        notes.append(
            f"{damaged:,} lines have {KEY} and are not JSON, for example because they were cut off: they are left out"
        )
    return Window(f"log lines of {place}", total, notes)


def _open(name: str) -> AbstractContextManager[TextIO]:
    if name == STDOUT:
        # Bytes that are not UTF-8 are in lines that are skipped.
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        return nullcontext(sys.stdin)
    try:
        # CloudWatch compresses what it exports to S3.
        opener = gzip.open if name.endswith(".gz") else Path.open
        return cast(TextIO, opener(Path(name), "rt", encoding="utf-8", errors="replace"))
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error


def _join(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, each with the lines that continue it."""
    parts: list[str] = []
    for line in lines:
        if not line.startswith(CONTINUED) and parts:
            yield "".join(parts)
            parts = []
        parts.append(line)
    yield "".join(parts)


def _parse(text: str) -> Iterator[_Document]:
    """Yield the metrics lines in a line of a log, or in a page of events. Text before the JSON is skipped."""
    start = JSON.search(text) if KEY in text else None
    if not start:
        return
    try:
        document = msgspec.json.decode(text[start.start() :], type=_Document)
    except (ValueError, RecursionError):
        return
    if document.counts:
        yield document
    for event in document.events:
        yield from _parse(event.message)
