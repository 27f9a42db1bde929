"""GET /metrics: its counts, labels and number of lines, with one process and with several."""

import random
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.builders import ride_event
from tests.tools import PATIENCE, ROOT
from tests.web.conftest import WebService
from web import metrics, openapi
from web.metrics import BATCH_SIZES, OTHER, OUTCOMES, SECONDS, Metrics

REQUESTS = openapi.list_requests(openapi.make_document(model="m", version="v", field="duration", unit="minutes"))


def read(text: str) -> dict[str, Metric]:
    """Return the metrics by name, as Prometheus' own parser reads them."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def labels_of(sample: Sample) -> tuple[str, ...]:
    """Return the method, the route and the status."""
    return tuple(sample.labels[name] for name in ("method", "route", "status"))


def requests(families: dict[str, Metric]) -> dict[tuple[str, ...], float]:
    """Return the number of requests by method, route and status, without those that never came."""
    samples = families["http_server_request_duration_seconds"].samples
    counts = {labels_of(one): one.value for one in samples if one.name.endswith("_count")}
    return {labels: count for labels, count in counts.items() if count}


def values(family: Metric, label: str) -> dict[str, float]:
    """Return the values of a family's samples with a label."""
    return {one.labels[label]: one.value for one in family.samples if label in one.labels}


@pytest.fixture
def counted() -> Metrics:
    """Give metrics of no service."""
    return Metrics(REQUESTS, {"model": 'a "model"\n', "version": "v"})


def test_requests_are_counted_by_method_route_and_status(client: Any) -> None:
    """A request that the document does not list counts under ``other``. The scrape itself is in flight."""
    for body in (ride_event(), [ride_event(), {}], {}, []):
        client.post("/predict", json=body)
    client.post("/predict", data=b"{", content_type="application/json")
    client.post("/predict", data=b"x")
    client.get("/v2/models/other/ready")
    client.head("/health")
    client.get("/nowhere")
    client.get("/predict")
    client.open("/predict", method="BREW")
    client.options("/predict")
    response = client.get("/metrics")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = read(response.text)
    assert requests(families) == {
        ("POST", "/predict", "200"): 3,
        ("POST", "/predict", "422"): 1,
        ("POST", "/predict", "400"): 1,
        ("POST", "/predict", "415"): 1,
        ("GET", "/v2/models/{name}/ready", "404"): 1,
        ("HEAD", "/health", "200"): 1,
        (OTHER, OTHER, "404"): 1,
        (OTHER, OTHER, "405"): 2,
        (OTHER, OTHER, "200"): 1,
    }
    assert values(families["predictions"], "outcome") == {
        "predicted": 2,
        "ride": 2,
        "json": 1,
        "utf-8": 0,
        "prediction": 0,
    }
    sizes = {one.name: one.value for one in families["ride_batch_size"].samples if not one.labels}
    assert sizes == {"ride_batch_size_count": 4, "ride_batch_size_sum": 5}
    (in_flight,) = families["http_server_active_requests"].samples
    assert in_flight.value == 1
    (info,) = families["model_info"].samples
    assert info.labels == {"model": "ride_duration_prediction_model", "version": "a-run"}


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "*/*", ";;;", "text/html"])
def test_every_client_gets_the_same_format(client: Any, accept: str) -> None:
    """The header Accept makes no difference, and an odd one is not an error."""
    response = client.get("/metrics", headers={"Accept": accept})
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0.0, "0.0001"), (0.0001, "0.0001"), (0.00011, "0.00025"), (10.0, "10.0"), (10.1, "+Inf")]
)
def test_a_duration_is_in_the_first_bucket_that_is_long_enough(counted: Metrics, seconds: float, bound: str) -> None:
    """A bucket has all requests up to its bound."""
    counted.begin()
    counted.end(REQUESTS[0], seconds)
    family = read(counted.exposition().decode())["http_server_request_duration_seconds"]
    mine = [one for one in family.samples if labels_of(one) == REQUESTS[0]]
    filled = [one.labels["le"] for one in mine if one.name.endswith("_bucket") and one.value == 1]
    assert filled[0] == bound
    assert len(filled) == 1 + len([edge for edge in SECONDS if edge > float(bound)]) + (bound != "+Inf")
    assert [one.value for one in mine if one.name.endswith("_sum")] == [seconds]


