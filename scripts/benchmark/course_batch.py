"""The batch script that the course teaches: pandas, mlflow.pyfunc, and all rides of a month in one call.

It takes a colour, a year and a month, and MODEL_LOCATION, RUN_ID, INPUT_FILE and OUTPUT_FILE from the environment. As
in the course, rides of less than a minute or more than an hour are left out, and each ride gets a random id. The output
is written in place, so half a file is left if the script is killed.
"""

import os
import sys
import uuid
from typing import Any

import mlflow.pyfunc
import pandas as pd

from scripts.benchmark.course_features import wants_time

PREFIXES = {"green": "lpep", "yellow": "tpep"}
"""How the names of the time columns begin in a colour's files."""
PLACES = ["PULocationID", "DOLocationID"]


def read_rides(file: str, colour: str) -> Any:
    """Return the usual rides of a month as a DataFrame, with an id, the pickup time and the duration in minutes."""
    rides = pd.read_parquet(file)
    rides["pickup_datetime"] = rides[f"{PREFIXES[colour]}_pickup_datetime"]
    rides["duration"] = (rides[f"{PREFIXES[colour]}_dropoff_datetime"] - rides.pickup_datetime).dt.total_seconds() / 60
    rides = rides[(rides.duration >= 1) & (rides.duration <= 60)].copy()
    rides["ride_id"] = [str(uuid.uuid4()) for _ in range(len(rides))]
    return rides


def prepare_input(rides: Any, *, with_time: bool) -> Any:
    """Return the model's input for each ride: a DataFrame if it wants the time, or else dictionaries."""
    categories = rides[PLACES].astype(str)
    features = pd.DataFrame({"PU_DO": categories.PULocationID + "_" + categories.DOLocationID})
    features["trip_distance"] = rides.trip_distance
    if not with_time:
        return features.to_dict(orient="records")
    features[PLACES] = categories
    pickups = rides.pickup_datetime.dt
    features["hour"] = pickups.hour + pickups.minute / 60 + pickups.second / 3600
    features["weekday"] = pickups.weekday.astype(float)
    return features


def make_result(rides: Any, durations: Any, version: str) -> Any:
    """Return the table that is written."""
    result = rides[["ride_id", "pickup_datetime", *PLACES]].copy()
    result["actual_duration"] = rides.duration
    result["predicted_duration"] = durations
    result["diff"] = result.actual_duration - result.predicted_duration
    result["model_version"] = version
    return result


def main() -> None:
    """Score the month."""
    rides = read_rides(os.environ["INPUT_FILE"], sys.argv[1])
    model = mlflow.pyfunc.load_model(os.environ["MODEL_LOCATION"])
    durations = model.predict(prepare_input(rides, with_time=wants_time(model)))
    result = make_result(rides, durations, os.environ["RUN_ID"])
    result.to_parquet(os.environ["OUTPUT_FILE"], engine="pyarrow", index=False)


if __name__ == "__main__":
    main()
