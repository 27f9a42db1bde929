"""The floor: the cost that no consumer avoids if it predicts with scikit-learn and puts with the SDK, both tuned.

The model predicts ready-made features in one call, and ready-made entries are put 500 at a time, one request after the
other. Nothing is decoded, encoded, checked or logged. The client has the settings of our function's client: it does not
validate parameters and does not retry. ``consumers.py``, which imports this module, treats the garbage collector as our
function does.

Without MODEL_LOCATION this module is the empty floor: it imports numpy, because every model needs it, and has only the
client and the requests.
"""

import base64
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
import numpy as np  # noqa: F401
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

ENTRIES_A_REQUEST = 500
TRUSTED_TYPES = [
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.model_selection._split.KFold",
    "sklearn.tree._tree.Tree",
]
MINUTES = 15.717900398172926
"""A duration of the usual length in characters: the entries are made before the model predicts."""
CONFIG = Config(retries={"total_max_attempts": 1}, connect_timeout=1.0, read_timeout=5.0, parameter_validation=False)
"""The settings of ``streaming.delivery.SDK_CONFIG``. It is not imported, because the floor does not need its module."""


def load_pipeline(folder: Path) -> Any:
    """Return the pipeline that MLflow logged into the folder, as skops or as cloudpickle."""
    serialized = folder / "model.skops"
    if serialized.exists():
        # Imported here because a floor that reads cloudpickle does not pay for skops.
        import skops.io

        return skops.io.load(serialized, trusted=TRUSTED_TYPES)
    return pickle.loads((folder / "model.pkl").read_bytes())  # noqa: S301 - logged by the benchmark itself


LOCATION = os.environ.get("MODEL_LOCATION")
PIPELINE = load_pipeline(Path(LOCATION)) if LOCATION else None
KINESIS: Any = botocore.session.get_session().create_client("kinesis", config=CONFIG)
STREAM = os.environ["PREDICTIONS_STREAM_NAME"]
RUN_ID = os.environ["RUN_ID"]


def prepare(event: Mapping[str, Any]) -> Callable[[], list[float]]:
    """Make the features of the event's rides, and entries as large as ours; return a function that only uses them."""
    features: Any = []
    entries: list[PutRecordsRequestEntryTypeDef] = []
    for record in event["Records"]:
        received = json.loads(base64.b64decode(record["kinesis"]["data"]))
        ride, ride_id = received["ride"], received["ride_id"]
        features.append(ride)
        prediction = {
            "model": "ride_duration_prediction_model",
            "version": RUN_ID,
            "prediction": {"ride_duration": MINUTES, "ride_id": ride_id},
            "event_id": record["eventID"],
        }
        data = json.dumps(prediction, separators=(",", ":")).encode()
        entries.append({"Data": data, "PartitionKey": str(ride_id)})
    features = _prepare_input(features)
    requests = [entries[at : at + ENTRIES_A_REQUEST] for at in range(0, len(entries), ENTRIES_A_REQUEST)]

    def handle() -> list[float]:
        durations: list[float] = PIPELINE.predict(features).tolist() if PIPELINE is not None else []
        for request in requests:
            KINESIS.put_records(StreamName=STREAM, Records=request)
        return durations

    return handle


def _prepare_input(rides: list[dict[str, Any]]) -> Any:
    """Return the pipeline's input for these rides, as dictionaries or as a DataFrame."""
    if not hasattr(PIPELINE, "feature_names_in_"):
        return [
            {"PU_DO": f"{ride['PULocationID']}_{ride['DOLocationID']}", "trip_distance": ride["trip_distance"]}
            for ride in rides
        ]
    # Imported here because only a pipeline that was fitted on a DataFrame needs pandas.
    import pandas as pd

    from scripts.benchmark.course_features import prepare_frame

    return pd.concat([prepare_frame(ride) for ride in rides], ignore_index=True)
