"""The features of a ride: what every model is trained with and predicts from, made in one place."""

import datetime
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from rides import Ride


class Features(TypedDict):
    """A model's input for a ride, in training and serving. A model gets at least the features that it wants."""

    PU_DO: str
    """The pair of zones, such as "130_205"."""
    trip_distance: float
    """Miles."""
    PULocationID: NotRequired[str]
    DOLocationID: NotRequired[str]
    hour: NotRequired[float]
    """The hour of the pickup where the ride takes place, with minutes and seconds as its fraction: 8.5 is 8:30."""
    weekday: NotRequired[float]
    """The weekday of the pickup where the ride takes place: 0.0 is Monday."""


DEFAULT_FEATURES = ("PU_DO", "trip_distance")
"""The features of a model whose artifact names none."""
ZONES = ("PULocationID", "DOLocationID")
TIMES = ("hour", "weekday")
KNOWN = (*DEFAULT_FEATURES, *ZONES, *TIMES)
"""All features that a model may want."""


class NoTimeError(ValueError):
    """The model wants the time of the pickup, and the ride has none."""


def wants_time(names: Sequence[str]) -> bool:
    """Return whether some of these features come from the pickup's time."""
    return any(name in TIMES for name in names)


def prepare_features(
    ride: Ride, names: Sequence[str] = DEFAULT_FEATURES, zone: datetime.tzinfo | None = None
) -> Features:
    """Return the features of a ride, the same for training and serving.

    Args:
        ride: the ride. A pickup without a UTC offset is what a clock shows where the ride takes place.
        names: the features that the model wants.
        zone: the time zone where the ride takes place, in which a pickup with a UTC offset is read.

    Raises:
        NoTimeError: if the model wants the time, and the ride has none.
        ValueError: if the model wants the time, the pickup has a UTC offset, and no zone is given.
    """
    features: Features = {"PU_DO": f"{ride.PULocationID}_{ride.DOLocationID}", "trip_distance": ride.trip_distance}
    if names is DEFAULT_FEATURES:
        return features
    features["PULocationID"], features["DOLocationID"] = str(ride.PULocationID), str(ride.DOLocationID)
    if "hour" in names or "weekday" in names:
        pickup = ride.pickup_datetime
        if pickup is None:
            raise NoTimeError("the model needs the pickup's time, and the ride has no pickup_datetime")
        if pickup.tzinfo is not None:
            if zone is None:
                # Python would take the zone of this machine.
                raise ValueError("a pickup with a UTC offset needs the time zone in which it is read")
            pickup = pickup.astimezone(zone)
        features["hour"] = pickup.hour + pickup.minute / 60 + pickup.second / 3600
        features["weekday"] = float(pickup.weekday())
    return features


SAMPLE_RIDE = Ride(130, 205, 3.66, datetime.datetime(2023, 2, 1, 8, 30))
"""An ordinary ride. A model that cannot predict it is refused when it is loaded."""
SAMPLE_FEATURES: Features = {
    "PU_DO": "130_205",
    "trip_distance": 3.66,
    "PULocationID": "130",
    "DOLocationID": "205",
    "hour": 8.5,
    "weekday": 2.0,
}
"""All features of an ordinary ride. They are not computed here, because ``--help`` imports this module without
packages."""
