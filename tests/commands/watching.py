"""A model that can be watched: the sample model, with the baseline of synthetic rides, and rides that it predicts."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np

from digests import digest_of
from model import load_model
from rides import Ride
from scripts.models import baseline
from scripts.models.months import RideSet
from scripts.sources.records import RideRecord, encode_ride
from scripts.sources.synthetic import generate_events
from served.arrays import Floats
from targets import DURATION
from tests.builders import copy_saying
from tests.conftest import SAMPLE_MODEL
from tests.trip_records import trip

RIDES = 8_000
FILE = "baseline.json"


def predict(rides: Sequence[Ride]) -> Floats:
    """Return the sample model's predictions."""
    return np.array(load_model(SAMPLE_MODEL).predict(rides), float)


def draw(number: int, seed: int, factor: float = 1.0) -> list[RideRecord]:
    """Draw rides like those of the baseline, with distances that are longer by a factor."""
    records = []
    for event in generate_events(number, seed):
        ride = event.ride
        miles = min(100.0, ride.trip_distance * factor)
        longer = Ride(ride.PULocationID, ride.DOLocationID, miles, ride.pickup_datetime)
        records.append(encode_ride(type(event)(longer, event.ride_id)))
    return records


def draw_actual(rides: Sequence[Ride], seed: int) -> Floats:
    """Draw actual durations around the predicted ones."""
    return np.clip(predict(rides) * np.random.default_rng(seed).normal(1, 0.2, len(rides)), 1, 60)


def save_watched(folder: Path) -> str:
    """Save the sample model with a baseline to a folder, and return it."""
    training, validation = map(_draw_set, (101, 102))
    content = baseline.encode(
        baseline.make_baseline(training, validation, predict(validation.rides), DURATION, predict)
    )
    location = copy_saying({"baseline": {"file": FILE, "sha256": digest_of(content)}}, folder)
    (folder / FILE).write_bytes(content)
    return location


def _draw_set(seed: int) -> RideSet:
    rides = [event.ride for event in generate_events(RIDES, seed)]
    return RideSet(("a",), rides, draw_actual(rides, seed), 0)


def save_other(watched: str, folder: Path) -> str:
    """Save the model with the baseline of other rides, and return its folder."""
    content = json.loads((Path(watched) / FILE).read_bytes())
    text = json.dumps(content | {"rides": content["rides"] + 1}).encode()
    location = copy_saying({"baseline": {"file": FILE, "sha256": digest_of(text)}}, folder)
    (folder / FILE).write_bytes(text)
    return location


def trips_of(records: Sequence[RideRecord], seed: int, slow_zone: int | None = None) -> list[dict[str, object]]:
    """Build trips of rides, with actual durations that are doubled for the rides that begin in the slow zone."""
    rides = [record.event.ride for record in records if record.event]
    trips = []
    for ride, minutes in zip(rides, draw_actual(rides, seed).tolist(), strict=True):
        assert ride.pickup_datetime
        took = minutes * 2 if ride.PULocationID == slow_zone else minutes
        values = {"PULocationID": ride.PULocationID, "DOLocationID": ride.DOLocationID}
        times = {"pickup": ride.pickup_datetime, "dropoff": ride.pickup_datetime + timedelta(minutes=took)}
        trips.append(trip(took, trip_distance=ride.trip_distance, **values, **times))
    return trips
