"""The local AWS of the stack: an environment that reaches nothing else, with streams, buckets and a model in it."""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.utils import parse_timestamp

import clients
from artifacts import MLMODEL, ModelError, describe, open_artifact
from model import find_location
from model_metadata import ModelMetadata, read_metadata
from scripts.cli import INPUT_STREAM, OUTPUT_STREAM, SAMPLE_MODEL
from scripts.localaws import moto
from scripts.localaws.moto import environment_without_account
from scripts.localaws.server import HOST
from settings import ModelSettings, SettingsError, StreamSettings

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

MODELS_BUCKET, FAILURES_BUCKET = "ride-models", "ride-failures"
SHADOW = "shadow"
"""The name of the second consumer of ``--shadow``."""
MODEL_VARIABLES = ("MLFLOW_EXPERIMENT_ID", "MODEL_BUCKET", "MODEL_LOCATION", "MODEL_SHA256", "RUN_ID")
OTHER_VARIABLES = ("FAILURES_LOCATION", "MODEL_NAME", "PREDICTION_FIELD", "PREDICTIONS_STREAM_NAME", "TEST_RUN")
FUNCTION_VARIABLES = (*MODEL_VARIABLES, *OTHER_VARIABLES)
"""The variables that configure the function, but for LOG_LEVEL and TIME_ZONE."""


@dataclass(frozen=True)
class ModelCopy:
    """The files of a model, wherever it lies, and the run id that its predictions are tagged with."""

    location: str
    run_id: str
    metadata: ModelMetadata
    files: Mapping[str, bytes]
    folder: str
    """Where the files go in the models bucket, relative to the experiment."""
    sha256: str | None = None
    """The digest that the user has pinned."""
    experiment_id: str = "1"
    """Each consumer has its own, because the files of two models may go to folders of one name."""

    @property
    def prefix(self) -> str:
        """The prefix of the files' keys in the models bucket."""
        return f"{self.experiment_id}/{self.folder}"

    @property
    def uri(self) -> str:
        """Where the copy lies in the local AWS."""
        return f"s3://{MODELS_BUCKET}/{self.prefix}"


@dataclass(frozen=True)
class Outputs:
    """Where a consumer of the input stream writes. Each consumer has outputs of its own."""

    stream: str = OUTPUT_STREAM
    failures_bucket: str = FAILURES_BUCKET

    @property
    def rejections(self) -> str:
        """The location of the rejections."""
        return f"s3://{self.failures_bucket}/rejections"


LIVE = Outputs()
"""The outputs of the first consumer."""
REJECTIONS = LIVE.rejections


@dataclass(frozen=True)
class LocalStack:
    """The local AWS, with streams, buckets and models in it."""

    endpoint: str
    kinesis: "KinesisClient"
    s3: "S3Client"


@contextlib.contextmanager
def start(shards: int, consumers: Iterable[tuple[ModelCopy, Outputs]]) -> Iterator[LocalStack]:
    """Run the local AWS for the length of the block; this process reaches no other AWS from then on.

    It has the input stream, and the model and the outputs of each consumer.
    """
    # With more than ten shards, threads need more connections at once than a client keeps open.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    with moto.serve() as endpoint:
        isolate(os.environ, endpoint)
        # The session so far may hold the credentials of the user, with which the model was read.
        session = botocore.session.get_session()
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
        boto3.setup_default_session(botocore_session=session)
        clients.start_session()
        kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
        models, outputs = zip(*consumers, strict=True)
        create(kinesis, s3, shards, outputs)
        for model in models:
            for name, content in model.files.items():
                s3.put_object(Bucket=MODELS_BUCKET, Key=f"{model.prefix}/{name}", Body=content)
        yield LocalStack(endpoint, kinesis, s3)


def parse_time(value: float | str) -> datetime:
    """Return a time in a response. botocore computes local time for each, which takes most of the time of a read."""
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else parse_timestamp(value)


def copy_chosen_model(environment: Mapping[str, str], location: str | None) -> ModelCopy:
    """Copy the model at the location, else the one that the environment names, else the sample model.

    The user's own AWS settings read it: call this before ``isolate``. Raises ModelError if there is no such model, it
    cannot be read, or no run id is known for it; SettingsError if the environment's variables contradict each other.
    """
    variables = {name: environment.get(name, "") for name in MODEL_VARIABLES}
    if location:
        variables.update(MODEL_LOCATION=location, MODEL_BUCKET="")
    elif not (variables["MODEL_LOCATION"].strip() or variables["MODEL_BUCKET"].strip()):
        return copy_model(str(SAMPLE_MODEL))
    settings = ModelSettings.from_environment(variables)
    return copy_model(find_location(settings), settings.run_id, settings.sha256)


def outputs_of(name: str) -> Outputs:
    """Return the outputs of a consumer that is not the first one. Streams and buckets have its name as their ending."""
    return Outputs(f"{OUTPUT_STREAM}_{name}", f"{FAILURES_BUCKET}-{name}")


