"""The time of a pickup: the web service and the stream read it, refuse it and replace it in the same way."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rides import Ride
from scripts.cli import SAMPLE_MODEL
from scripts.localaws.setup import FUNCTION_VARIABLES
from streaming.records import decode_event
from tests.builders import BAD_TIMES, kinesis_event, packed, ride_event
from tests.tools import ROOT
from tests.web.conftest import WebService
from web.open_inference import DATATYPES, OPTIONAL

NEW_YORK = ZoneInfo("America/New_York")
ColdStart = Callable[..., ModuleType]
ARRIVAL = 1545084650.987
"""The arrival of the builders' records: 2018-12-17, 22:10 in UTC."""


def predict_in_stream(cold_start: ColdStart, model: str, events: list[Any], **variables: str) -> list[float]:
    """Return the predicted values of ride events, or of aggregated records, in order."""
    function = cold_start(TEST_RUN="True", MODEL_LOCATION=model, **variables)
    response = function.lambda_handler(kinesis_event(*events))
    assert response["rejections"] == []
    return [found["prediction"]["ride_duration"] for found in response["predictions"]]


def predict_in_web(web_service: WebService, model: str, rides: list[Any], **variables: str) -> list[float]:
    """Return the predicted values of rides or ride events, in order."""
    client = web_service(MODEL_LOCATION=model, **variables).app.test_client()
    return [answer["duration"] for answer in client.post("/predict", json=rides).json]


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "UTC"])
def test_a_moment_has_one_prediction(
    boosted_model: str, cold_start: ColdStart, web_service: WebService, zone: str
) -> None:
    """Local time, Z and offsets give one prediction in records, in aggregated records and by HTTP."""
    days = (datetime(2023, 3, 12, tzinfo=UTC), datetime(2023, 11, 5, tzinfo=UTC))
    moments = [day + timedelta(hours=hour, minutes=30) for day in days for hour in range(30)]
    forms = [
        [moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None).isoformat() for moment in moments],
        [f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in moments],
        [f"{moment:%Y-%m-%d %H:%M+00}" for moment in moments],
        [moment.astimezone(ZoneInfo("Pacific/Apia")).isoformat() for moment in moments],
    ]
    events = [ride_event(pickup_datetime=text) for form in forms for text in form]
    # Each is packed alone: the producer's library begins another record after some kilobytes.
    aggregated = [packed(json.dumps(event).encode()) for event in events]
    variables = {"TIME_ZONE": "" if zone == "America/New_York" else zone}
    found = predict_in_stream(cold_start, boosted_model, [*events, *aggregated], **variables)
    found += predict_in_web(web_service, boosted_model, events, **variables)
    found += predict_in_web(web_service, boosted_model, [event["ride"] for event in events], **variables)
    first, *others = [tuple(found[start : start + len(moments)]) for start in range(0, len(found), len(moments))]
    assert len(others) == 15
    assert set(others) == {first}
    assert len(set(first)) > 20


