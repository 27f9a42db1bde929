"""What the benchmark trains with and asks for: real trips of TLC files, or synthetic ones."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.cli import CommandError
from scripts.sources.chosen import read_tlc_rides
from scripts.sources.events import kinesis_event
from scripts.sources.records import RideRecord
from scripts.sources.synthetic import generate_events, generate_rides
from trips import MAX_DURATION, MIN_DURATION, Trips, training_trips

SEED = 0
LARGEST_BATCH = 10_000
"""Rides: the most that an event source mapping hands over (AWS Lambda API, BatchSize)."""

FIRST_SEQUENCE_NUMBER = 49630081666084879290581185630324770398608704880802529282

MINUTES_AT_THE_CURB, MINUTES_A_MILE, SPREAD = 5.0, 3.5, 0.3
"""Of a synthetic trip; SPREAD is the standard deviation of the logarithm of its duration."""


@dataclass(frozen=True)
class Inputs:
    """Trips that the models learn from, and other rides that they are asked for."""

    trips: Trips
    records: list[RideRecord]
    description: str


def from_files(files: Sequence[str]) -> Inputs:
    """Return the first file's trips and the last file's rides. Raises TripRecordError."""
    trips, records = training_trips(Path(files[0])), read_tlc_rides(files[-1]).records
    names = f"{Path(files[0]).name} to learn from, {Path(files[-1]).name} to ask for"
    return Inputs(trips, records, names)


def synthetic(trips: int) -> Inputs:
    """Return synthetic trips to learn from, and enough rides to ask for; always the same."""
    description = f"{trips:,} synthetic rides to learn from"
    return Inputs(synthetic_trips(trips, SEED), generate_rides(LARGEST_BATCH, SEED + 1), description)


def synthetic_trips(number: int, seed: int) -> Trips:
    """Return so many synthetic rides that last as long as taxis need, more or less."""
    draw = random.Random(seed)
    rides = [event.ride for event in generate_events(number, seed)]
    usual = (MINUTES_AT_THE_CURB + MINUTES_A_MILE * ride.trip_distance for ride in rides)
    durations = [min(max(minutes * draw.lognormvariate(0, SPREAD), MIN_DURATION), MAX_DURATION) for minutes in usual]
    return Trips(rides, durations, 0)


def write_events(records: Sequence[RideRecord], sizes: Iterable[int], folder: Path) -> None:
    """Write an event of each size into the folder, as ``<rides>.json``. Raises CommandError for too few records."""
    event_records = kinesis_event(records, FIRST_SEQUENCE_NUMBER)["Records"]
    for rides in sizes:
        if rides > len(event_records):
            raise CommandError(f"a batch of {rides:,} rides is wanted, and there are {len(event_records):,}: add files")
        (folder / f"{rides}.json").write_text(json.dumps({"Records": event_records[:rides]}))
