"""The rides of a soak, each with the outcome that it must have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import msgspec

from model import Model, PredictionError
from rides import RideEvent
from scripts.sources.bad import with_bad_rides
from scripts.sources.records import RideRecord, aggregate
from scripts.sources.synthetic import generate_rides

AGGREGATED_EVERY, PACKED = 10, 20
"""Every tenth ride comes in an aggregated record, twenty of them in one."""


class Expected(NamedTuple):
    """The prediction that a good ride must get; the duration is in minutes, and that of the model itself."""

    ride_id: int | str
    minutes: float


Outcome: TypeAlias = Expected | None
"""What must become of a ride: its prediction; None for a bad one, which must be rejected."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A record for the input stream, and the outcome of each ride in it."""

    record: RideRecord
    outcomes: Sequence[Outcome]
    is_aggregated: bool = False

    def event_ids(self, shard_id: str, number: str) -> list[str]:
        """Return the event id of each ride, once Kinesis has told the shard and the sequence number."""
        record_id = f"{shard_id}:{number}"
        return [f"{record_id}:{place}" for place in range(len(self.outcomes))] if self.is_aggregated else [record_id]


def made_parcels(number: int, bad: float, seed: int, model: Model) -> Iterator[Parcel]:
    """Yield the records of so many rides, ``bad`` percent of which are bad ones of all kinds."""
    good = generate_rides(number, seed)
    records = with_bad_rides(good, bad, seed)
    outcomes = [
        expected if record is original else None
        for record, original, expected in zip(records, good, predicted_by(model, good), strict=True)
    ]
    for start in range(0, number, AGGREGATED_EVERY * PACKED):
        block = range(start, min(start + AGGREGATED_EVERY * PACKED, number))
        packed = block[::AGGREGATED_EVERY]
        (packet,) = aggregate([records[place] for place in packed])
        yield Parcel(packet, [outcomes[place] for place in packed], is_aggregated=True)
        for place in block:
            if place not in packed:
                yield Parcel(records[place], [outcomes[place]])


def predicted_by(model: Model, records: Sequence[RideRecord]) -> list[Expected]:
    """Return what the model itself predicts for good rides."""
    events = [msgspec.json.decode(record.data, type=RideEvent) for record in records]
    durations = model.predict([event.ride for event in events])
    return [Expected(event.ride_id, minutes(duration)) for event, duration in zip(events, durations, strict=True)]


def minutes(duration: float | PredictionError | None) -> float:
    """Return the duration that the sample model has for every generated ride."""
    if not isinstance(duration, float):
        raise TypeError(f"the model has no duration for a generated ride: {duration}")
    return duration
