"""The Open Inference Protocol's routes: rides as tensors, and errors with the protocol's one field."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from rides import Ride
from tests.builders import BAD_TIMES

NAME, VERSION = "ride_duration_prediction_model", "a-run"
MODEL = f"/v2/models/{NAME}"
VERSIONED = f"{MODEL}/versions/{VERSION}"
RIDES = [Ride(130, 205, 3.66), Ride(74, 75, 1.2), Ride(41, 42, 0.0)]


def tensors(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Build the inputs of three rides; ``changes`` go into the inputs that they name."""
    inputs: dict[str, dict[str, Any]] = {
        "PULocationID": {"datatype": "INT64", "data": [ride.PULocationID for ride in RIDES]},
        "DOLocationID": {"datatype": "INT64", "data": [ride.DOLocationID for ride in RIDES]},
        "trip_distance": {"datatype": "FP64", "data": [ride.trip_distance for ride in RIDES]},
    }
    if "pickup_datetime" in changes:
        inputs["pickup_datetime"] = {"datatype": "BYTES", "data": [None] * 3}
    return [{"name": name, "shape": [3], **tensor, **changes.get(name, {})} for name, tensor in inputs.items()]


@pytest.mark.parametrize("path", [MODEL, VERSIONED])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trip_distance": {"shape": [3, 1]}},
        {"PULocationID": {"shape": [3, 1], "data": [[130], [74], [41]]}},
        {"PULocationID": {"datatype": "INT16"}, "trip_distance": {"datatype": "FP32"}},
        {"trip_distance": {"parameters": {"x": 1}}},
        {"pickup_datetime": {"data": ["2023-02-01T08:30:00", None, "2023-02-01T08:30-05:00"]}},
        {"pickup_datetime": {"shape": [3, 1], "data": [[None], ["2023-02-01T08:30:00"], [None]]}},
    ],
    ids=["flat", "column", "nested", "datatypes", "parameters", "times", "nested times"],
)
def test_rides_are_predicted_as_by_the_own_route(client: Any, path: str, changes: dict[str, Any]) -> None:
    """The values have the rides' order. An id of the request comes back."""
    response = client.post(f"{path}/infer", json={"id": "42", "inputs": tensors(**changes), "outputs": []})
    assert (response.status_code, response.content_type) == (200, "application/json")
    bare = [
        {"PULocationID": one.PULocationID, "DOLocationID": one.DOLocationID, "trip_distance": one.trip_distance}
        for one in RIDES
    ]
    expected = [answer["duration"] for answer in client.post("/predict", json=bare).json]
    assert response.json == {
        "model_name": NAME,
        "model_version": VERSION,
        "id": "42",
        "outputs": [{"name": "duration", "datatype": "FP64", "shape": [3], "data": expected}],
    }
    assert "id" not in client.post(f"{path}/infer", json={"inputs": tensors()[::-1]}).json


def of(*data: Any, **more: Any) -> dict[str, Any]:
    """Build the changes of an input that has these values."""
    return {"data": list(data), "shape": [len(data)], **more}


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        pytest.param(tensors(trip_distance=of(1, 101, 1)), "value 1: Expected `float` <= 100.0 - at `$.trip_distance`"),
        pytest.param(tensors(trip_distance=of(1, 1, None)), "value 2: Expected `float`, got `null`"),
        pytest.param(tensors(trip_distance=of(1, 1, 10**400)), "value 2: Number out of range - at `$.trip_distance`"),
        pytest.param(tensors(PULocationID=of("130", 1, 1)), "value 0: Expected `int`, got `str` - at `$.PULocationID`"),
        pytest.param(tensors(PULocationID=of(1.0, 1, 1)), "value 0: Expected `int`, got `float` - at `$.PULocationID`"),
        pytest.param(tensors(DOLocationID=of(1, True, 1)), "value 1: Expected `int`, got `bool` - at `$.DOLocationID`"),
        pytest.param(tensors(DOLocationID=of([1, 2], [3], [4])), "value 0: Expected `int`, got `array`"),
        pytest.param(tensors(DOLocationID=of([[1]], [2], [3])), "value 0: Expected `int`, got `array`"),
        pytest.param(tensors(DOLocationID={"shape": [4]}), "has 3 values, so its shape is [3] or [3, 1]"),
        pytest.param(tensors(DOLocationID={"shape": [1, 3]}), "has 3 values, so its shape is [3] or [3, 1]"),
        pytest.param(tensors(DOLocationID={"shape": [10**3000]}), "has 3 values, so its shape is [3] or [3, 1]"),
        pytest.param(tensors(DOLocationID={"shape": [-1]}), "the data of DOLocationID has 3 values"),
        pytest.param(tensors(DOLocationID={"shape": []}), "the data of DOLocationID has 3 values"),
        pytest.param(tensors(DOLocationID={"shape": "3"}), "Expected `array`, got `str` - at `$.inputs[1].shape`"),
        pytest.param(tensors(DOLocationID={"data": 3}), "Expected `array`, got `int` - at `$.inputs[1].data`"),
        pytest.param(tensors(DOLocationID={"datatype": "FP64"}), "the datatype of DOLocationID is one of INT8, INT16"),
        pytest.param(tensors(trip_distance={"datatype": "BYTES"}), "the datatype of trip_distance is one of FP16"),
        *(
            pytest.param(tensors(pickup_datetime=of(None, time, None)), "value 1: ", id=f"time {time!r}"[:60])
            for time in BAD_TIMES
        ),
        pytest.param(tensors(pickup_datetime=of(*["0001-01-01T00:00:00"] * 3)), "value 0: Expected a time from 1970"),
        pytest.param(tensors(pickup_datetime=of(None)), "give all inputs the same number of values, from 1 to 1,000"),
        pytest.param(tensors(pickup_datetime={"shape": [1, 3]}), "has 3 values, so its shape is [3] or [3, 1]"),
        pytest.param(tensors(pickup_datetime={"datatype": "INT64"}), "the datatype of pickup_datetime is one of BYTES"),
        pytest.param(
            tensors(pickup_datetime={})[3:] + tensors(pickup_datetime={}), "2 inputs have the name pickup_dat"
        ),
        pytest.param(tensors(trip_distance={"datatype": None}), "Expected `str`, got `null`"),
        pytest.param(tensors()[:2], "trip_distance: 0 inputs have the name trip_distance"),
        pytest.param(tensors()[:1] + tensors(), "trip_distance: 2 inputs have the name PULocationID"),
        pytest.param([], "0 inputs have the name PULocationID"),
        pytest.param({}, "Expected `array`, got `object` - at `$.inputs`"),
        pytest.param(tensors(PULocationID=of(1)), "give all inputs the same number of values, from 1 to 1,000"),
        pytest.param([{**one, **of()} for one in tensors()], "the same number of values, from 1 to 1,000"),
        pytest.param([{**one, **of(*[1] * 1001)} for one in tensors()], "the same number of values, from 1 to 1,000"),
    ],
)
def test_a_wrong_request_is_an_error_that_names_the_input(client: Any, inputs: Any, error: str) -> None:
    """The status is 400, and the answer has one field. The error names a bad value by its number and its field."""
    response = client.post(f"{MODEL}/infer", json={"inputs": inputs})
    assert (response.status_code, response.content_type) == (400, "application/json")
    assert list(response.json) == ["error"]
    assert error in response.json["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"null", b"[]", b'{"inputs": null}', b'{"inputs": [NaN]}', b'{"inputs":' * 9_999]
)
def test_a_broken_body_is_an_error(client: Any, body: bytes) -> None:
    """Even if the request is not JSON, the protocol's error is JSON."""
    response = client.post(f"{VERSIONED}/infer", data=body, content_type="application/json")
    assert (response.status_code, list(response.json)) == (400, ["error"])


