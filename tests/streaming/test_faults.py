"""The table of faults in docs/promises.md, row by row: each fault is caused here, and the row is checked.

Rides go the whole way: onto the input stream, through the event source mapping and the function, to the output stream.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import model
from scripts.aws.kept_objects import KeptObjects
from scripts.aws.replaying import ReplayFilter, plan_replay, replay
from scripts.localaws.faults import Call, Delayed, DroppedAfter, DroppedBefore, FailedEntries, FailedRequest
from scripts.localaws.rules import MappingSettings
from scripts.localaws.sandbox import LambdaContext
from scripts.sources.bad import FAULTS
from scripts.sources.records import RideRecord, aggregate
from streaming import delivery
from tests.builders import ride_event
from tests.flow import Chaos, Flow
from tests.tools import ROOT

if TYPE_CHECKING:
    pass

GIVE_UP = MappingSettings(report_batch_item_failures=True, bisect_on_error=True, maximum_retry_attempts=0)


def throttled(call: Call) -> FailedEntries:
    """Throttle everything."""
    return FailedEntries(frozenset(range(len(call.entries))))


def test_every_row_of_the_table_has_its_test() -> None:
    """The rows name these tests, in their order, and a test has the name of the fault."""
    page = (ROOT / "docs" / "promises.md").read_text()
    section = page.partition("\n## When something fails\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|.*\| `(test_\w+)` \|$", section, re.MULTILINE)
    tests = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    assert [test for _, test in rows] == [name for name in tests if name != "test_every_row_of_the_table_has_its_test"]
    assert [test for _, test in rows] == [f"test_{re.sub('[^a-z]+', '_', fault.lower())}" for fault, _ in rows]


@pytest.mark.parametrize("places", [*([place] for place in range(10)), range(10), range(1, 10)], ids=str)
def test_a_record_is_no_ride(flow: Flow, places: Sequence[int]) -> None:
    """Wherever it stands, every other ride is predicted exactly once and the shard moves on."""
    data: list[Any] = [ride_event(number) for number in range(10)]
    for place in places:
        data[place] = list(FAULTS.values())[2 * place](data[place])
    counters = flow.deliver(flow.function(), flow.put(*data))
    assert counters.invocations == 1
    assert flow.predicted() == [number for number in range(10) if number not in places]
    assert len(flow.rejected()) == flow.metric("Rejections") == len(places)


def test_an_aggregated_record_is_broken(flow: Flow) -> None:
    """It is one rejection, and what is beside it is predicted."""
    (record,) = aggregate([RideRecord("1", json.dumps(ride_event(1)).encode())])
    flow.deliver(flow.function(), flow.put(record.data, record.data[:-1] + b"?", ride_event(2)))
    assert flow.predicted() == [1, 2]
    assert flow.rejected() == ["aggregate"]
    assert flow.metric("RejectionsAggregate") == 1


def test_the_model_raises_for_a_ride(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone is a rejection."""
    function = flow.function()
    call = function.MODEL._call

    def picky(features: list[dict[str, Any]]) -> Any:
        if any(ride["PU_DO"] == "1_1" for ride in features):
            raise ZeroDivisionError
        return call(features)

    monkeypatch.setattr(function.MODEL, "_call", picky)
    bad = ride_event(5, PULocationID=1, DOLocationID=1)
    flow.deliver(function, flow.put(*(ride_event(number) for number in range(5)), bad, ride_event(6)))
    assert flow.predicted() == [0, 1, 2, 3, 4, 6]
    assert flow.rejected() == ["prediction"]
    assert flow.metric("RejectionsPrediction") == 1


def test_a_prediction_is_larger_than_a_stream_takes(flow: Flow) -> None:
    """Each of them is a rejection, and none of them sinks a request."""
    function = flow.function(MODEL_NAME="m" * 1_048_577)
    flow.deliver(function, flow.put(ride_event(1), ride_event(2)))
    assert flow.predicted() == []
    assert flow.rejected() == ["prediction", "prediction"]


def test_entries_are_throttled(flow: Flow, chaos: Chaos) -> None:
    """Only they are put again, and each ride is predicted once."""

    def every_third(call: Call) -> FailedEntries | None:
        return FailedEntries(frozenset(range(0, len(call.entries), 3))) if call.number == 0 else None

    with chaos(every_third) as spoiled:
        counters = flow.deliver(flow.function(), flow.put(*(ride_event(number) for number in range(9))))
    assert spoiled.entry_counts == [9, 3]
    assert counters.redelivered == 0
    assert sorted(flow.predicted()) == list(range(9))
    assert flow.metric("EntriesPutAgain") == 3


def test_the_output_stream_stays_throttled(flow: Flow, chaos: Chaos) -> None:
    """What it does not take is reported, and delivered again until it does."""
    with chaos(lambda call: throttled(call) if call.number < 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS else None):
        counters = flow.deliver(flow.function(), flow.put(*(ride_event(number) for number in range(9))))
    assert (counters.invocations, counters.discarded) == (3, 0)
    assert sorted(flow.predicted()) == list(range(9))
    assert flow.rejected() == []
    assert flow.metric("Undelivered") == 18
    assert flow.errors() == {"ProvisionedThroughputExceededException": 9 * 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS}


@pytest.mark.parametrize("fault", [FailedRequest(500, "InternalFailure"), DroppedBefore()], ids=str)
def test_a_request_fails_or_its_connection_is_lost(flow: Flow, chaos: Chaos, fault: Any) -> None:
    """It is made again."""
    with chaos(lambda call: fault if call.number < 2 else None):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)))
    assert counters.redelivered == 0
    assert flow.predicted() == [1, 2]
    assert flow.metric("EntriesPutAgain") == 4


