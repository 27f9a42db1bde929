"""The rides that the batch job has scored: the counts in the months' manifests, and the rows beside them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.manifests import MANIFEST, Manifest
from batch.objects import client, explained, split_uri
from batch.outputs import OutputError, Place
from batch.places import open_place
from ride_counts import RideCounts
from scripts.cli import CommandError
from scripts.watching.windows import PredictedRides, WatchedModel, Window, choose_counts

RIDE_COLUMNS = ("pickup_datetime", "PULocationID", "DOLocationID", "trip_distance")
PARTITIONS = ("colour=*", "year=*", "month=*", "model=*")
"""The folders of the months below an output, as ``batch.months.Month.place`` names them."""
BELOW = ["/".join((*PARTITIONS[start:], MANIFEST)) for start in range(len(PARTITIONS) + 1)]
"""Where the manifests are below an output, or below one of these folders."""


def read_outputs(model: WatchedModel, locations: Sequence[str]) -> Window:
    """Return the rides of months: of folders of months, or of all months below an output that the model has scored.

    Raises CommandError or OutputError if no month is found, or if a file cannot be read.
    """
    months, others = [], 0
    # Each month counts once, also if it is named twice.
    places = {place.location: place for location in locations for place in _find_places(location)}
    for place in places.values():
        manifest = place.read_manifest()
        if not manifest:
            raise CommandError(f"{place.location}: its {MANIFEST} is missing or damaged: score the month again")
        if manifest.model.version == model.version:
            months.append((place, manifest))
        else:
            others += 1
    names = " and ".join(locations)
    if not months:
        raise CommandError(
            f"{names}: no month is scored by the version {model.version} ({others:,} by other versions): name the model"
            " that scored them with --model, or score the month with ./scripts/score"
        )
    rides = _join([_read_rows(model, place, manifest) for place, manifest in months])
    counted = [manifest.ride_counts for _, manifest in months if isinstance(manifest.ride_counts, RideCounts)]
    notes = [f"{len(months):,} {'month is' if len(months) == 1 else 'months are'} added up"]
    if others:
        notes.append(f"{others:,} months by other models are left out")
    if len(counted) == len(months):
        counts, more = choose_counts(model, counted, names)
        notes += more
    else:
        counts = rides.count(model, sum(manifest.counts.rejected for _, manifest in months))
        notes.append("a manifest was written before manifests had counts in bins: the rows were counted now")
    return Window(f"the batch outputs in {names}", counts, notes, rides)


def _find_places(location: str) -> Iterator[Place]:
    """Yield the folders of months: the location itself, or those below it. Raises CommandError if no month is found."""
    location = location.rstrip("/")
    folders = _find_objects(location) if "://" in location else _find_folders(Path(location))
    if not folders:
        raise CommandError(
            f"{location}: there is no {MANIFEST} in it, nor in {'/'.join(PARTITIONS)}: name an output of the batch job"
        )
    for folder in folders:
        parent, _, name = folder.rpartition("/")
        yield open_place(parent or "/", name)


def _find_folders(folder: Path) -> list[str]:
    found = [path for below in BELOW for path in folder.glob(below)]
    return sorted(str(path.parent.absolute()) for path in found)


def _find_objects(uri: str) -> list[str]:
    bucket, prefix = split_uri(uri)
    below = re.compile("|".join(BELOW).replace("*", "[^/]+"))
    with explained(uri, OutputError):
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
        keys = [found["Key"].removeprefix(prefix).strip("/") for page in pages for found in page.get("Contents", [])]
    return [f"{uri}/{key}".removesuffix(f"/{MANIFEST}") for key in sorted(keys) if below.fullmatch(key)]


def _read_rows(model: WatchedModel, place: Place, manifest: Manifest) -> PredictedRides:
    name, identity = manifest.predictions.name, manifest.model
    columns = [*RIDE_COLUMNS, identity.field, identity.actual_field]
    try:
        with place.open(name) as file:
            # Not a reader of chunks, because the arrays of all rows are needed at the end.
            rows = pq.read_table(pa.BufferReader(file.read()), columns=columns)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise CommandError(f"{place.location}/{name}: cannot be read as predictions: {reason}") from error
    return PredictedRides(
        rows["PULocationID"].to_numpy(),
        rows["DOLocationID"].to_numpy(),
        rows["trip_distance"].to_numpy(),
        _hours(rows["pickup_datetime"]) if model.metadata.wants_time else np.full(len(rows), np.nan),
        rows[identity.field].to_numpy(),
        pc.cast(rows[identity.actual_field], pa.float64()).to_numpy(),
    )


def _hours(pickups: Any) -> Any:
    """Return the hours of pickups, with minutes and seconds as their fraction."""
    parts = (pc.hour(pickups), pc.minute(pickups), pc.second(pickups))
    hours, minutes, seconds = (part.to_numpy() for part in parts)
    return hours + minutes / 60 + seconds / 3600


def _join(parts: Sequence[PredictedRides]) -> PredictedRides:
    names = ("pickups", "dropoffs", "miles", "hours", "predicted", "actual")
    return PredictedRides(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
