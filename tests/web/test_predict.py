"""POST /predict: rides in, durations out, and a bad ride's error in its place."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rides import Ride
from scripts.sources.bad import FAULTS
from streaming.records import decode_event
from tests.builders import copy_saying, kinesis_event, ride_event
from tests.web.conftest import WebService

RIDE = ride_event()["ride"]
DURATION = 15.717900398172926
ANSWER = {"duration": pytest.approx(DURATION, rel=1e-9), "model_version": "a-run"}
BAD = {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 101}


def predict(client: Any, body: object) -> Any:
    """Return the answer's JSON; its status is 200."""
    response = client.post("/predict", json=body)
    assert (response.status_code, response.content_type) == (200, "application/json"), response.data
    return response.json


def miles(rides: list[dict[str, Any]]) -> list[float]:
    """Predict each ride's own distance, as a model does."""
    return [ride["trip_distance"] for ride in rides]


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        pytest.param(RIDE, {}, id="bare"),
        pytest.param({**RIDE, "ride_id": 7}, {"ride_id": 7}, id="bare with id"),
        pytest.param({**RIDE, "passenger_count": 2, "note": [None]}, {}, id="bare with more fields"),
        pytest.param(ride_event(256), {"ride_id": 256}, id="event"),
        pytest.param(ride_event("256"), {"ride_id": "256"}, id="text as id"),
        pytest.param(ride_event(10**255), {"ride_id": 10**255}, id="long number as id"),
        pytest.param(ride_event("\U0001f600" * 256), {"ride_id": "\U0001f600" * 256}, id="emoji as id"),
        pytest.param(ride_event('"\\\x00\n\u2028'), {"ride_id": '"\\\x00\n\u2028'}, id="odd characters as id"),
        pytest.param({**ride_event(1), "trip_distance": "x"}, {"ride_id": 1}, id="event with a ride's field"),
    ],
)
def test_a_ride_is_answered_with_its_duration(client: Any, body: dict[str, Any], ids: dict[str, Any]) -> None:
    """An id comes back in the type in which it came; a ride without one gets none."""
    assert predict(client, body) == {**ANSWER, **ids}
    assert predict(client, [body]) == [{**ANSWER, **ids}]


def test_white_space_may_surround_a_body(client: Any) -> None:
    """White space does not change whether a body is a ride or a list."""
    body = f" \r\n\t{json.dumps([RIDE])}\n"
    assert client.post("/predict", data=body, content_type="application/json").json == [ANSWER]


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.rides+json"]
)
def test_every_media_type_of_json_is_taken(client: Any, media_type: str) -> None:
    """Clients and gateways write it in several ways."""
    assert client.post("/predict", data=json.dumps(RIDE), content_type=media_type).json == ANSWER


def test_the_predicted_value_may_have_another_name(web_service: WebService) -> None:
    """A name that problems use is allowed, because an answer is never both."""
    client = web_service(PREDICTION_FIELD="title").app.test_client()
    assert predict(client, ride_event(1)) == {"title": ANSWER["duration"], "model_version": "a-run", "ride_id": 1}
    assert client.post("/predict", json=BAD).json["title"] == "Unprocessable Entity"


@pytest.mark.parametrize(
    ("said", "setting", "name", "unit"),
    [
        ({"target": "tip", "field": "tip_amount", "unit": "dollars"}, "", "tip", "dollars"),
        ({"target": "tip", "field": "tip_amount", "unit": "US$"}, "gratuity", "gratuity", "US$"),
        ({}, "", "duration", "minutes"),
        ({}, "eta", "eta", "minutes"),
        (None, "", "duration", "minutes"),
        (None, "gratuity", "gratuity", ""),
    ],
)
def test_answers_and_pages_have_the_models_own_name_and_unit(
    web_service: WebService, tmp_path: Path, said: object, setting: str, name: str, unit: str
) -> None:
    """A model of tips has no minutes. A unit is not known if the artifact says nothing and the name is the user's."""
    model = copy_saying(said, tmp_path / "model")
    client = web_service(MODEL_LOCATION=model, PREDICTION_FIELD=setting).app.test_client()
    assert predict(client, RIDE) == {name: ANSWER["duration"], "model_version": "a-run"}
    document, page = client.get("/openapi.json").text, client.get("/").text
    assert f'"The predicted {name} in {unit}."' in document or not unit
    assert f'data-unit="{unit}"' in page
    assert f"What will the {name} of the ride be?" in page
    others = {"minutes", "dollars", "US$"} - {unit}
    assert [other for other in others for text in (document, page) if other in text] == []