def test_a_long_body_is_an_error(client: Any) -> None:
    """The limit is the same as for POST /predict."""
    response = client.post(f"{MODEL}/infer", data=b" " * 1_048_577, content_type="application/json")
    assert response.status_code == 413
    assert response.json == {"error": "the body has more than 1,048,576 bytes: send fewer rides"}


def test_a_ride_without_a_prediction_fails_its_request(client: Any, serve_model: Callable[..., None]) -> None:
    """The protocol has no error for a single value, so the whole request fails."""

    def call(rides: list[dict[str, Any]]) -> list[float]:
        return [float("nan") if ride["trip_distance"] == 1.2 else 1.0 for ride in rides]

    serve_model(call)
    response = client.post(f"{MODEL}/infer", json={"inputs": tensors()})
    assert (response.status_code, response.json) == (400, {"error": "value 1: the model predicted nan"})


def test_the_service_and_its_model_describe_themselves(client: Any) -> None:
    """A platform reads the inputs' names and datatypes before it sends any."""
    described = {
        "name": NAME,
        "versions": [VERSION],
        "platform": "mlflow",
        "inputs": [
            {"name": "PULocationID", "datatype": "INT64", "shape": [-1]},
            {"name": "DOLocationID", "datatype": "INT64", "shape": [-1]},
            {"name": "trip_distance", "datatype": "FP64", "shape": [-1]},
        ],
        "outputs": [{"name": "duration", "datatype": "FP64", "shape": [-1]}],
    }
    assert client.get(MODEL).json == client.get(VERSIONED).json == described
    assert client.get("/v2").json == {"name": "ride-duration", "version": VERSION, "extensions": []}
    assert client.get("/v2/health/live").json == {"live": True}


@pytest.mark.parametrize("path", ["/v2/health/ready", f"{MODEL}/ready", f"{VERSIONED}/ready"])
def test_the_model_is_not_ready_while_the_service_drains(service: ModuleType, client: Any, path: str) -> None:
    """The service is alive, and still answers."""
    assert (client.get(path).status_code, client.get(path).json) == (200, {"ready": True})
    service.HEALTH.drain()
    assert (client.get(path).status_code, client.get(path).json) == (503, {"ready": False})
    assert client.get("/v2/health/live").status_code == 200
    assert client.post(f"{MODEL}/infer", json={"inputs": tensors()}).status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/other", f"{MODEL}/versions/1", f"/v2/models/{NAME.upper()}"])
@pytest.mark.parametrize("end", ["", "/ready", "/infer"])
def test_another_model_is_not_found(client: Any, path: str, end: str) -> None:
    """The error names the model that is here."""
    body = json.dumps({"inputs": tensors()})
    response = client.open(f"{path}{end}", method="POST" if end == "/infer" else "GET", data=body)
    assert response.status_code == 404
    assert response.json["error"].startswith("there is no model ")
    assert response.json["error"].endswith(f", only {NAME} of the version {VERSION}")
