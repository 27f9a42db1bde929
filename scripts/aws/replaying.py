"""Replaying kept records: choosing them, and putting them on the stream again, object by object."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from scripts import cli
from scripts.aws.kept_objects import ChangedError, KeptObject, KeptObjects, KeptRecord, UnreadableError
from scripts.aws.putting import put
from scripts.cli import CommandError
from streaming.delivery import DeliveryError, OutputStream

LEFT = CANNOT_BE_READ, CANNOT_BE_PUT, CANNOT_BE_MOVED = "cannot be read", "cannot be put", "cannot be moved"
"""Groups of records that cannot be replayed have one of these texts in place of a kind."""

REFUSED_CODES = {"InvalidArgumentException", "SerializationException", "ValidationException"}
"""Kinesis' error codes for a request with a record that it refuses (API reference, PutRecords, common errors)."""

GroupName: TypeAlias = tuple[str, str, str]
"""Stream, kind and reason."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayFilter:
    """The conditions that a kept record must meet to be replayed."""

    reasons: tuple[str, ...] = ()
    """One of these texts is the record's kind, or a part of its reason, in any case. If empty, every reason will do."""
    since: datetime | None = None
    stream: str | None = None
    """The stream that the record came from."""

    def accepts(self, record: KeptRecord) -> bool:
        """Return whether a record meets the conditions."""
        kind, reason = record.kind.casefold(), record.reason.casefold()
        texts = [text.casefold() for text in self.reasons]
        return (
            self.stream in (None, record.stream)
            and (self.since is None or record.arrival >= self.since)
            and (not texts or any(text == kind or text in reason for text in texts))
        )


@dataclass
class ReplayGroup:
    """The number of selected records of one stream, kind and reason, and of the objects that have them."""

    records: int = 0
    objects: int = 0
    oldest: datetime | None = None

    def add_object(self, arrivals: Sequence[datetime]) -> None:
        """Count an object, given the arrival times of its records; none if it cannot be read."""
        self.records += len(arrivals)
        self.objects += 1
        self.oldest = min(filter(None, [self.oldest, *arrivals]), default=None)


@dataclass
class ReplayPlan:
    """The records that a replay puts on the stream."""

    filter: ReplayFilter
    groups: defaultdict[GroupName, ReplayGroup] = field(default_factory=lambda: defaultdict(ReplayGroup))
    keys: list[str] = field(default_factory=list)
    """The objects that have records to put."""
    puttable: int = 0
    """The number of records to put."""
    complete: bool = True
    """Whether all selected records can be put, as far as is known."""

    def add(self, key: str, selected: Sequence[KeptRecord]) -> None:
        """Add the selected records of an object."""
        for name, members in itertools.groupby(sorted(selected, key=group_name), group_name):
            self.groups[name].add_object([record.arrival for record in members])
        puttable = sum(record.original is not None for record in selected)
        if puttable:
            self.keys.append(key)
        self.puttable += puttable
        self.complete &= puttable == len(selected)

    def leave(self, uri: str, error: Exception, kind: str = CANNOT_BE_READ) -> None:
        """Add an object that stays in the bucket, and log a warning. It may have records that would be selected."""
        _log.warning("%s stays as it is: %s", uri, error)
        self.groups["", kind, str(error)].add_object([])
        self.complete = False

    @property
    def left(self) -> int:
        """The number of objects that stay because records cannot be replayed; an object counts once for each reason."""
        return sum(group.objects for (_, kind, _), group in self.groups.items() if kind in LEFT)


def group_name(record: KeptRecord) -> GroupName:
    """Return the name of the group that a record is counted in."""
    if record.original is None:
        return record.stream, CANNOT_BE_PUT, record.obstacle
    return record.stream, record.kind, record.reason


def plan_replay(objects: KeptObjects, condition: ReplayFilter) -> ReplayPlan:
    """Read all kept objects and return the plan to replay the selected records; log what cannot be replayed."""
    plan = ReplayPlan(condition)
    with cli.progress_bar("records") as progress:
        reading = progress.add_task("Reading", total=None)
        for key in objects.find():
            try:
                selected = list(filter(condition.accepts, objects.read(key).records))
            except ChangedError:
                continue  # somebody else has moved it
            except UnreadableError as error:
                plan.leave(objects.uri(key), error)
                continue
            plan.add(key, selected)
            progress.advance(reading, len(selected))
            for obstacle in sorted({record.obstacle for record in selected if record.obstacle}):
                _log.warning("%s keeps records that cannot be put: %s", objects.uri(key), obstacle)
    return plan


def replay(objects: KeptObjects, stream: OutputStream, plan: ReplayPlan) -> int:
    """Put the records of a plan on the stream, object by object, move them, and return how many were put.

    Objects that were written after the plan was made are left alone: otherwise records that are rejected again would
    make a replay endless. If Kinesis refuses a record of an object, or S3 refuses to return or move the object, it is
    left too, and the plan is then not complete. Raises CommandError if Kinesis accepts no more records: the objects
    before are moved, and the current object stays as it is.
    """
    done = 0
    with cli.progress_bar("records") as progress:
        putting = progress.add_task("Putting", total=plan.puttable)
        for key in plan.keys:
            try:
                kept = objects.read(key)
                puttable = [record for record in kept.records if record.original and plan.filter.accepts(record)]
                for chunk in put(stream, [record.original for record in puttable if record.original]):
                    progress.advance(putting, len(chunk))
                done += len(puttable)
                _move(objects, kept, puttable, plan)
            except (CommandError, DeliveryError) as error:
                if isinstance(error, DeliveryError) and error.code in REFUSED_CODES:
                    plan.leave(objects.uri(key), error, CANNOT_BE_PUT)
                    continue
                raise CommandError(
                    f"{objects.uri(key)}: {error}; the {done} of the objects before it are put and moved: run it again"
                    " for the rest"
                ) from error
            except ChangedError as error:
                _log.warning("%s stays as it is: %s", objects.uri(key), error)
            except UnreadableError as error:
                plan.leave(objects.uri(key), error)
    return done


def _move(objects: KeptObjects, kept: KeptObject, records: Sequence[KeptRecord], plan: ReplayPlan) -> None:
    """Move records that were put. If that fails, the next replay puts them again."""
    try:
        objects.move(kept, records)
    except UnreadableError as error:
        put = UnreadableError(f"its records are put, but not moved, so the next replay puts them again: {error}")
        plan.leave(objects.uri(kept.key), put, CANNOT_BE_MOVED)
