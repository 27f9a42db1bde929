"""The account of a run: what became of every ride that was put, by the output stream and the failures bucket."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from scripts.aws.predictions import ReadPrediction, read_predictions
from scripts.aws.shards import follow
from scripts.localaws.setup import FAILURES_BUCKET, OUTPUT_STREAM, REJECTIONS_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


class Rejected(msgspec.Struct, frozen=True):
    """What is used of a line that the function left in the failures bucket."""

    kind: str
    reason: str
    partition_key: str


@dataclass(frozen=True)
class Findings:
    """What a run left behind, redelivered records and all."""

    predictions: Sequence[ReadPrediction]
    rejected: Sequence[Rejected]
    given_up: Set[str]
    """Partition keys of the records in the mapping's on-failure destination."""


@dataclass(frozen=True)
class Account:
    """What became of the rides that were put, each of which is known by its partition key and counts once."""

    put: int
    predictions: Mapping[str, ReadPrediction]
    """Each ride's first."""
    rejected: Mapping[str, Rejected]
    given_up: Set[str]
    """Rides that the mapping discarded after the function had failed on them again and again."""
    redelivered: int
    """Records that the function was given again, each time counted."""
    missing: Sequence[str]
    """Rides that are nowhere."""
    latencies: Sequence[float]
    """Seconds from put to prediction, ascending."""
    seconds: float
    """From the first put to the end."""

    @property
    def complete(self) -> bool:
        """Whether every ride was predicted or rejected, and nothing else was."""
        return self.put == len(self.predictions) + len(self.rejected) and not self.missing

    @property
    def rides_per_second(self) -> float:
        """Rides that were put, predicted and settled a second."""
        return self.put / self.seconds

    def latency(self, percent: int) -> float | None:
        """Return the latency in seconds that so many percent of the rides stayed within (nearest rank)."""
        if not self.latencies:
            return None
        return self.latencies[-(-len(self.latencies) * percent // 100) - 1]


def find(kinesis: "KinesisClient", s3: "S3Client") -> Findings:
    """Read back the predictions, through shard iterators, and what lies in the failures bucket."""
    rounds = itertools.takewhile(bool, follow(kinesis, OUTPUT_STREAM))
    predictions = [prediction for found in rounds for prediction in read_predictions(found)]
    lines = (line for body in stored_objects(s3, f"{REJECTIONS_PREFIX}/") for line in body.splitlines())
    rejected = [msgspec.json.decode(line, type=Rejected) for line in lines]
    given_up = {
        record["kinesis"]["partitionKey"]
        for body in stored_objects(s3, "aws/lambda/")
        for record in json.loads(json.loads(body)["payload"])["Records"]
    }
    return Findings(predictions, rejected, given_up)


def settle(put_at: Mapping[str, float], findings: Findings, *, redelivered: int, ended_at: float) -> Account:
    """Return the account of rides put at these times, by partition key; times are in seconds since the epoch."""
    predictions: dict[str, ReadPrediction] = {}
    for read in sorted(findings.predictions, key=lambda read: read.arrived):
        predictions.setdefault(str(read.prediction.ride_id), read)
    rejected = {line.partition_key: line for line in findings.rejected if line.partition_key not in predictions}
    given_up = findings.given_up - predictions.keys() - rejected.keys()
    found = predictions.keys() | rejected.keys() | given_up
    return Account(
        put=len(put_at),
        predictions=predictions,
        rejected=rejected,
        given_up=given_up,
        redelivered=redelivered,
        missing=[ride for ride in put_at if ride not in found],
        latencies=sorted(
            read.arrived.timestamp() - put_at[ride] for ride, read in predictions.items() if ride in put_at
        ),
        seconds=ended_at - min(put_at.values()),
    )


def stored_objects(s3: "S3Client", prefix: str) -> Iterator[bytes]:
    """Yield the bodies of the objects in the failures bucket whose keys begin so."""
    pages: Any = s3.get_paginator("list_objects_v2").paginate(Bucket=FAILURES_BUCKET, Prefix=prefix)
    for page in pages:
        for found in page.get("Contents", []):
            yield s3.get_object(Bucket=FAILURES_BUCKET, Key=found["Key"])["Body"].read()
