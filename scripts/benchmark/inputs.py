"""The inputs of the benchmark: its sizes, the models that it trains, and the rides and events that it sends."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from features import DEFAULT_FEATURES, prepare_features
from model_metadata import KEY, ModelMetadata
from rides import Ride
from scripts.cli import CommandError
from scripts.sources.chosen import read_tlc_rides
from scripts.sources.download import open_trips
from scripts.sources.events import kinesis_event
from scripts.sources.records import RideRecord
from scripts.sources.synthetic import generate_events, generate_rides
from targets import DURATION
from trips import Trips, training_trips

RIDGE, FOREST, BOOSTED = MODELS = ("ridge", "forest", "boosted")
SERVED, SKOPS, CLOUDPICKLE = FORMS = ("served form", "skops", "cloudpickle")
"""The forms of a model. A model with a served form has a skops file too, which the function does not read."""

SEED = 0
LARGEST_BATCH = 10_000
"""The largest batch of an event source mapping, in rides (AWS Lambda API, BatchSize)."""
FIRST_SEQUENCE_NUMBER = 49630081666084879290581185630324770398608704880802529282
MINUTES_AT_THE_CURB, MINUTES_A_MILE, SPREAD = 5.0, 3.5, 0.3
"""How long a synthetic trip takes; SPREAD is the standard deviation of the logarithm of its duration."""


@dataclass(frozen=True)
class Plan:
    """The sizes of a run."""

    trips: int
    """The number of synthetic trips to train on if there is no file."""
    trees: int
    """The number of trees in the forest."""
    batches: tuple[int, ...]
    """The numbers of rides in a warm batch."""
    delayed_batches: tuple[int, ...]
    """The numbers of rides in a warm batch if each request has a latency."""
    rounds: int
    turn_seconds: float
    """How long one consumer repeats its batch before the next consumer's turn."""
    budget: float
    """The seconds of batches that one consumer gets for one batch size, over all rounds."""
    connections: tuple[int, ...]
    """The numbers of connections that load a web service with one ride a request."""
    equal_workers: bool
    """Whether the other web services run with as many workers as ours too."""
    load_seconds: float
    """How long one web service is under load before the next one's turn."""
    requests: int
    """The number of requests after which a web service's memory is read, if they fit into the budget."""
    repeats: tuple[int, ...]
    """How many times the batch programs' files have the month, shorter files first."""
    longest: int
    """How many times the batch job's longest file has the month."""
    own_environments: bool
    """Whether the batch programs run in environments with only their packages. Installing those takes minutes."""


FULL = Plan(
    trips=60_000,
    trees=100,
    batches=(1, 10, 100, 500, 1_000, LARGEST_BATCH),
    delayed_batches=(1, 100, 1_000, LARGEST_BATCH),
    rounds=7,
    turn_seconds=0.5,
    budget=100.0,
    connections=(1, 4, 16, 64),
    equal_workers=True,
    load_seconds=2.0,
    requests=100_000,
    repeats=(1, 10),
    longest=100,
    own_environments=True,
)
QUICK = Plan(
    trips=5_000,
    trees=20,
    batches=(1, 10, 100, 500, 1_000),
    delayed_batches=(1, 100, LARGEST_BATCH),
    rounds=2,
    turn_seconds=0.05,
    budget=4.0,
    connections=(1, 16),
    equal_workers=False,
    load_seconds=0.2,
    requests=200,
    repeats=(1, 20),
    longest=40,
    own_environments=False,
)


@dataclass(frozen=True)
class Inputs:
    """Trips to train the models on, and other rides to predict."""

    trips: Trips
    records: list[RideRecord]
    description: str


@dataclass(frozen=True)
class LoggedModel:
    """A model in an MLflow run, with its folder by form."""

    run_id: str
    folders: Mapping[str, Path]
    features: Sequence[str] = DEFAULT_FEATURES
    """The names of the features that it wants."""

    def cloudpickle_sha256(self) -> str:
        """Return the digest of the cloudpickle file, for ``MODEL_SHA256``."""
        return hashlib.sha256((self.folders[CLOUDPICKLE] / "model.pkl").read_bytes()).hexdigest()


