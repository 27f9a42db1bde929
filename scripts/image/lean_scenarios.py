"""The scenarios of the function's lean image, which has no scikit-learn: each is a function that returns a summary.

Some scenarios are the same functions as for the default image, with the lean image on the stage.
"""

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rides import Ride, RideEvent
from scripts.image.checks import ScenarioError, expect
from scripts.image.models import PIPELINE, SAMPLE, TIMED
from scripts.image.scenarios import (
    COMPLETE,
    Stage,
    expect_failure,
    good_rides,
    holds_the_locked_packages_and_the_modules,
    is_confined,
    needs_no_s3_with_a_model_in_it,
    predicts_a_good_batch,
    starts_from_bytecode_alone,
)
from scripts.sources.events import kinesis_event
from scripts.sources.records import encode_ride

MOST_MB = 120
"""The most megabytes that the lean image may add to its base."""
RIDES = 1_000
TOLERANCE = 1e-12
"""The largest relative difference of a served form's durations from scikit-learn's durations."""


@dataclass(frozen=True)
class LeanStage(Stage):
    """The lean image on a stage, and the default image, with which it is compared."""

    default_image: str


def adds_little_to_its_base(stage: LeanStage) -> str:
    """The limit is too small for scikit-learn and its dependencies."""
    size = (stage.engine.size(stage.image) - stage.engine.size(stage.base)) / 1e6
    summary = f"{size:.0f} MB, of {MOST_MB} MB at most"
    if size > MOST_MB:
        raise ScenarioError(summary)
    return summary


def predicts_to_the_last_bit_as_the_default_image(stage: LeanStage) -> str:
    """The served form gives the same durations in both images. So does scikit-learn in the default image."""
    lean = _predict(stage, stage.image, SAMPLE)
    expect("durations", lean, _predict(stage, stage.default_image, SAMPLE))
    pipelines = _predict(stage, stage.default_image, PIPELINE)
    expect("rides", lean.keys(), pipelines.keys())
    far = [(lean[key], one) for key, one in pipelines.items() if not math.isclose(lean[key], one, rel_tol=TOLERANCE)]
    expect("durations here and by scikit-learn that differ", far, [])
    return f"{len(lean):,} rides, and scikit-learn's durations are the same within {TOLERANCE}"


def refuses_a_model_without_a_served_form(stage: LeanStage) -> str:
    """The init error says that scikit-learn is missing, and how to build an image with it."""
    with stage.function(model=PIPELINE) as function:
        return expect_failure(function, "ModelError", '--build-arg CATEGORIES="packages sklearn"')


def knows_time_zones(stage: LeanStage) -> str:
    """A model gets the hour where the ride takes place, without files of time zones in the base image.

    Its digest is that of the whole folder.
    """
    pickup = datetime.datetime(2023, 7, 1, 12, tzinfo=datetime.UTC)
    ride = encode_ride(RideEvent(Ride(130, 205, 3.66, pickup), 1))
    before = len(stage.predictions())
    with stage.function(model=TIMED, PYTHONTZPATH="") as function:
        expect("response", function.invoke(kinesis_event([ride])), COMPLETE)
    expect("hours", [one.value for one in stage.predictions()[before:]], [8.0])
    return "12:00 in UTC is 8:00 in New York"


LEAN_SCENARIOS: Sequence[Callable[[LeanStage], str]] = (
    holds_the_locked_packages_and_the_modules,
    adds_little_to_its_base,
    is_confined,
    starts_from_bytecode_alone,
    predicts_a_good_batch,
    predicts_to_the_last_bit_as_the_default_image,
    needs_no_s3_with_a_model_in_it,
    knows_time_zones,
    refuses_a_model_without_a_served_form,
)


def _predict(stage: LeanStage, image: str, model: str) -> dict[str, float]:
    """Return the durations that the function of an image writes to the stream for the same rides, by event_id."""
    before = len(stage.predictions())
    with stage.function(image=image, model=model) as function:
        expect("response", function.invoke(good_rides(RIDES)), COMPLETE)
    predictions = stage.predictions()[before:]
    expect("number of predictions", len(predictions), RIDES)
    return {one.event_id: one.value for one in predictions}