def test_an_empty_list_has_an_empty_answer(client: Any) -> None:
    """A client need not treat an empty list in another way."""
    assert predict(client, []) == []


def test_a_list_has_one_call_and_keeps_its_order(client: Any, serve_model: Callable[..., None]) -> None:
    """A list may mix both forms of a ride. The model never gets a bad ride."""
    calls: list[int] = []

    def call(rides: list[dict[str, Any]]) -> list[float]:
        calls.append(len(rides))
        return miles(rides)

    serve_model(call)
    rides: list[Any] = [{**RIDE, "trip_distance": number / 10} for number in range(1000)]
    rides[1::3] = [{"ride": ride, "ride_id": number} for number, ride in enumerate(rides[1::3])]
    rides[2::5] = [BAD] * len(rides[2::5])
    answers = predict(client, rides)
    assert calls == [800]
    assert [answer.get("duration") for answer in answers] == [
        None if number % 5 == 2 else number / 10 for number in range(1000)
    ]
    assert {answer["error"]["detail"] for answer in answers[2::5]} == {
        "Expected `float` <= 100.0 - at `$.trip_distance`"
    }
    assert answers[4] == {"duration": 0.4, "model_version": "a-run", "ride_id": 1}


def test_a_list_of_1001_rides_is_too_long(client: Any, serve_model: Callable[..., None]) -> None:
    """The detail says the limit, and the model is not called."""
    serve_model(lambda rides: pytest.fail("it is called"))
    response = client.post("/predict", json=[RIDE] * 1001)
    assert response.status_code == 422
    assert response.json["detail"] == "a list has at most 1,000 rides, and this one has 1,001"


def as_the_stream_says(data: bytes) -> tuple[str, str]:
    """Return the kind and the reason with which the stream rejects a record."""
    _, (rejection,) = decode_event(kinesis_event(data))
    return rejection.kind, rejection.reason


GOOD = json.dumps(ride_event(5)).encode()
BAD_EVENTS = {
    **{name: fault(ride_event(5)) for name, fault in FAULTS.items() if name not in ("a list", "no ride")},
    "1e999 miles": GOOD.replace(b"3.66", b"1e999"),
    "5,000 digits": GOOD.replace(b"130", b"9" * 5000),
    "id of 5,000 digits": GOOD.replace(b"5}", b"9" * 5000 + b"}"),
    "id of 300 digits": GOOD.replace(b"5}", b"9" * 300 + b"}"),
    "ride null": b'{"ride": null, "ride_id": 1}',
    "ride a list": b'{"ride": [1], "ride_id": 1}',
    "half a surrogate pair": GOOD.replace(b"5}", b'"\\ud800"}'),
    "deep": GOOD.replace(b"130", b"[" * 100_000),
    "UTF-8 cut": GOOD.replace(b"5}", b'"\xe2\x82"}'),
    "null": b"null",
    "text": b'"ride"',
    "two documents": GOOD + GOOD,
}


