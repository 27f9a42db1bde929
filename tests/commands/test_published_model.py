"""A published model in all entry points: they predict the same values, and each verifies the folder's digest."""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from features import prepare_features
from model import load_model
from rides import Ride
from scripts.localaws.setup import FUNCTION_VARIABLES
from scripts.models import publishing
from scripts.models.publishing_places import open_target
from scripts.models.publishing_sources import fetch
from tests.builders import kinesis_event
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, finish, start
from tests.trip_records import PICKUP, trip, write
from tests.web.servers import serve

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.slow

RIDES = [
    Ride(zone, zone % 5, 1 + zone / 2, PICKUP + datetime.timedelta(hours=7 * zone, minutes=zone))
    for zone in range(1, 7)
]
"""Rides at different hours of two days."""


@pytest.fixture(params=["folder", "S3"])
def published(
    request: pytest.FixtureRequest,
    boosted_model: str,
    s3: "S3Client",
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, str]:
    """Publish a model that wants the time, without the proof; give its location and digest."""
    for name in FUNCTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    candidate = publishing.select(fetch(boosted_model, None))
    target = open_target(f"s3://{bucket}/models" if request.param == "S3" else str(tmp_path / "models"))
    digest = publishing.write(target, candidate, {})
    return f"{target.location}/{candidate.folder}", digest


def invoke(location: str, digest: str, event: Path) -> Any:
    """Run the handler on an event, as ``run`` does in its sandboxes, and return what it printed."""
    return finish("invoke", str(event), "--model", location, MODEL_SHA256=digest)


def test_all_entry_points_predict_the_same(published: tuple[str, str], tmp_path: Path, endpoint: str) -> None:
    """The stream, the web service and the batch job give the same doubles, which are those of the loaded model."""
    location, digest = published
    model = load_model(location, sha256=digest)
    expected = model.predict(RIDES)
    assert len({tuple(prepare_features(ride, model.metadata.features).values()) for ride in RIDES}) == len(RIDES)
    documents = [json.loads(json.dumps(_as_document(ride))) for ride in RIDES]
    event = tmp_path / "event.json"
    bodies = [json.dumps({"ride": ride, "ride_id": number}).encode() for number, ride in enumerate(documents)]
    event.write_text(json.dumps(kinesis_event(*bodies)))
    done = invoke(location, digest, event)
    assert [one["prediction"]["ride_duration"] for one in json.loads(done.stdout)["predictions"]] == expected
    with serve(MODEL_LOCATION=location, MODEL_SHA256=digest) as service:
        assert [answer["duration"] for answer in service.predict(documents)] == expected
    month = write(tmp_path / "green_tripdata_2023-02.parquet", map(_as_trip, RIDES))
    options = ["--input", str(month), "--output", str(tmp_path / "scored"), "--model", location]
    scored = finish("score", "green", "2023", "2", *options, MODEL_SHA256=digest)
    assert scored.returncode == 0, scored.stderr
    (part,) = (tmp_path / "scored").rglob("part-*.parquet")
    assert pq.read_table(part)["predicted_duration"].to_pylist() == expected


def test_the_local_stack_verifies_the_digest_of_the_folder(published: tuple[str, str], s3: "S3Client") -> None:
    """The local stack copies all files of a model, so the digest stays the same. A changed file is refused."""
    location, digest = published
    done = finish("run", "--rides", "3", "--model", location, MODEL_SHA256=digest)
    assert done.returncode == 0, done.stderr
    for command in (("run", "--rides", "3"), ("score", "green", "2023", "2")):
        refused = finish(*command, "--model", location, MODEL_SHA256="0" * 64)
        assert refused.returncode == 1
        assert "is not what MODEL_SHA256 names" in refused.stderr


def _as_document(ride: Ride) -> dict[str, Any]:
    names = ("PULocationID", "DOLocationID", "trip_distance")
    assert ride.pickup_datetime is not None
    return {**{name: getattr(ride, name) for name in names}, "pickup_datetime": ride.pickup_datetime.isoformat()}


def _as_trip(ride: Ride) -> dict[str, Any]:
    assert ride.pickup_datetime is not None
    end = ride.pickup_datetime + datetime.timedelta(minutes=20)
    zones = {"PULocationID": ride.PULocationID, "DOLocationID": ride.DOLocationID}
    return trip(pickup=ride.pickup_datetime, dropoff=end, trip_distance=ride.trip_distance, **zones)


def test_the_launcher_serves_the_model_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """The first time, it installs the packages of the lean image."""
    with start("publish", SAMPLE_MODEL, "--to", "out", cwd=tmp_path) as command:
        output, errors = command.communicate(timeout=10 * PATIENCE)
    assert command.returncode == 0, errors
    assert "Serves with [packages]" in errors
    location, digest = (part.partition("=")[2] for part in output.splitlines()[0].split(" "))
    assert load_model(location, sha256=digest).predict(RIDES) == load_model(SAMPLE_MODEL).predict(RIDES)