@pytest.mark.parametrize(("rides", "bound"), [(1, "1.0"), (2, "2.0"), (3, "5.0"), (1000, "1000.0")])
def test_a_batch_is_in_the_bucket_of_its_size(counted: Metrics, rides: int, bound: str) -> None:
    """All rides of a batch count, predicted or not."""
    counted.count_rides({"predicted": rides - 1, "ride": 1})
    buckets = values(read(counted.exposition().decode())["ride_batch_size"], "le")
    assert next(edge for edge, count in buckets.items() if count) == bound
    assert len(buckets) == len(BATCH_SIZES) + 1


def make_requests(number: int) -> Iterator[tuple[str, str, str]]:
    """Yield requests of all kinds, some of which no document lists."""
    draw = random.Random(12)  # noqa: S311 - not for secrets
    for _ in range(number):
        odd = (draw.choice(["GET", "BREW"]), f"/{draw.random()}", str(draw.randrange(100, 600)))
        yield draw.choice([*REQUESTS, odd])


def test_the_number_of_lines_is_fixed(counted: Metrics) -> None:
    """No request adds a line, whatever its path, its method or its status."""
    sizes = set()
    for number in (0, 10, 100_000):
        for request in make_requests(number):
            counted.begin()
            counted.end(request, 0.001)
            counted.count_rides({OUTCOMES[number % len(OUTCOMES)]: 1})
        text = counted.exposition().decode()
        sizes.add((len(text.splitlines()), len(read(text)["http_server_request_duration_seconds"].samples)))
    assert len(sizes) == 1
    assert sum(requests(read(text)).values()) == 100_010
    assert 'model="a \\"model\\"\\n"' in text


SCRIPT = """
import os, signal
from web import metrics

metrics.MAX_WORKERS = 2
cells = metrics.SharedCells(2, gauge=1)


def fork(work):
    if not (child := os.fork()):
        try:
            work()
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)


def expect(*totals):
    assert cells.totals() == list(totals), cells.totals()


def count():
    cells.own[0] += 1


def begin():
    count()
    cells.own[1] += 1


def die_at_work():
    begin()
    os.kill(os.getpid(), signal.SIGKILL)


def work_beside_another():
    begin()
    fork(lambda: expect(4, 1))
    fork(count)
    expect(4, 1)


fork(die_at_work)
expect(1, 0)
fork(die_at_work)
count()
expect(3, 0)
assert not cells._slots[1].any(), "each has used the slot of the process before it"
fork(work_beside_another)
expect(4, 0)
fork(count)
expect(5, 0)
"""


def test_counts_outlive_a_killed_process_and_its_requests_in_flight_do_not() -> None:
    """The next process goes on counting in its slot. If no slot is left, an error says so."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == ("there are more than 2 workers: lower WEB_CONCURRENCY\n", "")


class TestOwnPort:
    """METRICS_PORT: the metrics are on a port that clients cannot reach."""

    @pytest.fixture
    def service(self, web_service: WebService) -> ModuleType:
        """Give the service with a port for its metrics."""
        return web_service(METRICS_PORT="9100")

    @pytest.mark.parametrize("path", ["/predict", "/health", "/", "/docs", "/v2/health/live", "/nowhere", "/metrics/"])
    def test_no_other_route_is_on_it(self, client: Any, path: str) -> None:
        """A client that reaches the port sees no rides and no predictions."""
        method = "POST" if path == "/predict" else "GET"
        response = client.open(path, method=method, json=ride_event(), environ_overrides={"SERVER_PORT": "9100"})
        assert response.status_code == 404
        if path != "/v2/health/live":
            assert response.json["detail"] == "ask the port 9100 for /metrics, and the other port for all other routes"

    def test_only_it_has_the_metrics(self, client: Any) -> None:
        """A port in the header Host makes no difference."""
        assert client.get("/metrics", headers={"Host": "localhost:9100"}).status_code == 404
        response = client.get("/metrics", environ_overrides={"SERVER_PORT": "9100"})
        assert requests(read(response.text)) == {("GET", "/metrics", "404"): 1}


def test_the_kinds_of_rejections_are_outcomes() -> None:
    """If the metrics lacked a kind that the web service can give, its request would get a 500."""
    assert metrics.OUTCOMES == ("predicted", "json", "utf-8", "ride", "prediction")
