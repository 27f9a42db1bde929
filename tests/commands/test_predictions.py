"""Reading the records of an output stream."""

import json
from typing import Any

import pytest

from rides import Prediction
from scripts.aws.predictions import NotAPredictionError, read_prediction


def data(prediction: Any) -> bytes:
    """Build the data of an output record."""
    return json.dumps({"model": "m", "version": "v", "prediction": prediction, "event_id": "e"}).encode()


@pytest.mark.parametrize("ride_id", [256, "a"])
def test_the_value_may_have_any_name(ride_id: int | str) -> None:
    """It may be on either side of the ride_id."""
    expected = Prediction("m", "v", "tip_amount", 1.5, ride_id, "e")
    assert read_prediction(data({"tip_amount": 1.5, "ride_id": ride_id})) == expected
    assert read_prediction(data({"ride_id": ride_id, "tip_amount": 1.5})) == expected


@pytest.mark.parametrize(
    "prediction",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"ride_duration": 1.5}, id="no ride_id"),
        pytest.param({"ride_id": 1}, id="no value"),
        pytest.param({"ride_duration": "1.5", "ride_id": 1}, id="text"),
        pytest.param({"ride_duration": 1.5, "ride_id": 1.5}, id="half an id"),
        pytest.param({"ride_duration": 1.5, "tip_amount": 2.5, "ride_id": 1}, id="two values"),
        pytest.param({"ride_duration": True, "ride_id": 1}, id="no number"),
    ],
)
def test_other_data_is_not_a_prediction(prediction: dict[str, Any]) -> None:
    """The message says where."""
    with pytest.raises(NotAPredictionError, match=r"at `\$\.prediction"):
        read_prediction(data(prediction))
