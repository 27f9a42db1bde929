"""The OpenAPI document: it is valid, its examples work, and each answer of the service is as documented."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

from tests.tools import PATIENCE
from tests.web.servers import HOST, RunningService, serve
from web.metrics import OTHER
from web.openapi import list_requests, make_document

pytestmark = pytest.mark.slow
MODEL, VERSION = "a-model", "a-run"
DOCUMENT = make_document(model=MODEL, version=VERSION, field="duration", unit="minutes")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = [
    (path.format(name=MODEL, version=VERSION), name, example["value"])
    for path, methods in DOCUMENT["paths"].items()
    for operation in methods.values()
    for name, example in operation.get("requestBody", {"content": {}})["content"]
    .get("application/json", {"examples": {}})["examples"]
    .items()
]
MAX_METRICS_BYTES = 130_000


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """Run the web service for the tests of this module."""
    with serve(WEB_CONCURRENCY="1", MODEL_NAME=MODEL, RUN_ID=VERSION) as service:
        yield service


def test_the_document_is_valid(service: RunningService) -> None:
    """The service has the document of its own model, and it is OpenAPI 3.1."""
    response, body = service.ask("GET", "/openapi.json")
    assert response.getheader("Content-Type") == "application/json"
    assert json.loads(body) == DOCUMENT
    openapi_spec_validator.validate(DOCUMENT)


def test_each_operation_is_named_once() -> None:
    """Client generators name their functions after the operations, and pages group them by tag."""
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in DOCUMENT["tags"]}


def test_the_renamed_field_is_in_the_document() -> None:
    """PREDICTION_FIELD renames the value in the answers, and so in their schemas."""
    document = make_document(model=MODEL, version=VERSION, field="tip_amount", unit="dollars")
    answer = document["components"]["schemas"]["Answer"]
    assert answer["required"] == ["tip_amount", "model_version"]
    assert "duration" not in answer["properties"]


@pytest.mark.parametrize(("path", "name", "body"), EXAMPLES, ids=[f"{path} {name}" for path, name, _ in EXAMPLES])
def test_an_example_gets_its_answer(service: RunningService, path: str, name: str, body: Any) -> None:
    """Each ride of an example gets a prediction, except one ride of the example with errors."""
    response, answer = service.ask("POST", path, json.dumps(body).encode())
    assert response.status == 200
    assert (b'"error"' in answer) == (name == "errors")


def test_there_are_examples() -> None:
    """Without an example, the test before this one would prove nothing."""
    assert [name for _, name, _ in EXAMPLES] == ["ride", "time", "event", "list", "errors", "rides", "rides"]


def test_the_metrics_count_what_the_document_lists(service: RunningService) -> None:
    """Each answer by the app has a count of its own, and all of them together make a small page."""
    body = service.ask("GET", "/metrics")[1]
    requests = list_requests(DOCUMENT)
    for method, route, status in requests:
        labels = f'{{method="{method}",route="{route}",status="{status}"}}'
        assert f"http_server_request_duration_seconds_count{labels}".encode() in body
    assert ("POST", "/predict", "422") in requests
    assert (OTHER, OTHER, "404") in requests
    assert len(body) < MAX_METRICS_BYTES


def test_the_service_answers_as_documented(service: RunningService, tmp_path: Path) -> None:
    """Schemathesis sends what the document allows and much that it forbids, and each answer is as documented."""
    url = f"http://{HOST}:{service.port}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run", url]
    command += ["--max-examples=10", "--no-color"]
    # Hundreds of requests, each with its checks, take a while on a busy machine.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=5 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 15" in done.stdout
