"""The rides in log lines of the function: each invocation writes their counts into its line of metrics."""

import contextlib
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec
from msgspec import Struct

from ride_counts import KEY, RideCounts
from scripts.cli import STDOUT, CommandError
from scripts.watching.windows import WatchedModel, Window, choose_counts

CONTINUED = (" ", "\t", "}", "]")
"""How a line begins that belongs to the line before: ``aws logs`` prints JSON over several lines."""

JSON = re.compile(r'[{[]\s*["{[]')
"""The start of an object with members, or of a list of texts, objects or lists."""
DECODER = json.JSONDecoder()
"""Unlike msgspec, it tells where a value ends: ``--output text`` puts tabs and more behind it."""


class _Line(Struct):
    """A line of metrics, for which CloudWatch takes lists of values."""

    counts: RideCounts = msgspec.field(name=KEY)
    undelivered: list[float] = msgspec.field(name="Undelivered", default_factory=list)


def read_log(names: Iterable[str], model: WatchedModel) -> Window:
    """Return the rides that the lines of files count; ``-`` is stdin. Raises CommandError if there are none."""
    found: list[_Line] = []
    damaged = 0
    names = list(dict.fromkeys(names))  # each file counts once
    for name in names:
        for text in _join(_read(name)):
            lines = list(_parse(text))
            found += lines
            damaged += not lines and KEY in text
    place = " and ".join("stdin" if name == STDOUT else name for name in names)
    if damaged and not found:
        raise CommandError(
            f"{place}: {damaged:,} lines have {KEY} and are not JSON, such as lines that were cut: give the lines as"
            " aws logs tail prints them"
        )
    if not found:
        raise CommandError(
            f"{place}: no line has {KEY}, which the function writes into its metrics if its model has a baseline: give"
            " the function's log, without a filter that leaves these lines out"
        )
    total, notes = choose_counts(model, [line.counts for line in found], place)
    notes.insert(0, f"{len(found):,} lines of metrics are added up")
    if again := sum(any(line.undelivered) for line in found):
        notes.append(
            f"{again:,} of them left records undelivered: Lambda delivered these records again, and a ride that was"
            " counted in both deliveries counts twice here"
        )
    if damaged:
        notes.append(
            f"{damaged:,} lines have {KEY} and are not JSON, for example because they were cut off: they are left out"
        )
    return Window(f"log lines of {place}", total, notes)


def _read(name: str) -> Iterator[str]:
    """Yield the lines of a file."""
    if name == STDOUT:
        # Bytes that are not UTF-8 are in lines that are skipped.
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        yield from sys.stdin
        return
    try:
        # CloudWatch compresses what it exports to S3.
        opener = gzip.open if name.endswith(".gz") else Path.open
        with cast(TextIO, opener(Path(name), "rt", encoding="utf-8", errors="replace")) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        # gzip's errors have no number.
        raise CommandError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _join(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, each with the lines that continue it."""
    parts: list[str] = []
    for line in lines:
        if not line.startswith(CONTINUED) and parts:
            yield "".join(parts)
            parts = []
        parts.append(line)
    yield "".join(parts)


def _parse(text: str) -> Iterator[_Line]:
    """Yield the lines of metrics in a line of a log, or in a page of events; whatever is not JSON is skipped."""
    start = JSON.search(text) if KEY in text else None
    while start:
        try:
            value, end = DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            end = start.end() - 1
        else:
            yield from _find(value)
        start = JSON.search(text, end)


def _find(value: Any) -> Iterator[_Line]:
    """Yield the lines of metrics in a value of JSON, and in the texts that it has, as pages of events have them."""
    if isinstance(value, str):
        yield from _parse(value)
    elif isinstance(value, dict) and KEY in value:
        with contextlib.suppress(msgspec.ValidationError):
            yield msgspec.convert(value, _Line)
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _find(part)
