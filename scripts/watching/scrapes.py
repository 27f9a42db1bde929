"""The rides that a web service has counted: since its start, or between two texts of its /metrics."""

import http.client
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ride_counts import RideCounts
from scripts.cli import CommandError
from scripts.watching.windows import WatchedModel, Window, choose_counts
from web.ride_metrics import counts_from_metrics

TIMEOUT_SECONDS = 10
MAX_BYTES = 10_000_000
"""The text of a service has a tenth of a megabyte."""


def read_scrapes(places: Sequence[str], model: WatchedModel) -> Window:
    """Return the rides of one text of metrics, or the rides that were counted between two. Raises CommandError."""
    first, *later = places
    counts, notes = _read_counts(first, model)
    if not later:
        notes.insert(0, "these are all rides since the service started: give two texts for the rides between them")
    for place in later:
        total, more = _read_counts(place, model)
        try:
            counts = total - counts
        except ValueError as error:
            raise CommandError(f"{first} and {place}: {error}: give the earlier text first, of the same run") from error
        notes += more
    return Window(f"the metrics in {' and '.join(places)}", counts, notes)


def _read_counts(place: str, model: WatchedModel) -> tuple[RideCounts, list[str]]:
    try:
        found = counts_from_metrics(_read(place))
    except ValueError as error:
        raise CommandError(f"{place}: {error}") from error
    if not found:
        raise CommandError(
            f"{place}: no metric counts rides in bins: give the web service's /metrics, whose model has a baseline"
        )
    return choose_counts(model, found, place)


def _read(place: str) -> str:
    """Return the text of a file or of a URL."""
    try:
        if not place.startswith(("http://", "https://")):
            return Path(place).read_text(encoding="utf-8", errors="replace")
        with urllib.request.urlopen(place, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310  http or https alone
            content: bytes = response.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"{place} cannot be read: {error}: give a file, or the URL of /metrics") from error
    return content.decode(errors="replace")
