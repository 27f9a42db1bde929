"""The web service that the course teaches: Flask, mlflow.pyfunc and one ride a request.

It takes the same ride as this project's service and gives the same duration. It checks no input and has no metrics.
"""

import os
from typing import Any

import mlflow.pyfunc
from flask import Flask, Response, jsonify, request

from scripts.benchmark.course_features import prepare_features, prepare_frame, wants_time

RUN_ID = os.environ["RUN_ID"]

model = mlflow.pyfunc.load_model(os.environ["MODEL_LOCATION"])
prepare = prepare_frame if wants_time(model) else prepare_features


def predict(features: Any) -> float:
    """Return the duration of one ride, in minutes."""
    return float(model.predict(features)[0])


app = Flask("duration-prediction")


@app.post("/predict")
def predict_endpoint() -> Response:
    """Answer a ride with its duration."""
    ride = request.get_json()
    return jsonify({"duration": predict(prepare(ride)), "model_version": RUN_ID})
