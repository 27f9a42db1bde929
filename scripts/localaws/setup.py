"""The local AWS of the stack: an environment that reaches nothing else, and the streams and buckets in it."""

import hashlib
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from artifacts import Artifact, describe
from scripts import cli
from scripts.localaws.moto import DUMMY_CREDENTIALS, REGION, environment_without_account
from scripts.localaws.server import HOST

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

INPUT_STREAM, OUTPUT_STREAM = cli.INPUT_STREAM, cli.OUTPUT_STREAM
MODELS_BUCKET, FAILURES_BUCKET = "ride-models", "ride-failures"
REJECTIONS_PREFIX = "rejections"
REJECTIONS = f"s3://{FAILURES_BUCKET}/{REJECTIONS_PREFIX}"
EXPERIMENT_ID = "1"

FUNCTION_VARIABLES = (
    "FAILURES_LOCATION",
    "MLFLOW_EXPERIMENT_ID",
    "MODEL_BUCKET",
    "MODEL_LOCATION",
    "MODEL_NAME",
    "MODEL_SHA256",
    "PREDICTION_FIELD",
    "PREDICTIONS_STREAM_NAME",
    "RUN_ID",
    "TEST_RUN",
)
"""What configures the function, but for LOG_LEVEL."""


def isolate(environment: MutableMapping[str, str], endpoint: str) -> None:
    """Point the SDK at the endpoint alone: no variable, profile or proxy of the user's can lead it anywhere else."""
    alone = environment_without_account(environment)
    environment.clear()
    environment.update(alone, AWS_ENDPOINT_URL=endpoint)
    environment["NO_PROXY"] = environment["no_proxy"] = HOST


def shell_exports(endpoint: str) -> list[str]:
    """Return the lines that point a shell's AWS command line, version 1 or 2, and the SDKs at the endpoint."""
    # Version 2 prefers AWS_REGION, which version 1 does not know, and shows answers in a pager unless told not to.
    variables = {"AWS_ENDPOINT_URL": endpoint, **DUMMY_CREDENTIALS, "AWS_REGION": REGION, "AWS_PAGER": ""}
    return [f"export {name}={value}" for name, value in variables.items()]


def create(kinesis: "KinesisClient", s3: "S3Client", shards: int) -> None:
    """Create both streams, each of so many shards, and both buckets."""
    for stream in (INPUT_STREAM, OUTPUT_STREAM):
        kinesis.create_stream(StreamName=stream, ShardCount=shards)
        kinesis.get_waiter("stream_exists").wait(StreamName=stream)
    for bucket in (MODELS_BUCKET, FAILURES_BUCKET):
        s3.create_bucket(Bucket=bucket)


def upload(s3: "S3Client", model: Artifact) -> str:
    """Upload a model as MLflow 3 lays it out in a bucket, and return the id of the run that logged it."""
    description = describe(model)
    for name in model.names():
        key = f"{EXPERIMENT_ID}/models/{description['model_id']}/artifacts/{name}"
        s3.put_object(Bucket=MODELS_BUCKET, Key=key, Body=model.read(name))
    return str(description["run_id"])


def configure_function(environment: MutableMapping[str, str], run_id: str) -> None:
    """Set the function's variables for this stack, whatever the user's were; only a LOG_LEVEL of theirs stays."""
    for name in FUNCTION_VARIABLES:
        environment.pop(name, None)
    environment.update(
        PREDICTIONS_STREAM_NAME=OUTPUT_STREAM,
        MODEL_BUCKET=MODELS_BUCKET,
        MLFLOW_EXPERIMENT_ID=EXPERIMENT_ID,
        RUN_ID=run_id,
        FAILURES_LOCATION=REJECTIONS,
    )
    environment["LOG_LEVEL"] = environment.get("LOG_LEVEL") or "WARNING"
    # They would go to stdout, batch after batch, where nothing takes them for metrics.
    environment["POWERTOOLS_METRICS_DISABLED"] = "true"


def shard_of(kinesis: "KinesisClient", stream: str, partition_key: str) -> str:
    """Return the shard that Kinesis puts a partition key on: the one whose range holds its MD5 (developer guide)."""
    place = int.from_bytes(hashlib.md5(partition_key.encode(), usedforsecurity=False).digest(), "big")
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        keys = shard["HashKeyRange"]
        if int(keys["StartingHashKey"]) <= place <= int(keys["EndingHashKey"]):
            return shard["ShardId"]
    raise LookupError(f"no shard of {stream} takes the partition key {partition_key}")
