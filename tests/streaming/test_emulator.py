"""The function behind AWS's Lambda emulator: events in, responses out, and Lambda's limits."""

import contextlib
import itertools
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import downloads
import pytest

from scripts.aws.shards import follow
from scripts.cli import CommandError
from scripts.localaws.chaos import serve
from scripts.localaws.faults import Call, Delayed, Fault
from scripts.sources.records import aggregate
from scripts.sources.synthetic import generate_rides
from tests.builders import encoded, kinesis_event, record, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.streaming.emulator import EmulatedFunction, emulated
from tests.streaming.test_events import NAMES, load, rounded

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in downloads.BUILDS,
    reason="AWS builds its emulator for Linux on x86_64 and arm64 alone",
)

COMPLETE: dict[str, Any] = {"batchItemFailures": []}
A_RIDE = kinesis_event(ride_event())
FIRST_NUMBER = 49630081666084879290581185630324770398608704880802529282
"""A sequence number of the length that Kinesis gives."""
HANDLERS = """
import os, time
from streaming.requests import StuckRequestsError

def pid(event, context):
    if event == "hang":
        time.sleep(600)
    if event == "stuck":
        raise StuckRequestsError("16 requests do not end")
    return os.getpid()
"""


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    """Install the emulator, or skip the tests if it cannot be downloaded."""
    try:
        downloads.installed_emulator()
    except CommandError as error:
        pytest.skip(f"no emulator: {error}")


@pytest.fixture(scope="module")
def dry_run(emulator: None) -> Iterator[EmulatedFunction]:
    """Run the function that writes nothing, for several tests: one cold start is enough."""
    with emulated(TEST_RUN="True", MODEL_LOCATION=SAMPLE_MODEL) as function:
        yield function


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip find no packages."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    """Give the folder of a module with a handler that answers with its process id, hangs, or gives up."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return str(tmp_path)


def numbered(*data: object) -> dict[str, Any]:
    """Build an event of records with sequence numbers of full length, and without ARNs.

    With ARNs, 10,000 rides would not fit into the 6 MB at which a mapping closes a batch.
    """
    records = [record(encoded(item), FIRST_NUMBER + place) for place, item in enumerate(data)]
    for one in records:
        del one["invokeIdentityArn"], one["eventSourceARN"]
    return {"Records": records}


def is_running(pid: int) -> bool:
    """Return whether there is a process with this id."""
    return Path("/proc", str(pid)).exists()


def test_the_emulator_is_fetched_once(no_network: None) -> None:
    """The environment keeps it for the next run."""
    assert os.access(downloads.installed_emulator(), os.X_OK)


def test_an_emulator_that_cannot_be_fetched_leaves_nothing_behind(no_network: None, tmp_path: Path) -> None:
    """Later runs would take a partial file for the whole emulator."""
    with pytest.raises(CommandError, match="aws-sam-cli"):
        downloads.fetch_emulator(tmp_path / "aws-lambda-rie")
    assert list(tmp_path.iterdir()) == []


def test_the_sample_events_get_the_responses_beside_them(dry_run: EmulatedFunction) -> None:
    """One sandbox handles all of them, one after another."""
    responses = [rounded(dry_run.invoke(load(name))) for name in NAMES]
    assert responses == [rounded(load(f"{name}.response")) for name in NAMES]


def test_the_response_to_an_event_of_another_service_is_an_error(dry_run: EmulatedFunction) -> None:
    """Lambda counts the error, and the sandbox handles the next event."""
    answer = dry_run.invoke({"Records": [{"eventSource": "aws:sqs"}]})
    assert answer["errorType"] == "NotAKinesisEventError"
    assert answer["errorMessage"].startswith("not a Kinesis event: ")
    assert len(dry_run.invoke(A_RIDE)["predictions"]) == 1


def test_a_missing_setting_is_the_error_of_every_event() -> None:
    """The error is one line, which names the variable."""
    with emulated(MODEL_LOCATION=SAMPLE_MODEL) as function:
        answers = [function.invoke(A_RIDE) for _ in range(2)]
    for answer in answers:
        assert answer["errorType"] == "SettingsError"
        assert answer["errorMessage"].startswith("PREDICTIONS_STREAM_NAME is not set")
        assert "\n" not in answer["errorMessage"]


def test_the_largest_batch_is_answered_in_time_by_a_function_whose_output_stream_hangs(
    kinesis: "KinesisClient", endpoint: str, stream: str
) -> None:
    """The response can hold all of the 10,000 records. They are delivered when the stream has recovered."""
    event = numbered(*(ride_event(number) for number in range(10_000)))
    has_recovered = threading.Event()

    def hang(call: Call) -> Fault | None:
        return None if has_recovered.is_set() else Delayed(600)

    with (
        serve(endpoint, hang) as hanging,
        emulated(
            timeout=10,
            MODEL_LOCATION=SAMPLE_MODEL,
            PREDICTIONS_STREAM_NAME=stream,
            AWS_ENDPOINT_URL_KINESIS=hanging.url,
        ) as function,
    ):
        assert function.invoke(kinesis_event()) == COMPLETE  # a cold start would count as part of the batch's time
        numbers = [str(FIRST_NUMBER + place) for place in range(10_000)]
        assert function.invoke(event) == {"batchItemFailures": [{"itemIdentifier": number} for number in numbers]}
        has_recovered.set()
        assert function.invoke(event) == COMPLETE
    rounds = itertools.takewhile(bool, follow(kinesis, stream))
    keys = [record["PartitionKey"] for found in rounds for _, record in found]
    assert sorted(map(int, keys[-10_000:])) == list(range(10_000))


def test_a_dry_run_fails_if_its_predictions_exceed_a_response(dry_run: EmulatedFunction) -> None:
    """Aggregated records can hold this number of rides. Only a dry run's response grows with the predictions."""
    (packed,) = aggregate(generate_rides(100, seed=0))
    answer = dry_run.invoke(numbered(*[packed.data] * 300))
    assert answer["errorType"] == "Function.ResponseSizeTooLarge"


def test_a_timeout_ends_the_function_and_the_next_event_starts_it_again(handlers: str) -> None:
    """The tests above would not notice it if the emulator enforced no timeout."""
    with emulated("handlers.pid", timeout=2, PYTHONPATH=handlers) as function:
        before = function.invoke("answer")
        assert function.invoke("hang") == "Task timed out after 2.00 seconds"
        after = function.invoke("answer")
    assert isinstance(after, int)
    assert after != before


def test_requests_that_do_not_end_end_the_process_and_the_next_event_starts_another(handlers: str) -> None:
    """Lambda counts an error, so it redelivers the batch. After another exception the process would go on."""
    with emulated("handlers.pid", PYTHONPATH=handlers) as function:
        before = function.invoke("answer")
        assert function.invoke("stuck")["errorType"] == "Runtime.ExitError"
        after = function.invoke("answer")
    assert isinstance(after, int)
    assert after != before


def test_a_failing_test_leaves_no_process_behind(handlers: str) -> None:
    """Neither the emulator nor the function still runs."""
    with contextlib.suppress(KeyError), emulated("handlers.pid", PYTHONPATH=handlers) as function:
        pid = function.invoke("answer")
        assert is_running(pid)
        raise KeyError("the failure")
    assert not is_running(pid)