def digest_variable(name: str) -> str:
    """Return the name of the user's variable with the digest of a named consumer's model, if it is pickled."""
    return f"{name.upper().replace('-', '_')}_MODEL_SHA256"


def copy_named(environment: Mapping[str, str], name: str, location: str) -> ModelCopy:
    """Copy the model of a named consumer. Raises as ``copy_chosen_model`` does."""
    variable = digest_variable(name)
    variables = {"MODEL_LOCATION": location, "MODEL_SHA256": environment.get(variable, "")}
    # The user's variable has another name, and the location is no variable.
    try:
        settings = ModelSettings.from_environment(variables)
        return replace(copy_model(location, sha256=settings.sha256), experiment_id=name)
    except SettingsError as error:
        raise SettingsError(str(error).replace("MODEL_SHA256", variable)) from error
    except ModelError as error:
        raise ModelError(str(error).replace("MODEL_LOCATION", f"the location of {name}")) from error


def copy_model(location: str, run_id: str = "", sha256: str | None = None) -> ModelCopy:
    """Read the files of a model. Its own run id is used if none is given. Raises ModelError."""
    artifact = open_artifact(location)
    description = describe(artifact)
    version = str(run_id or description.get("run_id") or description.get("model_uuid") or "")
    if not version:
        raise ModelError(f"{location}/{MLMODEL} names no run: set RUN_ID to tag predictions with")
    # MLflow 3 puts a model beside its run. A model without an id of its own, or with another run id than the one to tag
    # predictions with, is found in the place of MLflow 2.
    model_id = str(description.get("model_id"))
    is_beside_run = re.fullmatch("m-[^/]+", model_id) and description.get("run_id") == version
    folder = f"models/{model_id}/artifacts" if is_beside_run else f"{version}/artifacts/model"
    files = {name: artifact.read(name) for name in artifact.names()}
    return ModelCopy(location, version, read_metadata(description, location), files, folder, sha256)


def isolate(environment: MutableMapping[str, str], endpoint: str) -> None:
    """Point the SDK at the endpoint alone: no variable, profile or proxy of the user can lead it anywhere else."""
    alone = environment_without_account(environment)
    environment.clear()
    environment.update(alone, **variables(endpoint))


def variables(endpoint: str) -> dict[str, str]:
    """Return the variables with which a process that has no AWS settings reaches the local AWS."""
    return {"AWS_ENDPOINT_URL": endpoint, **moto.DUMMY_CREDENTIALS, "NO_PROXY": HOST, "no_proxy": HOST}


def create(kinesis: "KinesisClient", s3: "S3Client", shards: int, outputs: Sequence[Outputs] = (LIVE,)) -> None:
    """Create the input stream and the output streams, each with this number of shards, and the buckets."""
    for stream in (INPUT_STREAM, *(one.stream for one in outputs)):
        kinesis.create_stream(StreamName=stream, ShardCount=shards)
        kinesis.get_waiter("stream_exists").wait(StreamName=stream)
    for bucket in (MODELS_BUCKET, *(one.failures_bucket for one in outputs)):
        s3.create_bucket(Bucket=bucket)


def configure_function(environment: MutableMapping[str, str], model: ModelCopy, outputs: Outputs = LIVE) -> None:
    """Set the function's variables for the local AWS and an uploaded model. The user's LOG_LEVEL and TIME_ZONE stay.

    Raises SettingsError if one of them is not valid.
    """
    for name in FUNCTION_VARIABLES:
        environment.pop(name, None)
    environment.update(
        PREDICTIONS_STREAM_NAME=outputs.stream,
        MODEL_BUCKET=MODELS_BUCKET,
        MLFLOW_EXPERIMENT_ID=model.experiment_id,
        RUN_ID=model.run_id,
        MODEL_SHA256=model.sha256 or "",
        MODEL_NAME=f"ride_{model.metadata.target}_prediction_model",
        FAILURES_LOCATION=outputs.rejections,
    )
    environment["LOG_LEVEL"] = environment.get("LOG_LEVEL") or "WARNING"
    # Metrics would be printed for every batch, and nothing here collects them.
    environment["POWERTOOLS_METRICS_DISABLED"] = "true"
    StreamSettings.from_environment(environment)  # a wrong variable would end each sandbox, one after the other


def find_shard(kinesis: "KinesisClient", stream: str, partition_key: str) -> str:
    """Return the shard of a partition key: its range of hash keys holds the key's MD5 (Kinesis developer guide)."""
    place = int.from_bytes(hashlib.md5(partition_key.encode(), usedforsecurity=False).digest(), "big")
    ranges = [(shard["HashKeyRange"], shard["ShardId"]) for shard in kinesis.list_shards(StreamName=stream)["Shards"]]
    return next(shard for keys, shard in ranges if int(keys["StartingHashKey"]) <= place <= int(keys["EndingHashKey"]))
