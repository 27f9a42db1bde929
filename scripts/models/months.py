"""The rides that a model is trained on, and the later ones that it is measured on: files of months, split by time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rides import MAX_TRIP_DISTANCE, Ride
from scripts import cli
from scripts.sources.download import open_trips
from settings import read_time_zone
from targets import Target
from trips import training_trips

LAST_SHARE = 1 / 5
"""The share of one month's rides that a model is measured on: the last ones."""
LEAST_RIDES = 10
"""The encoders of the boosted model cannot divide fewer rides into parts."""
LEAST_SHARE_OF_A_MONTH = 1 / 1_000
"""If a smaller share of the rides has its pickup in a month, their clocks were wrong: some say 2008. The file of a
month has a few such rides, and a few rides of the days before and after the month."""


class TrainingError(Exception):
    """A model cannot be trained from these files; the message is one line."""


@dataclass(frozen=True)
class RideSet:
    """The rides of some files, or a part of them, each with its target."""

    files: tuple[str, ...]
    """The names of the files, without folders: a run may be seen by others than whoever trained it."""
    rides: Sequence[Ride]
    """The pickup of each is what a clock shows where the ride takes place."""
    values: NDArray[np.float64]
    left_out: int
    """The number of rows of the files that were left out."""
    others: "RideSet | None" = None
    """Of these rows, the rides that services predict as well, whose values may be out of the target's range, or NaN."""

    @cached_property
    def pickups(self) -> NDArray[np.datetime64]:
        """The pickups, to the second."""
        return np.array([ride.pickup_datetime for ride in self.rides], "datetime64[s]")

    @cached_property
    def is_usual(self) -> NDArray[np.bool_]:
        """Whether each pickup is in a month that has its share of the rides, so that its clock can be believed."""
        _, places, counts = np.unique(self.pickups.astype("datetime64[M]"), return_inverse=True, return_counts=True)
        enough: NDArray[np.bool_] = (counts >= len(self.rides) * LEAST_SHARE_OF_A_MONTH)[places]
        return enough

    @property
    def first(self) -> str:
        """The first usual pickup, in ISO 8601."""
        return str(self.pickups[self.is_usual].min())

    @property
    def last(self) -> str:
        """The last usual pickup, in ISO 8601."""
        return str(self.pickups[self.is_usual].max())

    def select(self, rows: NDArray[Any], left_out: int = 0, others: "RideSet | None" = None) -> "RideSet":
        """Return the rides with these indices."""
        return RideSet(self.files, [self.rides[row] for row in rows.tolist()], self.values[rows], left_out, others)


def read_months(files: Sequence[str], validate: Sequence[str], target: Target) -> tuple[RideSet, RideSet]:
    """Return the rides to train on, and those to measure on: of the files ``validate``, or else the last ones.

    Raises TrainingError if there are too few rides or a file is named twice, and TripRecordError if a file cannot be
    read.
    """
    _refuse_repeats([*files, *validate])
    parts = [_read_file(file, target) for file in files]
    if validate:
        return _join(parts), _join([_read_file(file, target) for file in validate])
    return split_by_time(parts)


def read_newest_month(files: Sequence[str], target: Target) -> tuple[RideSet, RideSet, RideSet]:
    """Return the rides to train on, those to measure on, and all rides of the newest month.

    The last fifth of the newest month measures, so that a model learns from this month too. The errors are those of
    ``read_months``.
    """
    _refuse_repeats(files)
    earlier, last = _find_last([_read_file(file, target) for file in files])
    newest = _join(last)
    first, end = _split(newest)
    return _join([*earlier, first]), end, newest


def split_by_time(parts: Sequence[RideSet]) -> tuple[RideSet, RideSet]:
    """Return the rides of the earlier months, and those of the last month; of one month, those of its last fifth.

    The month of a file is that of its median pickup, so that a few wrong clocks do not matter.
    """
    earlier, last = _find_last(parts)
    return (_join(earlier), _join(last)) if earlier else _split(_join(last))


def _find_last(parts: Sequence[RideSet]) -> tuple[list[RideSet], list[RideSet]]:
    """Return the files of the earlier months, and those of the last month."""
    months = [np.sort(part.pickups)[len(part.rides) // 2].astype("datetime64[M]") for part in parts]
    dated, last = list(zip(parts, months, strict=True)), max(months)
    return [part for part, month in dated if month < last], [part for part, month in dated if month == last]


def _split(rides: RideSet) -> tuple[RideSet, RideSet]:
    """Return the first rides, and the last ones, which measure."""
    order = np.argsort(rides.pickups, kind="stable")
    at = len(order) - int(len(order) * LAST_SHARE)
    if rides.others:
        is_later = rides.others.pickups >= rides.pickups[order[at]]
        before, after = (rides.others.select(np.flatnonzero(chosen)) for chosen in (~is_later, is_later))
        return rides.select(order[:at], rides.left_out, before), rides.select(order[at:], others=after)
    return rides.select(order[:at], rides.left_out), rides.select(order[at:])


def _refuse_repeats(files: Sequence[str]) -> None:
    seen = set[str]()
    for file in files:
        # One file can be named in several ways, such as by a symbolic link.
        name = file if "://" in file else os.path.realpath(file)
        if name in seen:
            raise TrainingError(f"{file} is named twice: a model is measured on other rides than it is trained on")
        seen.add(name)


def _read_file(file: str, target: Target) -> RideSet:
    with open_trips(file) as path:
        trips = training_trips(path, target, read_time_zone(os.environ))
        name = path.name
    text = f"{name}: {len(trips.rides):,} rides, {trips.left_out:,} rows left out"
    cli.CONSOLE.print(cli.printable(text), markup=False, highlight=False, soft_wrap=True)
    if len(trips.rides) < LEAST_RIDES:
        paid = "are paid by card, " if target.by_card else ""
        raise TrainingError(
            f"{file}: of its rides fewer than {LEAST_RIDES} {paid}have a {target.name} of {target.least:g} to"
            f" {target.most:g} {target.unit}, and go at most {MAX_TRIP_DISTANCE:g} miles"
        )
    others = RideSet((name,), trips.others, np.array(trips.other_values, float), 0)
    return RideSet((name,), trips.rides, np.array(trips.values), trips.left_out, others)


def _join(parts: Sequence[RideSet]) -> RideSet:
    rides = [ride for part in parts for ride in part.rides]
    files = tuple(name for part in parts for name in part.files)
    values, left_out = np.concatenate([part.values for part in parts]), sum(part.left_out for part in parts)
    others = [part.others for part in parts if part.others]
    return RideSet(files, rides, values, left_out, _join(others) if others else None)
