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

MODEL_NAME = "ride_duration_prediction_model"
PREDICTIONS_STREAM_NAME = os.environ["PREDICTIONS_STREAM_NAME"]
RUN_ID = os.environ["RUN_ID"]

model = mlflow.pyfunc.load_model(os.environ["MODEL_LOCATION"])
kinesis_client = boto3.client("kinesis")


def prepare_features(ride: dict[str, Any]) -> dict[str, Any]:
    """Return the model's input for one ride."""
    return {"PU_DO": f"{ride['PULocationID']}_{ride['DOLocationID']}", "trip_distance": ride["trip_distance"]}


def predict(features: dict[str, Any]) -> float:
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
            "prediction": {"ride_duration": predict(prepare_features(ride_event["ride"])), "ride_id": ride_id},
        }
        kinesis_client.put_record(
            StreamName=PREDICTIONS_STREAM_NAME, Data=json.dumps(prediction), PartitionKey=str(ride_id)
        )
        predictions.append(prediction)
    return {"predictions": predictions}
