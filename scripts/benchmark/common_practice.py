"""The consumer that courses teach and teams run: one prediction and one request for each ride.

It reads the same variables as this project's function and makes the same predictions. It handles no failure: a bad
record stops it, and records that Kinesis does not accept are lost or put twice.
"""

import base64
import json
import os
from typing import Any

import boto3
import mlflow.pyfunc

from scripts.benchmark.course_features import prepare_features, prepare_frame, wants_time

MODEL_NAME = "ride_duration_prediction_model"
PREDICTIONS_STREAM_NAME = os.environ["PREDICTIONS_STREAM_NAME"]
RUN_ID = os.environ["RUN_ID"]

model = mlflow.pyfunc.load_model(os.environ["MODEL_LOCATION"])
prepare = prepare_frame if wants_time(model) else prepare_features
kinesis_client = boto3.client("kinesis")


def predict(features: Any) -> float:
    """Return the duration of one ride, in minutes."""
    return float(model.predict(features)[0])


def lambda_handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001
    """Predict each ride of the event and put each prediction on the output stream."""
    predictions = []
    for record in event["Records"]:
        ride_event = json.loads(base64.b64decode(record["kinesis"]["data"]).decode("utf-8"))
        ride_id = ride_event["ride_id"]
        prediction = {
            "model": MODEL_NAME,
            "version": RUN_ID,
            "prediction": {"ride_duration": predict(prepare(ride_event["ride"])), "ride_id": ride_id},
        }
        kinesis_client.put_record(
            StreamName=PREDICTIONS_STREAM_NAME, Data=json.dumps(prediction), PartitionKey=str(ride_id)
        )
        predictions.append(prediction)
    return {"predictions": predictions}
