"""The features of a ride, a model's version, and predicting a batch."""

import json
import math
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts import ModelError
from features import Features, prepare_features
from model import Model, NotTriedError, PredictionError, load_model
from model_metadata import ModelMetadata
from rides import Ride
from scripts.cli import SAMPLE_MODEL
from scripts.models.boosting import WITH_TIME


def test_features_are_the_pair_of_zones_and_the_distance() -> None:
    """Their names are those that the course's models are trained on."""
    assert prepare_features(Ride(130, 205, 3.66)) == {"PU_DO": "130_205", "trip_distance": 3.66}


def test_version_defaults_to_the_run_id(tmp_path: Path) -> None:
    """MLflow writes the run id into a logged model."""
    shutil.copytree(SAMPLE_MODEL, tmp_path / "model")
    description = tmp_path / "model" / "MLmodel"
    lines = [line for line in description.read_text().splitlines() if not line.startswith("run_id")]
    description.write_text("\n".join([*lines, "run_id: e1efc53e9bd149078b0c12aeaa6365df", ""]))
    assert load_model(str(tmp_path / "model")).version == "e1efc53e9bd149078b0c12aeaa6365df"


@pytest.mark.parametrize("run", [["abc"], {"a": "b"}, "a" * 257, "a\x1b[31m", "a\nb"])
def test_a_run_that_is_not_an_id_is_refused(tmp_path: Path, run: object) -> None:
    """Each prediction would carry it."""
    shutil.copytree(SAMPLE_MODEL, tmp_path / "model")
    description = tmp_path / "model" / "MLmodel"
    lines = [line for line in description.read_text().splitlines() if not line.startswith("run_id")]
    description.write_text("\n".join([*lines, f"run_id: {json.dumps(run)}", ""]))
    with pytest.raises(ModelError, match="a run that is not an id: set RUN_ID"):
        load_model(str(tmp_path / "model"))
    assert load_model(str(tmp_path / "model"), version="mine").version == "mine"


def test_a_time_zone_that_the_system_does_not_know_is_an_error() -> None:
    """The error names the zone and the package that has all zones. A model that does not use the time needs no zone."""
    wants_time = ModelMetadata(features=WITH_TIME)
    with pytest.raises(ModelError, match="does not know the time zone Mars/Base: install the package tzdata"):
        Model(lambda features: [], "v", wants_time, "Mars/Base")
    assert Model(lambda features: [1.0], "v", time_zone="Mars/Base").predict([Ride(1, 2, 3.0)]) == [1.0]


class Calls:
    """A model that records the size of each call, and raises for some pickup zones."""

    def __init__(self, *poison: int, answer: Callable[[Features], float] = lambda ride: ride["trip_distance"]) -> None:
        """Raise for the zones ``poison``; predict ``answer`` for others, by default the distance."""
        self.sizes: list[int] = []
        self._poison = {f"{zone}_1" for zone in poison}
        self._answer = answer

    def __call__(self, features: list[Features]) -> list[float]:
        """Predict all rides or raise, as a pipeline does."""
        self.sizes.append(len(features))
        if any(ride["PU_DO"] in self._poison for ride in features):
            raise ValueError("zone?")
        return [self._answer(ride) for ride in features]


def rides(count: int) -> list[Ride]:
    """Build rides whose pickup zone is their number."""
    return [Ride(number, 1, float(number)) for number in range(count)]


