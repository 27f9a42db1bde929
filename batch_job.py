"""The batch job: a month of trips in, its predictions out, each row exactly once.

    source  -- open    --> a file of this machine, and its digest
    place   -- look    --> done before | refused | free
    chunks  -- decode  --> rides       | rejected rows
    rides   -- predict --> predictions | rejected rows      one call of the model for each chunk
    files   -- commit  --> visible, the manifest last

Every row of the input is in one of two files: the predictions, or the rejected rows with their reasons. If the job is
killed at any time, nothing half is visible, and the next run completes it.
"""

import argparse
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
from msgspec import UNSET

from artifacts import ModelError
from batch.manifests import Counts, InputIdentity, Manifest, ModelIdentity, find_versions, now
from batch.months import Month
from batch.outputs import OutputError, Place, describe_file
from batch.places import open_place
from batch.scoring import score_file
from batch.sources import Source
from batch.tables import check_column
from clients import SDKSettingsError
from model import Model, describe_model, find_location, load_from_settings
from model_metadata import NO_METADATA
from settings import ModelSettings, SettingsError
from trip_cells import TripRecordError
from trips import COLOURS, TripFile

EXPLAINED = (ModelError, OutputError, SDKSettingsError, SettingsError, TripRecordError)
"""The errors of a job. The message of each says in one line what was wrong and what to do."""
DESCRIPTION = """\
Score a month of trips: write its predictions, such as durations, as parquet, once.

The month's folder is OUTPUT/colour=COLOUR/year=YEAR/month=MONTH/model=VERSION. It has the predictions (part-….parquet),
the rows that the ride contract refuses, with their reasons (_rejected-….jsonl.gz), and a manifest, which is written
last. If the predictions are there already, nothing is written."""


class TakenError(OutputError):
    """The month's folder has predictions of another input or by another model."""


@dataclass(frozen=True)
class Job:
    """A month to score."""

    month: Month
    input: str | None
    """The location of the file, or of a folder in which the file has TLC's name. None means TLC's own file."""
    output: str
    """The folder or ``s3://`` URI below which all months lie."""
    force: bool = False
    """Whether the predictions of another input or model are replaced."""


class ScoredMonth(msgspec.Struct, frozen=True, omit_defaults=True):
    """A month that is scored."""

    location: str
    """The month's folder."""
    was_done: bool
    """Whether the predictions were there already, so that nothing was written."""
    counts: Counts
    seconds: float
    """The time to read, predict and write the rows, after the model was loaded; 0 if the month was done before."""
    unit: str = NO_METADATA.unit
    """The unit of the errors."""


@dataclass(frozen=True)
class Watcher:
    """Functions that are told how far a job is."""

    fetched: Callable[[int, int | None], None] = lambda *_: None
    """Called with the bytes that were copied just now, and the size of the remote file if it is known."""
    scored: Callable[[int, int], None] = lambda *_: None
    """Called with the rows that were scored just now, and the rows of the file."""


def score_month(job: Job, settings: ModelSettings, watcher: Watcher = Watcher()) -> ScoredMonth:
    """Score a month, unless its predictions are there already.

    Raises:
        TripRecordError: if the input cannot be read.
        ModelError: if the model cannot be loaded.
        TakenError: if the place has the predictions of another input or model, and the job is not forced.
        BusyError: if another run writes the same month.
        OutputError: if the output cannot be written.
    """
    model = identify_model(settings)
    place = open_place(job.output, job.month.place(model.version))
    origin = Source.of(job.input, job.month)
    with origin.open(watcher.fetched) as (file, source), place.exclusive():
        # Listed before the manifest is read. Otherwise another run could commit in between, and this run would take
        # the files of that run for unused files.
        names = place.names()
        before = place.read_manifest()
        if before and before.is_of(source, model) and all(map(place.holds, before.files)):
            # A run that was killed after its commit has not removed the files that it replaced.
            place.remove_unused(names, before)
            note_tag(place, before, source)
            return ScoredMonth(place.location, True, before.counts, 0.0, model.unit)
        if before and not job.force:
            check_same(before, source, model, place)
        with place.temporary() as predictions, place.temporary() as rejections:
            outputs = predictions, rejections
            trips = TripFile(file, source.location, model.known_target, settings.time_zone)
            check_colour(trips, job.month, source)
            with loaded(settings) as predictor:
                began = time.perf_counter()
                counts, columns, in_bins = score_file(trips, source.sha256, predictor, model, outputs, watcher.scored)
                seconds = time.perf_counter() - began
            origin.check_unchanged(file, source)
            found = (
                describe_file(predictions, "part-", f"{place.suffix}.parquet"),
                describe_file(rejections, "_rejected-", f"{place.suffix}.jsonl.gz"),
            )
            manifest = Manifest(
                *(*job.month, source, model, counts, *found, columns, find_versions(), now()),
                ride_counts=in_bins or UNSET,
            )
            commit(place, manifest, outputs)
        place.remove_unused(names, manifest)
    return ScoredMonth(place.location, False, manifest.counts, seconds, model.unit)