@pytest.mark.slow
def test_a_ride_without_a_pickup_gets_the_arrival_of_its_record(boosted_model: str, cold_start: ColdStart) -> None:
    """A redelivery has the same arrival, so it has the same prediction. A packed ride has that of its record."""
    events = [ride_event(), changed := ride_event(), packed(json.dumps(ride_event()).encode())]
    changed["ride"]["pickup_datetime"] = None
    told = ride_event(pickup_datetime=datetime.fromtimestamp(ARRIVAL, UTC).isoformat())
    once = predict_in_stream(cold_start, boosted_model, [*events, told])
    assert once == predict_in_stream(cold_start, boosted_model, [*events, told])
    assert len(set(once)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arrival", [..., None, "noon", -1, 1e300, True, []], ids=repr)
def test_a_ride_without_any_time_is_predicted_as_now(
    boosted_model: str, cold_start: ColdStart, monkeypatch: pytest.MonkeyPatch, arrival: Any
) -> None:
    """Kinesis sends an arrival with each record. An event that a person wrote may lack it, or have a wrong one."""
    event = kinesis_event(ride_event(1), ride_event(2))
    for record in event["Records"]:
        record["kinesis"].pop("approximateArrivalTimestamp")
        record["kinesis"] |= {} if arrival is ... else {"approximateArrivalTimestamp": arrival}
    function = cold_start(TEST_RUN="True", MODEL_LOCATION=boosted_model)
    given, before = keep_rides(function, monkeypatch), datetime.now(UTC)
    assert function.lambda_handler(event)["rejections"] == []
    (moment,) = {ride.pickup_datetime for ride in given}
    assert moment is not None
    assert before <= moment <= datetime.now(UTC)


@pytest.mark.slow
def test_a_request_has_one_now(boosted_model: str, web_service: WebService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal rides of a list have equal predictions, and a ride with a pickup keeps it."""
    service = web_service(MODEL_LOCATION=boosted_model)
    client = service.app.test_client()
    given, before = keep_rides(service, monkeypatch), datetime.now(UTC)
    rides = [ride_event()["ride"]] * 499 + [ride_event(1)] * 500
    answers = client.post("/predict", json=[*rides, ride_event(pickup_datetime="2023-02-01T08:30:00")]).json
    assert len({answer["duration"] for answer in answers[:-1]}) == 1
    *others, last = [ride.pickup_datetime for ride in given]
    (now,) = set(others)
    assert now is not None
    assert before <= now <= datetime.now(UTC)
    assert last == datetime(2023, 2, 1, 8, 30)


@pytest.mark.slow
def test_a_service_whose_model_wants_the_time_is_ready_and_asks_for_it(
    boosted_model: str, web_service: WebService
) -> None:
    """The form has a field for the pickup, and the Open Inference Protocol has an input, which may be left out."""
    values = (("INT64", 3), ("INT64", 2), ("FP64", 2.0), ("BYTES", "2023-02-01T20:00:00"))
    inputs = dict(zip((*DATATYPES, *OPTIONAL), values, strict=True))
    shown = {}
    for model in (boosted_model, str(SAMPLE_MODEL)):
        client = web_service(MODEL_LOCATION=model).app.test_client()
        assert client.get("/health").status_code == 200
        described = client.get("/v2/models/ride_duration_prediction_model").json["inputs"]
        shown[model] = (described[3:], re.findall('class="field" .*>', client.get("/").text))
    optional = {"name": "pickup_datetime", "datatype": "BYTES", "shape": [-1]}
    assert list(shown.values()) == [([optional], ['class="field" >']), ([], ['class="field" hidden>'])]
    client = web_service(MODEL_LOCATION=boosted_model).app.test_client()
    tensors = [{"name": name, "datatype": kind, "shape": [1], "data": [one]} for name, (kind, one) in inputs.items()]
    body = {"inputs": tensors}
    (inferred,) = client.post("/v2/models/ride_duration_prediction_model/infer", json=body).json["outputs"][0]["data"]
    bare = {name: one for name, (_, one) in inputs.items()}
    assert inferred == client.post("/predict", json=bare).json["duration"]
    assert inferred != client.post("/predict", json=bare | {"pickup_datetime": "2023-02-05T08:00:00"}).json["duration"]


def keep_rides(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Ride]:
    """Return a list that gets the rides which the entry point gives to its model."""
    given: list[Ride] = []
    predict = module.MODEL.predict

    def keeping(rides: list[Ride], *rest: Any, **named: Any) -> Any:
        given.extend(rides)
        return predict(rides, *rest, **named)

    monkeypatch.setattr(module.MODEL, "predict", keeping)
    return given


def test_a_bad_time_has_the_same_reason_everywhere(cold_start: ColdStart, web_service: WebService) -> None:
    """A bad time has one reason in records, aggregated records, ride events, bare rides and lists, for each model."""
    client: Any = web_service().app.test_client()
    events = [ride_event(number, pickup_datetime=time) for number, time in enumerate(BAD_TIMES)]
    whole = [packed(json.dumps(event).encode()) for event in events]
    _, alone = decode_event(kinesis_event(*events))
    _, unpacked = decode_event(kinesis_event(*whole))
    listed = client.post("/predict", json=events).json
    bare = client.post("/predict", json=[event["ride"] for event in events]).json
    for number, (event, rejection) in enumerate(zip(events, alone, strict=True)):
        reason = rejection.reason
        assert reason.endswith(" - at `$.ride.pickup_datetime`")
        single, lone = client.post("/predict", json=event), client.post("/predict", json=event["ride"])
        assert (single.status_code, lone.status_code) == (422, 422)
        assert unpacked[number].reason == single.json["detail"] == listed[number]["error"]["detail"] == reason
        bare_reason = reason.replace("$.ride.", "$.")
        assert lone.json["detail"] == bare[number]["error"]["detail"] == bare_reason
    assert len(listed) == len(bare) == len(unpacked) == len(alone) == len(BAD_TIMES)


LOADS = """
import sys
import {module}
print("zoneinfo" in sys.modules, any(name.partition(".")[0] == "tzdata" for name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["lambda_function", "web_service"])
@pytest.mark.parametrize(
    ("wants_time", "variables", "imported"),
    [
        (False, {}, "False False"),
        (False, {"TIME_ZONE": ""}, "False False"),
        (True, {"PYTHONTZPATH": ""}, "True True"),
        (True, {"PYTHONTZPATH": "", "TIME_ZONE": "Asia/Kolkata"}, "True True"),
    ],
    ids=["no time", "empty setting", "time", "other zone"],
)
def test_only_a_model_that_wants_the_time_imports_time_zones(
    boosted_model: str, module: str, wants_time: bool, variables: dict[str, str], imported: str
) -> None:
    """A system without zone files, as slim images are, has those of the package tzdata."""
    model = boosted_model if wants_time else str(SAMPLE_MODEL)
    environment = {"MODEL_LOCATION": model, "RUN_ID": "a-run", "TEST_RUN": "True", "TIME_ZONE": "", **variables}
    others = {name: value for name, value in os.environ.items() if name not in FUNCTION_VARIABLES}
    command = [sys.executable, "-c", LOADS.format(module=module)]
    done = subprocess.run(command, cwd=ROOT, env=others | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == imported
