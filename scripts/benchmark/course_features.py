"""The features that the course's programs make for a ride, without any code of this project's own.

A model of the zones and the distance takes a dictionary. A model that wants the time of the pickup as well was trained
on a DataFrame, and takes a DataFrame with one row.
"""

from datetime import datetime
from typing import Any

import pandas as pd


def wants_time(model: Any) -> bool:
    """Return whether a model that mlflow.pyfunc has loaded wants the time of the pickup."""
    return "hour" in (model.metadata.metadata or {}).get("ride_model", {}).get("features", ())


def prepare_features(ride: dict[str, Any]) -> dict[str, Any]:
    """Return a ride's pair of zones and its distance."""
    return {"PU_DO": f"{ride['PULocationID']}_{ride['DOLocationID']}", "trip_distance": ride["trip_distance"]}


def prepare_frame(ride: dict[str, Any]) -> Any:
    """Return a DataFrame with a row of all features of a ride, whose pickup is what a clock shows at its place."""
    pickup = datetime.fromisoformat(ride["pickup_datetime"])
    zones = {name: str(ride[name]) for name in ("PULocationID", "DOLocationID")}
    times = {"hour": pickup.hour + pickup.minute / 60 + pickup.second / 3600, "weekday": float(pickup.weekday())}
    return pd.DataFrame([{**prepare_features(ride), **zones, **times}])