class TestPredicting:
    """Predicting a batch: one call, and one bad ride does not fail the others."""

    def test_a_batch_is_one_call(self) -> None:
        """The number of rides makes no difference."""
        calls = Calls()
        assert Model(calls, "v").predict(rides(100)) == [float(number) for number in range(100)]
        assert calls.sizes == [100]

    def test_the_model_is_not_called_for_an_empty_batch(self) -> None:
        """For an empty batch, scikit-learn would raise an exception."""
        calls = Calls()
        assert Model(calls, "v").predict([]) == []
        assert calls.sizes == []

    @pytest.mark.parametrize("poison", [{0}, {99}, {37, 38}, {0, 50, 99}, set(range(100))])
    def test_each_ride_that_the_model_cannot_predict_is_an_error(self, poison: set[int]) -> None:
        """Every other ride gets its prediction, in its place."""
        durations = Model(Calls(*poison), "v").predict(rides(100))
        assert len(durations) == 100
        for number, duration in enumerate(durations):
            if number in poison:
                assert isinstance(duration, PredictionError)
                assert "ValueError: zone?" in str(duration)
            else:
                assert duration == number

    def test_a_ride_without_a_time_is_an_error_for_a_model_that_wants_it(self) -> None:
        """The other rides get predictions. The entry points give each ride a time before they call the model."""
        model = Model(lambda features: [one["hour"] for one in features], "v", ModelMetadata(features=WITH_TIME))
        timed = Ride(1, 2, 3.0, datetime(2023, 2, 1, 8, 30))
        first, second, third = model.predict([timed, Ride(1, 2, 3.0), timed])
        assert (first, third) == (8.5, 8.5)
        assert str(second) == "the model needs the pickup's time, and the ride has no pickup_datetime"

    def test_isolating_one_ride_takes_few_calls(self) -> None:
        """Halving finds the ride without a call for every ride."""
        calls = Calls(700)
        Model(calls, "v").predict(rides(1024))
        assert len(calls.sizes) == 21

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_a_number_that_is_not_finite_is_an_error(self, value: float) -> None:
        """JSON cannot express it. The other rides keep their predictions."""
        model = Model(Calls(answer=lambda ride: value if ride["PU_DO"] == "1_1" else 2.0), "v")
        durations = model.predict(rides(3))
        assert isinstance(durations[1], PredictionError)
        assert [durations[0], durations[2]] == [2.0, 2.0]

    def test_rides_are_not_tried_once_the_time_is_over(self) -> None:
        """The first half is tried, and the second gets NotTriedError, which is not a rejection."""
        checks = iter([False, True])
        answers = Model(Calls(0, 1, 2), "v").predict(rides(2), lambda: next(checks))
        assert [type(answer) for answer in answers] == [PredictionError, NotTriedError]

    def test_a_column_of_predictions_is_accepted(self) -> None:
        """Some estimators return an array of the shape (n, 1)."""
        assert Model(lambda features: [[1.0] for _ in features], "v").predict(rides(3)) == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (np.ma.masked_array([1.0, 2.0], mask=[True, False]), [None, 2.0]),
            (np.array([1 + 2j, 3 + 0j]), [None, None]),
            (np.array(["1.0", "2.0"]), [None, None]),
            (np.array(["2023-01-01", "2023-01-02"], dtype="datetime64[D]"), [None, None]),
            (np.array([1, 2], dtype=object), [1.0, 2.0]),
            (np.array([1, 2], dtype=np.int32), [1.0, 2.0]),
            (np.array([True, False]), [1.0, 0.0]),
            ([math.nan, math.inf], [None, None]),
        ],
        ids=["masked", "complex", "text", "dates", "objects", "integers", "booleans", "not finite"],
    )
    def test_only_real_numbers_are_predictions(self, answer: Any, expected: list[float | None]) -> None:
        """A value behind a mask, or of another type, is an error for its ride, and is never converted silently."""

        def call(features: list[Features]) -> Any:
            first = 0 if features[0]["trip_distance"] == 0 else 1
            return answer[first : first + len(features)]

        found = Model(call, "v").predict(rides(2))
        assert [None if isinstance(value, PredictionError) else value for value in found] == expected

    def test_a_long_message_of_the_model_is_cut(self) -> None:
        """Each of thousands of rides could bring such a message."""

        def call(features: list[Features]) -> list[float]:
            raise ValueError("long" * 10_000)

        (error,) = Model(call, "v").predict(rides(1))
        assert 100 < len(str(error)) <= 1000

    def test_a_model_may_change_its_input(self) -> None:
        """The input belongs to that call alone."""

        def call(features: list[Features]) -> list[float]:
            values = [features.pop()["trip_distance"] for _ in list(features)]
            if len(values) > 1:
                raise ValueError("one ride at a time")
            return values

        assert Model(call, "v").predict(rides(3)) == [0.0, 1.0, 2.0]

    def test_a_wrong_number_of_predictions_is_an_error(self) -> None:
        """It is unknown which prediction belongs to which ride."""
        durations = Model(lambda features: [1.0] * (len(features) + 1), "v").predict(rides(2))
        assert all(isinstance(duration, PredictionError) for duration in durations)

    def test_running_out_of_memory_is_raised(self) -> None:
        """The invocation fails, and Lambda redelivers the whole batch."""

        def call(features: list[Features]) -> list[float]:
            raise MemoryError

        with pytest.raises(MemoryError):
            Model(call, "v").predict(rides(2))