def test_the_answer_to_a_request_is_lost(flow: Flow, chaos: Chaos) -> None:
    """Its entries are on the stream twice, with the same event_id."""
    with chaos(lambda call: DroppedAfter() if call.number == 0 else None):
        flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)))
    assert flow.predicted() == [1, 2, 1, 2]


def test_a_request_hangs(flow: Flow, chaos: Chaos) -> None:
    """It is left behind after a third of the time, and made again."""
    with chaos(lambda call: Delayed(60) if call.number == 0 else None):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)), seconds=4)
    assert counters.redelivered == 0
    assert set(flow.predicted()) == {1, 2}
    assert flow.errors() == {"TimeoutError": 2}


def test_the_time_runs_out(flow: Flow, chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is reported before the function's timeout, and delivered again."""
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1_000_000)
    monkeypatch.setattr(delivery, "MAX_BACKOFF_SECONDS", 0.01)
    began = time.monotonic()
    with chaos(lambda call: throttled(call) if time.monotonic() - began < 3 else None):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)), seconds=2)
    assert counters.redelivered > 0
    assert flow.predicted() == [1, 2]
    assert flow.errors()["OutOfTime"] > 0


def test_the_output_stream_does_not_exist(flow: Flow) -> None:
    """The invocation fails, as Lambda's Errors count; nothing is rejected, and what the mapping gives up is kept."""
    settings = replace(GIVE_UP, on_failure=f"s3://{flow.bucket}")
    counters = flow.deliver(flow.function(PREDICTIONS_STREAM_NAME="nowhere"), flow.put(ride_event(1)), settings)
    assert counters.discarded == 1
    assert flow.rejected() == []
    assert flow.errors() == {"ResourceNotFoundException": 1}


@pytest.mark.parametrize("code", ["AccessDeniedException", "ExpiredTokenException"])
def test_access_is_denied_or_the_credentials_have_expired(flow: Flow, chaos: Chaos, code: str) -> None:
    """The invocation fails, and is delivered again until it succeeds."""
    with chaos(lambda call: FailedRequest(400, code) if call.number < 3 else None):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)))
    assert counters.invocations == 4
    assert flow.predicted() == [1, 2]
    assert flow.rejected() == []
    assert flow.errors() == {code: 3}


def test_the_failures_bucket_takes_nothing(flow: Flow, chaos: Chaos) -> None:
    """The rejected records are reported, and kept as soon as it does."""
    tries = 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS
    with chaos(lambda call: FailedRequest(503, "SlowDown") if call.number < tries else None, "s3"):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), b"{", ride_event(3)))
    assert counters.invocations == 3
    assert flow.rejected() == ["json"]
    assert flow.predicted() == [1, 3, 3, 3]
    assert flow.errors() == {"SlowDown": 2}


def test_there_is_no_failures_location(flow: Flow) -> None:
    """The mapping's settings decide: here it gives the record up, and its destination keeps it."""
    settings = replace(GIVE_UP, on_failure=f"s3://{flow.bucket}")
    counters = flow.deliver(flow.function(FAILURES_LOCATION=""), flow.put(ride_event(1), b"{", ride_event(3)), settings)
    assert counters.discarded == 2
    assert sorted(set(flow.predicted())) == [1, 3]
    assert flow.errors()["NoFailuresLocation"] > 0


def test_the_function_dies_in_mid_batch(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, out of memory or timed out: the whole batch is delivered again, and its predictions may come twice."""
    function = flow.function()
    put = function.STREAM.put
    deaths = iter([True, False])

    def put_and_die(*arguments: Any) -> Any:
        done = put(*arguments)
        if next(deaths):
            raise MemoryError
        return done

    monkeypatch.setattr(function.STREAM, "put", put_and_die)
    counters = flow.deliver(function, flow.put(ride_event(1), ride_event(2)))
    assert counters.redelivered == 2
    assert flow.predicted() == [1, 2, 1, 2]


def test_the_model_cannot_be_loaded(flow: Flow) -> None:
    """The cold start ends with one line, and nothing is taken from the stream."""
    variables = {"TEST_RUN": "True", "MODEL_LOCATION": "/nowhere", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", "import lambda_function"], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("artifacts.ModelError: there is no folder /nowhere: set MODEL_LOC")


def test_the_model_can_predict_nothing(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is found at the cold start, before it turns every ride into a rejection."""
    from sklearn.linear_model import Ridge

    from artifacts import ModelError

    monkeypatch.setitem(model._DESERIALIZERS, "skops", lambda serialized: Ridge())
    with pytest.raises(ModelError, match="cannot predict a ride.*NotFittedError"):
        flow.function()


def test_the_event_is_not_one_of_kinesis(flow: Flow) -> None:
    """The invocation fails: nothing is taken for success."""
    with pytest.raises(ValueError, match="not a Kinesis event"):
        flow.function().lambda_handler({"Records": [{"body": "SQS"}]}, LambdaContext(60))


def test_the_mapping_gives_a_batch_up(flow: Flow, chaos: Chaos) -> None:
    """Its destination keeps the whole event; replayed after the outage, all that is good is predicted."""
    settings = replace(GIVE_UP, on_failure=f"s3://{flow.bucket}")
    with chaos(throttled):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), b"{", ride_event(3)), settings)
    assert (counters.discarded, flow.predicted()) == (3, [])
    objects = KeptObjects(flow.s3, f"s3://{flow.bucket}/rejections")
    stream = delivery.OutputStream(flow.kinesis, flow.input)
    assert replay(objects, stream, plan_replay(objects, ReplayFilter())) == 4
    flow.deliver(flow.function(), 7)
    assert sorted(set(flow.predicted())) == [1, 3]
    assert set(flow.rejected()) == {"json"}
