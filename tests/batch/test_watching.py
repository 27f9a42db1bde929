"""The batch job counts a month's rides in the bins of the model's baseline."""

from functools import reduce
from operator import add
from pathlib import Path

import msgspec
import pytest

from batch import scoring
from batch.manifests import MANIFEST, decode_manifest, encode_manifest
from model import load_model
from ride_counts import Counter, RideCounts
from rides import Ride
from tests.batch.jobs import read, score, settings
from tests.builders import copy_saying
from tests.trip_records import trip, write
from tests.watched_models import copy_watched, draw_rides

NAME = "green_tripdata_2023-02.parquet"


def write_rides(file: Path, rides: list[Ride]) -> Path:
    """Write rides as a file of trips."""
    fields = ("PULocationID", "DOLocationID", "trip_distance")
    return write(file, [trip(**{name: getattr(ride, name) for name in fields}) for ride in rides])


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Give the folder of a model with a baseline."""
    return copy_watched(tmp_path / "model")


@pytest.mark.parametrize("parts", [1, 3])
def test_the_counts_of_files_and_chunks_add_up_to_those_of_all_rides(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Rejected rows count too."""
    monkeypatch.setattr(scoring, "CHUNK_ROWS", 32)
    rides = [*draw_rides(200), *[Ride(10, 20, 101.0)] * parts]
    found = []
    for part in range(parts):
        source = write_rides(tmp_path / f"{part}.parquet", rides[part::parts])
        _, manifest = read(score(source, tmp_path / "output" / str(part), settings(model)))
        assert isinstance(manifest.ride_counts, RideCounts)
        found.append(manifest.ride_counts)
    loaded = load_model(model)
    assert loaded.bins
    counter = Counter(loaded.bins)
    loaded.predict(rides[:200], counter=counter)
    counter.rejected = parts
    assert reduce(add, found) == counter.total()


def test_a_month_that_was_done_without_counts_stays_done(tmp_path: Path, model: str) -> None:
    """A manifest that is older than the counts is not written again."""
    source = write_rides(tmp_path / NAME, draw_rides(20))
    month = score(source, tmp_path / "output", settings(model))
    manifest = Path(month.location, MANIFEST)
    older = encode_manifest(msgspec.structs.replace(decode_manifest(manifest.read_bytes()), ride_counts=msgspec.UNSET))
    manifest.write_bytes(older)
    assert score(source, tmp_path / "output", settings(model)).was_done
    assert manifest.read_bytes() == older


def test_a_model_without_a_baseline_has_a_manifest_as_before(tmp_path: Path) -> None:
    """Such a manifest does not have the field ``ride_counts``."""
    month = score(
        write_rides(tmp_path / NAME, draw_rides(5)),
        tmp_path / "output",
        settings(copy_saying({}, tmp_path / "unwatched")),
    )
    assert b"ride_counts" not in Path(month.location, MANIFEST).read_bytes()