@pytest.mark.parametrize("body", BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_a_bad_ride_has_the_reason_that_the_stream_gives(client: Any, body: bytes) -> None:
    """The same bytes get the same kind and reason from the web service and from the stream."""
    kind, reason = as_the_stream_says(body)
    response = client.post("/predict", data=body, content_type="application/json")
    status = 400 if kind in ("json", "utf-8") else 422
    assert (response.status_code, response.content_type) == (status, "application/problem+json")
    assert response.json == {
        "type": "about:blank",
        "title": {400: "Bad Request", 422: "Unprocessable Entity"}[status],
        "status": status,
        "detail": reason,
        "kind": kind,
        "instance": "/predict",
    }


BAD_ELEMENTS = {
    name: body for name, body in BAD_EVENTS.items() if as_the_stream_says(body)[0] == "ride" and name != "deep"
}
"""The bad events that are JSON, so that a list of them is JSON too."""


@pytest.mark.parametrize("body", BAD_ELEMENTS.values(), ids=BAD_ELEMENTS)
def test_a_bad_ride_of_a_list_has_its_error_in_its_place(client: Any, body: bytes) -> None:
    """The rides around it are predicted."""
    _, reason = as_the_stream_says(body)
    whole = b"[" + GOOD + b"," + body + b"," + GOOD + b"]"
    first, bad, last = client.post("/predict", data=whole, content_type="application/json").json
    assert first == last == {**ANSWER, "ride_id": 5}
    assert bad == {
        "error": {
            "type": "about:blank",
            "title": "Unprocessable Entity",
            "status": 422,
            "detail": reason,
            "kind": "ride",
        }
    }


@pytest.mark.parametrize("value", ["null", "1", '"a"', "true", "[]", "{}", "[[1]]", '{"ride_id": 3}'])
def test_other_elements_of_a_list_have_an_error_in_their_place(client: Any, value: str) -> None:
    """The list is valid JSON, so each element has an answer."""
    body = f"[{value},{GOOD.decode()}]"
    bad, good = client.post("/predict", data=body, content_type="application/json").json
    assert (bad["error"]["status"], bad["error"]["kind"]) == (422, "ride")
    assert good == {**ANSWER, "ride_id": 5}


@pytest.mark.parametrize("form", [RIDE, ride_event(1)], ids=["bare", "event"])
def test_nan_in_a_list_is_named(client: Any, form: dict[str, Any]) -> None:
    """A list with NaN is not JSON, but Python's own writer makes such lists."""
    body = json.dumps([form, form]).encode()
    place = body.rindex(b"3.66")
    response = client.post("/predict", data=body[:place] + b"NaN" + body[place + 4 :], content_type="application/json")
    assert response.status_code == 400
    field = "$[1].ride.trip_distance" if "ride" in form else "$[1].trip_distance"
    assert response.json["detail"] == (
        f"JSON is malformed: invalid character (byte {place});"
        f" read as Python's JSON: Expected `float` >= 0.0 - at `{field}`"
    )


def test_a_ride_that_the_model_cannot_predict_has_its_error_in_its_place(
    client: Any, serve_model: Callable[..., None]
) -> None:
    """The ride keeps its id. Alone, it has the status 422."""

    def call(rides: list[dict[str, Any]]) -> list[float]:
        if 13 in miles(rides):
            raise ValueError("no such \udcff zone")
        return miles(rides)

    serve_model(call)
    unlucky = {**RIDE, "trip_distance": 13, "ride_id": "x"}
    answers = predict(client, [RIDE, unlucky, RIDE])
    assert [answer.get("duration") for answer in answers] == [3.66, None, 3.66]
    reason = "the model raised ValueError: no such ? zone"
    assert answers[1]["ride_id"] == "x"
    assert (answers[1]["error"]["kind"], answers[1]["error"]["detail"]) == ("prediction", reason)
    response = client.post("/predict", json=unlucky)
    assert (response.status_code, response.json["detail"]) == (422, reason)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_json_does_not_have_is_an_error(
    client: Any, serve_model: Callable[..., None], value: float
) -> None:
    """NaN would make the whole answer unreadable."""
    serve_model(lambda rides: [value] * len(rides))
    (answer,) = predict(client, [RIDE])
    assert answer["error"]["detail"] == f"the model predicted {value}"


def test_the_model_gets_the_rides_as_the_stream_hands_them_over(
    service: ModuleType, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both entry points call ``Model.predict`` with the same value."""
    given: list[Ride] = []

    def predict_all(rides: list[Ride], **_: object) -> list[float]:
        given.extend(rides)
        return [1.0] * len(rides)

    monkeypatch.setattr(service.MODEL, "predict", predict_all)
    predict(client, [RIDE, ride_event()])
    assert [(ride.PULocationID, ride.DOLocationID, ride.trip_distance) for ride in given] == [(130, 205, 3.66)] * 2