def identify_model(settings: ModelSettings) -> ModelIdentity:
    """Return the identity of the model that the settings name, without loading it.

    PREDICTION_FIELD names the column of predicted values. Raises SettingsError if the predictions have such a column
    already, and ModelError if the model cannot be read.
    """
    location = find_location(settings)
    # Loading verifies the digest too, but a month that is done needs no model.
    found = describe_model(location, sha256=settings.sha256, version=settings.run_id)
    field = settings.prediction_field or f"predicted_{found.metadata.target}"
    zone = settings.time_zone if found.metadata.wants_time else None
    names = found.metadata.target, found.metadata.unit
    model = ModelIdentity(settings.name, found.version, found.sha256, field, *names, zone)
    check_column(model)
    return model


@contextlib.contextmanager
def loaded(settings: ModelSettings) -> Iterator[Model]:
    """Give the model. Raises ModelError.

    GC is off while the model loads, and does not scan it during the block, because no part of it could be freed. The
    scans would take much of a job's time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        model = load_from_settings(settings)
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
    try:
        yield model
    finally:
        gc.unfreeze()


def note_tag(place: Place, manifest: Manifest, source: InputIdentity) -> None:
    """Note the tag of an input that has the manifest's content. Otherwise the plan would call its month stale forever.

    The content may have come from another place, or its server may have a new tag for it.
    """
    if source.tag not in ("", manifest.input.tag):
        # The predictions are good in any case, and another run may know a newer tag.
        with contextlib.suppress(OutputError):
            place.commit(msgspec.structs.replace(manifest, input=source))


def check_same(before: Manifest, source: InputIdentity, model: ModelIdentity, place: Place) -> None:
    """Raise TakenError if a manifest names another input or model."""
    changes = ["input" if before.input.sha256 != source.sha256 else "", before.model.name_change(model)]
    if changed := [f"another {change}" for change in changes if change]:
        reason = f"has the predictions of {' and '.join(changed)}"
        raise TakenError(f"{place.location} {reason}: --force replaces them")


def check_colour(trips: TripFile, month: Month, source: InputIdentity) -> None:
    """Raise TripRecordError if the names of a file's columns say that its taxis have another colour."""
    if trips.colours and month.colour not in trips.colours:
        found = " and ".join(sorted(trips.colours))
        raise TripRecordError(f"{source.location}: has trips of {found} taxis, not of {month.colour} taxis")


def commit(place: Place, manifest: Manifest, outputs: tuple[BinaryIO, BinaryIO]) -> None:
    """Make the files visible, the manifest last. If that fails, remove the files that nobody needs."""
    try:
        # In this order, so that a part without a manifest is visible for as short a time as possible.
        place.publish(outputs[1], manifest.rejections)
        place.publish(outputs[0], manifest.predictions)
        place.commit(manifest)
    except OutputError:
        with contextlib.suppress(OutputError):
            place.remove_unused(manifest.names, place.read_manifest())
        raise


def main() -> int:
    """Score the month that the command line names, and print the outcome as a line of JSON."""
    # The first process of a container has no default action for signals, so it would ignore SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(
        "batch_job", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("colour", metavar="COLOUR", choices=COLOURS, help=f"the colour of the taxis: {' or '.join(COLOURS)}")
    add("year", metavar="YEAR", type=int)
    add("month", metavar="MONTH", type=int)
    add_places(parser)
    options = parser.parse_args()
    try:
        month = Month.of(options.colour, options.year, options.month)
    except ValueError as error:
        parser.error(str(error))
    try:
        job = Job(month, options.input, options.output, options.force)
        outcome = score_month(job, ModelSettings.from_environment(os.environ))
    except EXPLAINED as error:
        print(f"batch_job: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(outcome).decode())
    return 0


def arguments_of(job: Job) -> list[str]:
    """Return the arguments with which ``main`` runs the job."""
    month = [job.month.colour, str(job.month.year), str(job.month.month)]
    source = [f"--input={job.input}"] if job.input else []
    return [*month, *source, f"--output={job.output}", *(["--force"] if job.force else [])]


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the input and the output lie."""
    file = (
        "the trip record file: a path, an http(s) URL or an s3:// URI; or a folder of files with TLC's names, whose URL"
        " or URI ends with a slash (default: TLC's own files)"
    )
    parser.add_argument("--input", metavar="FILE", help=file)
    folder = "the folder or s3:// URI below which all months lie (default: %(default)s)"
    parser.add_argument("--output", metavar="FOLDER", default="output", help=folder)
    force = "replace the month's predictions of another input or model"
    parser.add_argument("--force", action="store_true", help=force)


if __name__ == "__main__":
    exit_code = main()
    # The process ends now. GC would scan all of its memory once more.
    gc.freeze()
    sys.exit(exit_code)
