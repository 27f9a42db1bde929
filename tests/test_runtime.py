"""The function under the runtime client that Lambda itself starts it with, and under Lambda's timeout."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.shards import ShardReader
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.runtime_api import CrashedError, FunctionError, InitError, TimedOutError, sandbox
from tests.test_events import NAMES, load, rounded

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Lambda's runtime client is made for Linux alone")

NUMBERS = ["1", "2", "3"]
THREE_RIDES = kinesis_event(*(ride_event(number) for number in NUMBERS))


class SlowStream(ThreadingHTTPServer):
    """An endpoint that takes a PutRecords in and does not come to an end with its answer, until it is mended."""

    daemon_threads = True

    def __init__(self, *, dripping: bool) -> None:
        """Listen on a free loopback port; say nothing at all, or a byte of the answer a second."""
        super().__init__(("127.0.0.1", 0), _SlowHandler)
        self.dripping = dripping
        self.mended = threading.Event()
        self.accepted: list[str] = []


class _SlowHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowStream

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.mended.is_set():
            self._accept(request)
            return
        self.close_connection = True
        if self.server.dripping:
            self._head(10_000)
        while not self.server.mended.wait(1):
            if self.server.dripping:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(b" ")

    def _accept(self, request: dict[str, Any]) -> None:
        keys = [entry["PartitionKey"] for entry in request["Records"]]
        self.server.accepted += keys
        results = [{"SequenceNumber": "1", "ShardId": "shardId-000000000000"} for _ in keys]
        body = json.dumps({"FailedRecordCount": 0, "Records": results}).encode()
        self._head(len(body))
        self.wfile.write(body)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""


@pytest.fixture
def slow_stream(request: pytest.FixtureRequest) -> Iterator[SlowStream]:
    """Run the endpoint for the length of the test."""
    server = SlowStream(dripping=request.param)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.mended.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_sample_events_get_the_responses_beside_them() -> None:
    """One sandbox takes them all, one after another."""
    with sandbox(TEST_RUN="True", MODEL_LOCATION=SAMPLE_MODEL) as function:
        responses = [rounded(function.invoke(load(name))) for name in NAMES]
    assert responses == [rounded(load(f"{name}.response")) for name in NAMES]


def test_a_batch_is_predicted_onto_the_stream(kinesis: "KinesisClient", stream: str) -> None:
    """And logged in lines of JSON that have the request's id."""
    with sandbox(PREDICTIONS_STREAM_NAME=stream, MODEL_LOCATION=SAMPLE_MODEL) as function:
        assert function.invoke(THREE_RIDES) == {"batchItemFailures": []}
        (done,) = [line for line in function.output().splitlines() if "batch done" in line]
    assert json.loads(done)["message"] == "batch done"
    records = ShardReader(kinesis, stream, "shardId-000000000000").read()
    assert [record["PartitionKey"] for record in records] == NUMBERS


def test_a_missing_setting_stops_the_cold_start_with_one_line() -> None:
    """It names the variable."""
    with sandbox(MODEL_LOCATION=SAMPLE_MODEL) as function, pytest.raises(InitError) as raised:
        function.invoke(THREE_RIDES)
    assert raised.value.type == "SettingsError"
    assert raised.value.message.startswith("PREDICTIONS_STREAM_NAME is not set")
    assert "\n" not in raised.value.message


def test_an_event_of_something_else_is_a_function_error() -> None:
    """Lambda counts it; the sandbox lives on."""
    with sandbox(TEST_RUN="True", MODEL_LOCATION=SAMPLE_MODEL) as function:
        with pytest.raises(FunctionError) as raised:
            function.invoke({"Records": [{"eventSource": "aws:sqs"}]})
        assert raised.value.type == "NotAKinesisEventError"
        assert len(function.invoke(THREE_RIDES)["predictions"]) == 3


@pytest.mark.parametrize("slow_stream", [False, True], ids=["silent", "dripping"], indirect=True)
def test_a_slow_output_stream_is_reported_before_lambda_ends_the_function(slow_stream: SlowStream) -> None:
    """Its records come again, and the same sandbox delivers them once the stream is well."""
    url = f"http://127.0.0.1:{slow_stream.server_port}"
    variables = {"PREDICTIONS_STREAM_NAME": "predictions", "MODEL_LOCATION": SAMPLE_MODEL}
    with sandbox(**variables, AWS_ENDPOINT_URL_KINESIS=url) as function:
        reported = function.invoke(THREE_RIDES, timeout=4)["batchItemFailures"]
        assert reported[0] == {"itemIdentifier": "1"}
        slow_stream.mended.set()
        assert function.invoke(THREE_RIDES, timeout=4) == {"batchItemFailures": []}
    assert slow_stream.accepted == NUMBERS


@pytest.mark.parametrize(
    ("body", "error"), [("time.sleep(600)", TimedOutError), ("os._exit(3)", CrashedError)], ids=["hang", "crash"]
)
def test_what_ends_a_function_is_told_apart(
    body: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above would not notice a sandbox that waits for ever."""
    (tmp_path / "ending.py").write_text(f"import os, time\ndef handler(event, context):\n    {body}\n")
    with sandbox("ending.handler", PYTHONPATH=str(tmp_path)) as function, pytest.raises(error):
        function.invoke({}, timeout=0.5)