def read_inputs(files: Sequence[str]) -> Inputs:
    """Return the first file's trips and the last file's rides. Raises TripRecordError."""
    with open_trips(files[0]) as path:
        trips = training_trips(path)
    names = f"{Path(files[0]).name} to train on, {Path(files[-1]).name} to predict"
    return Inputs(trips, read_tlc_rides(files[-1]).records, names)


def generate_inputs(trips: int) -> Inputs:
    """Return synthetic trips and rides that last about as long as taxi rides; they are the same in each run."""
    draw = random.Random(SEED)
    rides = [event.ride for event in generate_events(trips, SEED)]
    usual = (MINUTES_AT_THE_CURB + MINUTES_A_MILE * ride.trip_distance for ride in rides)
    durations = [min(max(minutes * draw.lognormvariate(0, SPREAD), DURATION.least), DURATION.most) for minutes in usual]
    description = f"{trips:,} synthetic rides to train on"
    return Inputs(Trips(rides, durations, 0), generate_rides(LARGEST_BATCH, SEED + 1), description)


def write_events(records: Sequence[RideRecord], sizes: Iterable[int], folder: Path) -> None:
    """Write an event of each size into the folder, as ``<rides>.json``. Raises CommandError for too few records."""
    event_records = kinesis_event(records, FIRST_SEQUENCE_NUMBER)["Records"]
    for rides in sizes:
        if rides > len(event_records):
            raise CommandError(
                f"a batch of {rides:,} rides is wanted, but there are only {len(event_records):,} rides: add files"
            )
        (folder / f"{rides}.json").write_text(json.dumps({"Records": event_records[:rides]}))


def distinct_rides(records: Sequence[RideRecord]) -> list[Ride]:
    """Return the rides in the records, each once, in order."""
    return list(dict.fromkeys(record.event.ride for record in records if record.event))


def log_models(names: Iterable[str], trips: Trips, folder: Path, trees: int) -> dict[str, LoggedModel]:
    """Train the models on the trips and log them with MLflow into the folder, as ``scripts/train`` does.

    Each model is logged with its served form, without it, and as cloudpickle, so all forms hold the same pipeline.
    """
    # Imported here because mlflow takes seconds to import, and "tracking" before it because it configures mlflow.
    from scripts.models import tracking  # isort: skip
    import mlflow

    from scripts.models import model_logging, training
    from scripts.models.boosting import WITH_TIME, fit_boosted
    from scripts.models.compiling import compile_pipeline

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("bench", artifact_location=(folder / "models").as_uri())
    logged = {}
    for name in names:
        features = WITH_TIME if name == BOOSTED else DEFAULT_FEATURES
        if name == BOOSTED:
            prepared = [prepare_features(ride, features) for ride in trips.rides]
            pipeline = fit_boosted(prepared, trips.values, features, SEED)
        else:
            estimator = training.MODELS[name]()
            if name == FOREST:
                estimator.set_params(n_estimators=trees)
            pipeline = training.fit(estimator, training.features(trips.rides, min_pair_count=1), trips.values)
            if name == FOREST:
                # Training uses all cores, but people log a forest with scikit-learn's default, one core.
                estimator.set_params(n_jobs=None)
        metadata = ModelMetadata(features=features)
        served_form = compile_pipeline(pipeline, training.predict_with(pipeline, features), names=features)
        with mlflow.start_run(experiment_id=experiment) as run:
            served = model_logging.log_model(pipeline, served_form, metadata)
            skops = model_logging.log_model(pipeline, None, metadata)
            cloudpickle = mlflow.sklearn.log_model(
                pipeline,
                name=CLOUDPICKLE,
                serialization_format=CLOUDPICKLE,
                pip_requirements=[],
                metadata={KEY: msgspec.to_builtins(metadata)},
            )
        folders = [Path(tracking.as_path(model.artifact_path)) for model in (served, skops, cloudpickle)]
        logged[name] = LoggedModel(run.info.run_id, dict(zip(FORMS, folders, strict=True)), features)
    return logged
