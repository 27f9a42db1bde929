"""The plan of months and a model: which months are done, which are missing, and which are stale.

It looks at the manifests and at the inputs' digests or ETags, and reads no predictions.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from batch.manifests import Manifest, ModelIdentity
from batch.months import Month
from batch.places import open_place
from batch.sources import NoInputError, Source
from trip_cells import TripRecordError

State = Literal["done", "missing", "stale", "no input"]


@dataclass(frozen=True)
class PlannedMonth:
    """A month, its state, and the reason."""

    month: Month
    state: State
    reason: str
    """What has changed; empty for a month that is done or missing."""
    manifest: Manifest | None
    """The manifest of the predictions that are there."""

    @property
    def is_due(self) -> bool:
        """Whether the month must be scored."""
        return self.state in ("missing", "stale")


def make_plan(months: Iterable[Month], location: str | None, output: str, model: ModelIdentity) -> list[PlannedMonth]:
    """Return the state of each month. ``location`` and ``output`` are a job's input and output.

    Raises TripRecordError if an input cannot be read or would be the input of several months, and OutputError if the
    output cannot be read.
    """
    sources = {month: Source.of(location, month) for month in months}
    shared = [one.shown for one, count in Counter(sources.values()).items() if count > 1]
    if shared:
        rule = "name a folder of files with TLC's names, or the URL of such a folder, with a slash at its end"
        raise TripRecordError(f"{shared[0]}: not a folder, and one file cannot be the input of several months: {rule}")
    return [_look(month, source, output, model) for month, source in sources.items()]


def _look(month: Month, source: Source, output: str, model: ModelIdentity) -> PlannedMonth:
    manifest = open_place(output, month.place(model.version)).read_manifest()
    change = manifest.model.name_change(model) if manifest else ""
    changed = f"the {change} has changed" if change else ""
    try:
        fingerprint = source.fingerprint()
    except NoInputError:
        # Predictions stay good if their input is deleted later.
        return PlannedMonth(month, "done" if manifest and not changed else "no input", changed, manifest)
    if manifest is None:
        return PlannedMonth(month, "missing", "", None)
    reasons = [changed] if changed else []
    if not fingerprint:
        reasons.insert(0, "the server does not say whether the input has changed")
    elif fingerprint not in (manifest.input.sha256, manifest.input.tag):
        reasons.insert(0, "the input has changed")
    return PlannedMonth(month, "stale" if reasons else "done", " and ".join(reasons), manifest)
