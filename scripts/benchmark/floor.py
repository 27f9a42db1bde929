"""The floor: what any consumer has to pay that predicts with scikit-learn and puts with boto3.

The model predicts ready-made features in one call, and ready-made entries are put 500 at a time, by a client as boto3
makes it. There is no decoding, no encoding, no checking and no telemetry.
"""

import base64
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

ENTRIES_A_REQUEST = 500
TRUSTED_TYPES = ["sklearn.tree._tree.Tree"]
MINUTES = 15.717900398172926
"""A duration of the length that they have: the entries are made before the model is asked."""


@dataclass(frozen=True)
class ReadyBatch:
    """All that can be made before the clock runs."""

    features: list[dict[str, Any]]
    chunks: "list[list[PutRecordsRequestEntryTypeDef]]"


def load_pipeline(folder: Path) -> Any:
    """Return the pipeline that MLflow logged into the folder, as skops or as cloudpickle."""
    serialized = folder / "model.skops"
    if serialized.exists():
        # Here and not above: it is the floor of the one serialization and not of the other.
        import skops.io

        return skops.io.load(serialized, trusted=TRUSTED_TYPES)
    return pickle.loads((folder / "model.pkl").read_bytes())  # noqa: S301 - logged by the benchmark itself


PIPELINE = load_pipeline(Path(os.environ["MODEL_LOCATION"]))
KINESIS = boto3.client("kinesis")
STREAM = os.environ["PREDICTIONS_STREAM_NAME"]
RUN_ID = os.environ["RUN_ID"]


def made_ready(event: Mapping[str, Any]) -> ReadyBatch:
    """Return the features of the event's rides, and entries of the size that ours have."""
    features: list[dict[str, Any]] = []
    entries: list[PutRecordsRequestEntryTypeDef] = []
    for record in event["Records"]:
        received = json.loads(base64.b64decode(record["kinesis"]["data"]))
        ride, ride_id = received["ride"], received["ride_id"]
        features.append(
            {"PU_DO": f"{ride['PULocationID']}_{ride['DOLocationID']}", "trip_distance": ride["trip_distance"]}
        )
        prediction = {
            "model": "ride_duration_prediction_model",
            "version": RUN_ID,
            "prediction": {"ride_duration": MINUTES, "ride_id": ride_id},
            "event_id": record["eventID"],
        }
        data = json.dumps(prediction, separators=(",", ":")).encode()
        entries.append({"Data": data, "PartitionKey": str(ride_id)})
    starts = range(0, len(entries), ENTRIES_A_REQUEST)
    return ReadyBatch(features, [entries[start : start + ENTRIES_A_REQUEST] for start in starts])


def handle(batch: ReadyBatch) -> None:
    """Predict and put."""
    PIPELINE.predict(batch.features)
    for chunk in batch.chunks:
        KINESIS.put_records(StreamName=STREAM, Records=chunk)
