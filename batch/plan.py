"""The plan of months and a model: which months are done, which are missing, and which are stale.

It looks at the manifests and at the inputs' digests or ETags, and reads no predictions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from batch.manifests import Manifest, ModelIdentity
from batch.months import Month
from batch.places import open_place
from batch.sources import NoInputError, Source

State = Literal["done", "missing", "stale", "no input"]


@dataclass(frozen=True)
class PlannedMonth:
    """A month, and what there is to do."""

    month: Month
    state: State
    reason: str
    """Why it is not done; empty for a month that is done or missing."""
    manifest: Manifest | None
    """The manifest of the predictions that are there."""

    @property
    def is_due(self) -> bool:
        """Whether the month must be scored."""
        return self.state in ("missing", "stale")


def make_plan(months: Iterable[Month], location: str | None, output: str, model: ModelIdentity) -> list[PlannedMonth]:
    """Return what there is to do for each month. ``location`` and ``output`` are those of a job.

    Raises TripRecordError if an input cannot be read, and OutputError if the output cannot.
    """
    return [_look(month, Source.of(location, month), output, model) for month in months]


def _look(month: Month, source: Source, output: str, model: ModelIdentity) -> PlannedMonth:
    manifest = open_place(output, month.place(model.version)).read_manifest()
    try:
        fingerprint = source.fingerprint()
    except NoInputError:
        # Predictions stay good if their input is deleted later.
        return PlannedMonth(month, "done" if manifest else "no input", "there is no input", manifest)
    if manifest is None:
        return PlannedMonth(month, "missing", "", None)
    is_same = fingerprint and fingerprint in (manifest.input.sha256, manifest.input.tag)
    changes = {"the input has changed": not is_same, "the model has changed": manifest.model != model}
    reason = " and ".join(change for change, is_true in changes.items() if is_true)
    return PlannedMonth(month, "stale" if reason else "done", reason, manifest)
