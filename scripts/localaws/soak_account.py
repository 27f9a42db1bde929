"""The account of a soak: what became of every ride that was put, by its event id."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from rides import Prediction
from scripts.aws.shards import follow
from scripts.commands.read_predictions import predictions_of
from scripts.localaws import setup
from scripts.localaws.account import stored_objects
from scripts.localaws.soak_rides import Expected, Outcome

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Account:
    """What became of the rides that were put, each known by its event id."""

    put: int
    predicted: int
    """Distinct ones."""
    rejected: int
    """Distinct ones."""
    duplicates: int
    """Predictions that repeat the event id of another."""
    missing: Sequence[str]
    """Put, but neither predicted nor rejected."""
    unknown: Sequence[str]
    """Predicted or rejected, but never put."""
    contradictory: Sequence[str]
    """Predicted and rejected."""
    wrong: Sequence[str]
    """Good rides that were rejected, bad ones that were predicted, and predictions of another ride_id or duration."""

    @property
    def is_exact(self) -> bool:
        """Whether every ride that was put was predicted or rejected, as it had to be, and nothing else was."""
        wrongs = (self.missing, self.unknown, self.contradictory, self.wrong)
        return not any(wrongs) and self.put == self.predicted + self.rejected


def stored_predictions(kinesis: "KinesisClient") -> Iterator[Prediction]:
    """Yield all that is on the output stream."""
    for found in itertools.takewhile(bool, follow(kinesis, setup.OUTPUT_STREAM)):
        for read in predictions_of(found):
            yield read.prediction


def rejected_event_ids(s3: "S3Client") -> Iterator[str]:
    """Yield the event ids of all that is in the failures bucket."""
    for body in stored_objects(s3, f"{setup.REJECTIONS_PREFIX}/"):
        for line in body.splitlines():
            yield msgspec.json.decode(line, type=_RejectionLine).event_id


class _RejectionLine(msgspec.Struct):
    event_id: str


def settle(put: Mapping[str, Outcome], predictions: Iterable[Prediction], rejections: Iterable[str]) -> Account:
    """Return the account of rides that were put, by event id, from all predictions and the rejections' event ids."""
    predicted, wrong, number = set(), set(), 0
    for prediction in predictions:
        number += 1
        predicted.add(prediction.event_id)
        found = Expected(prediction.ride_id, prediction.value)
        if prediction.event_id in put and put[prediction.event_id] != found:
            wrong.add(prediction.event_id)
    rejected = set(rejections)
    wrong |= {event_id for event_id in rejected if put.get(event_id) is not None}
    return Account(
        put=len(put),
        predicted=len(predicted),
        rejected=len(rejected),
        duplicates=number - len(predicted),
        missing=[event_id for event_id in put if event_id not in predicted and event_id not in rejected],
        unknown=sorted((predicted | rejected) - put.keys()),
        contradictory=sorted(predicted & rejected),
        wrong=sorted(wrong),
    )
