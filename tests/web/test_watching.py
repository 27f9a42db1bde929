"""The web service counts the rides of all workers in the baseline's bins, and the counts can be read back."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from model import load_model
from ride_counts import Counter, RideCounts
from rides import Ride
from tests.builders import copy_saying
from tests.tools import wait_for
from tests.watched_models import BINS, copy_watched, draw_rides
from tests.web.conftest import WebService
from tests.web.servers import RunningService, serve
from web.ride_metrics import counts_from_metrics

REJECTED: list[Any] = [{"PULocationID": 1}, {"PULocationID": 1, "DOLocationID": 2, "trip_distance": 101}]


def as_ride(ride: Ride) -> dict[str, Any]:
    """Build the JSON of a ride."""
    return {name: getattr(ride, name) for name in ("PULocationID", "DOLocationID", "trip_distance")}


def count(model: str, rides: list[Ride], rejected: int) -> RideCounts:
    """Count rides in one batch."""
    counter = Counter(BINS)
    load_model(model).predict(rides, counter=counter)
    counter.rejected = rejected
    return counter.total()


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Give the folder of a model with a baseline."""
    return copy_watched(tmp_path / "model")


def test_the_metrics_are_read_back_as_the_counts_of_all_requests(web_service: WebService, model: str) -> None:
    """One ride or a list, a rejected ride or a rejected body. The number of lines never changes."""
    client = web_service(MODEL_LOCATION=model).app.test_client()
    empty = client.get("/metrics").text
    assert counts_from_metrics(empty) == [RideCounts(BINS.name)]
    rides = draw_rides(60)
    for body in (*map(as_ride, rides[:20]), [*map(as_ride, rides[20:]), *REJECTED], REJECTED[0], []):
        client.post("/predict", json=body)
    client.post("/predict", data=b"{", content_type="application/json")
    text = client.get("/metrics").text
    assert counts_from_metrics(text) == [count(model, rides, rejected=4)]
    client.post("/predict", json=[as_ride(rides[0])])
    (before,), (after,) = counts_from_metrics(text), counts_from_metrics(client.get("/metrics").text)
    assert after - before == count(model, rides[:1], rejected=0)
    names, names_of_empty = (re.findall(r"^(rides_\S+) ", one, re.MULTILINE) for one in (text, empty))
    assert len(names) == BINS.size - 1 + 3
    assert names == names_of_empty


def test_the_counts_of_several_services_are_added_up(web_service: WebService, model: str) -> None:
    """Prometheus gives each service's samples a label of their own, and services may have different baselines."""
    client = web_service(MODEL_LOCATION=model).app.test_client()
    client.post("/predict", json=[*map(as_ride, draw_rides(30))])
    text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("rides_")]
    labelled = [line.replace("{", f'{{instance="{name}",') for name in "ab" for line in lines]
    other = [line.replace(BINS.name, "other") for line in lines]
    (one,), (both, third) = counts_from_metrics(text), counts_from_metrics("\n".join([*labelled, *other]) + "\n")
    assert both == one + one
    assert third == RideCounts("other", one.rides, one.without_distance, 0, one.counts)


@pytest.mark.parametrize(
    "text", ['{"counts": 1}', "rides_in_bins_total 3\n", 'rides_in_bins_total{baseline="a"} NaN\n']
)
def test_a_text_that_is_not_metrics_is_an_error(text: str) -> None:
    """The error says what was expected."""
    with pytest.raises(ValueError, match=r"^these are not metrics as GET /metrics answers them: "):
        counts_from_metrics(text)


def test_a_service_without_a_baseline_has_no_counts(web_service: WebService, tmp_path: Path) -> None:
    """Without a baseline, a service has the metrics of earlier versions."""
    client = web_service(MODEL_LOCATION=copy_saying({}, tmp_path / "model")).app.test_client()
    client.post("/predict", json=as_ride(Ride(10, 20, 1.0)))
    text = client.get("/metrics").text
    assert "rides_in_bins" not in text
    assert counts_from_metrics(text) == []


@pytest.mark.slow
def test_the_counts_of_all_workers_are_exact_also_after_some_were_killed(model: str) -> None:
    """Sixteen requests at the same time, of one ride and of many; then each worker is killed, and others go on."""
    rides = draw_rides(40)
    bodies = [json.dumps(body).encode() for body in ([*map(as_ride, rides), *REJECTED], as_ride(rides[0]), {})]

    def send(service: RunningService, times: int) -> None:
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda body: service.ask("POST", "/predict", body)[0].status, bodies * times))
        assert statuses == [200, 200, 422] * times

    once = count(model, [*rides, rides[0]], rejected=3)
    with serve(WEB_CONCURRENCY="3", DRAIN_SECONDS="0", MODEL_LOCATION=model) as service:
        wait_for(lambda: len(service.workers) == 3)
        send(service, 50)
        before = service.workers
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: len(service.workers - before) == 3)
        send(service, 10)
        (found,) = counts_from_metrics(service.ask("GET", "/metrics")[1].decode())
    assert found == sum([once] * 59, once)
