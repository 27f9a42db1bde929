"""The table of faults in docs/promises.md, row by row: each fault is caused here, and the row is checked.

Rides go the whole way: onto the input stream, through the event source mapping and the function, to the output stream.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sklearn_flavor
from scripts.aws.kept_objects import KeptObjects
from scripts.aws.replaying import ReplayFilter, plan_replay, replay
from scripts.localaws.faults import Call, Delayed, DroppedAfter, DroppedBefore, FailedEntries, FailedRequest
from scripts.localaws.rules import MappingSettings
from scripts.localaws.sandbox import LambdaContext
from scripts.sources.bad import FAULTS
from streaming import delivery
from tests.builders import packed, ride_event
from tests.conftest import SAMPLE_MODEL, Clock
from tests.core.saved_models import copy_without_served_form
from tests.flow import Chaos, Flow
from tests.tools import ROOT

GIVE_UP = MappingSettings(report_batch_item_failures=True, bisect_on_error=True, maximum_retry_attempts=0)


def throttled(call: Call) -> FailedEntries:
    """Build the fault that throttles all entries of a request."""
    return FailedEntries(frozenset(range(len(call.entries))))


def test_every_row_of_the_table_has_its_test() -> None:
    """The rows name these tests in the same order, and each test has the name of its fault."""
    page = (ROOT / "docs" / "promises.md").read_text()
    section = page.partition("\n## When something fails\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|.*\| `(test_\w+)` \|$", section, re.MULTILINE)
    tests = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    assert [test for _, test in rows] == [name for name in tests if name != "test_every_row_of_the_table_has_its_test"]
    assert [test for _, test in rows] == [f"test_{re.sub('[^a-z]+', '_', fault.lower())}" for fault, _ in rows]


@pytest.mark.parametrize("places", [*([place] for place in range(10)), range(10), range(1, 10)], ids=str)
def test_a_record_is_no_ride(flow: Flow, places: Sequence[int]) -> None:
    """Every other ride is predicted exactly once and the shard moves on, wherever the bad record is."""
    data: list[Any] = [ride_event(number) for number in range(10)]
    for place in places:
        data[place] = list(FAULTS.values())[2 * place](data[place])
    counters = flow.deliver(flow.function(), flow.put(*data))
    assert counters.invocations == 1
    assert flow.predicted() == [number for number in range(10) if number not in places]
    assert len(flow.rejected()) == flow.metric("Rejections") == len(places)


def test_an_aggregated_record_is_broken(flow: Flow) -> None:
    """The record is one rejection, and the rides in other records are predicted."""
    record = packed(json.dumps(ride_event(1)).encode())
    flow.deliver(flow.function(), flow.put(record, record[:-1] + b"?", ride_event(2)))
    assert flow.predicted() == [1, 2]
    assert flow.rejected() == ["aggregate"]
    assert flow.metric("RejectionsAggregate") == 1


def test_the_model_raises_for_a_ride(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this ride is a rejection."""
    function = flow.function()
    call = function.MODEL._call

    def picky(features: list[dict[str, Any]]) -> Any:
        if any(ride["PU_DO"] == "1_1" for ride in features):
            raise ZeroDivisionError("no such zone")
        return call(features)

    monkeypatch.setattr(function.MODEL, "_call", picky)
    bad = ride_event(5, PULocationID=1, DOLocationID=1)
    flow.deliver(function, flow.put(*(ride_event(number) for number in range(5)), bad, ride_event(6)))
    assert flow.predicted() == [0, 1, 2, 3, 4, 6]
    ((kind, reason),) = ((line["kind"], line["reason"]) for line in flow.rejections())
    assert (kind, reason) == ("prediction", "the model raised ZeroDivisionError: no such zone")
    assert flow.metric("RejectionsPrediction") == 1


def test_a_prediction_is_larger_than_a_stream_takes(flow: Flow) -> None:
    """Each such ride is a rejection, and no request fails because of it."""
    function = flow.function(MODEL_NAME="m" * 1_048_577)
    flow.deliver(function, flow.put(ride_event(1), ride_event(2)))
    assert flow.predicted() == []
    assert flow.rejected() == ["prediction", "prediction"]


def test_entries_are_throttled(flow: Flow, chaos: Chaos) -> None:
    """Only the throttled entries are put again, and each ride is predicted once."""

    def every_third(call: Call) -> FailedEntries | None:
        return FailedEntries(frozenset(range(0, len(call.entries), 3))) if call.number == 0 else None

    with chaos(every_third) as spoiled:
        counters = flow.deliver(flow.function(), flow.put(*(ride_event(number) for number in range(9))))
    assert spoiled.entry_counts == [9, 3]
    assert counters.redelivered == 0
    assert sorted(flow.predicted()) == list(range(9))
    assert flow.metric("EntriesPutAgain") == 3


def test_the_output_stream_stays_throttled(flow: Flow, chaos: Chaos) -> None:
    """Undelivered rides are reported, and redelivered until the stream accepts them."""
    with chaos(lambda call: throttled(call) if call.number < 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS else None):
        counters = flow.deliver(flow.function(), flow.put(*(ride_event(number) for number in range(9))))
    assert (counters.invocations, counters.discarded) == (3, 0)
    assert sorted(flow.predicted()) == list(range(9))
    assert flow.rejected() == []
    assert flow.metric("Undelivered") == 18
    assert flow.errors() == {"ProvisionedThroughputExceededException": 9 * 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS}


@pytest.mark.parametrize("fault", [FailedRequest(500, "InternalFailure"), DroppedBefore()], ids=str)
def test_a_request_fails_or_its_connection_is_lost(flow: Flow, chaos: Chaos, fault: Any) -> None:
    """The request is retried."""
    with chaos(lambda call: fault if call.number < 2 else None):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)))
    assert counters.redelivered == 0
    assert flow.predicted() == [1, 2]
    assert flow.metric("EntriesPutAgain") == 4


def test_the_answer_to_a_request_is_lost(flow: Flow, chaos: Chaos) -> None:
    """The entries of the request are on the stream twice, with the same event_id."""
    with chaos(lambda call: DroppedAfter() if call.number == 0 else None):
        flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)))
    assert flow.predicted() == [1, 2, 1, 2]


def test_a_request_hangs(flow: Flow, chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is abandoned, and retried within the invocation."""
    monkeypatch.setattr(delivery, "REQUEST_SECONDS", 0.5)

    def hang_once(call: Call) -> Delayed | None:
        # The retry may take as long as it needs, on a slow machine too.
        monkeypatch.setattr(delivery, "REQUEST_SECONDS", 60)
        return Delayed(60) if call.number == 0 else None

    with chaos(hang_once):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)), seconds=900)
    assert counters.redelivered == 0
    assert set(flow.predicted()) == {1, 2}
    assert set(flow.errors()) == {"TimeoutError"}


def test_the_time_runs_out(flow: Flow, chaos: Chaos, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remaining rides are reported before the function's timeout, and redelivered."""
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1_000_000)
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 1.0)
    with chaos(lambda call: throttled(call) if clock.now < 120 else None):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)), seconds=60)
    assert counters.redelivered > 0
    assert flow.predicted() == [1, 2]
    assert flow.errors()["OutOfTime"] > 0


def test_the_output_stream_does_not_exist(flow: Flow) -> None:
    """The invocation fails and nothing is rejected. A batch that the mapping discards goes to its destination."""
    settings = replace(GIVE_UP, on_failure=f"s3://{flow.bucket}")
    counters = flow.deliver(flow.function(PREDICTIONS_STREAM_NAME="nowhere"), flow.put(ride_event(1)), settings)
    assert counters.discarded == 1
    assert flow.rejected() == []
    assert flow.errors() == {"ResourceNotFoundException": 1}


@pytest.mark.parametrize("code", ["AccessDeniedException", "ExpiredTokenException"])
def test_access_is_denied_or_the_credentials_have_expired(flow: Flow, chaos: Chaos, code: str) -> None:
    """The invocation fails, and the batch is redelivered until it succeeds."""
    with chaos(lambda call: FailedRequest(400, code) if call.number < 3 else None):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), ride_event(2)))
    assert counters.invocations == 4
    assert flow.predicted() == [1, 2]
    assert flow.rejected() == []
    assert flow.errors() == {code: 3}


def test_the_failures_bucket_takes_nothing(flow: Flow, chaos: Chaos) -> None:
    """The rejected records are reported until the bucket accepts them."""
    attempts = 2 * delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS
    with chaos(lambda call: FailedRequest(503, "SlowDown") if call.number < attempts else None, "s3"):
        counters = flow.deliver(flow.function(), flow.put(ride_event(1), b"{", ride_event(3)))
    assert counters.invocations == 3
    assert flow.rejected() == ["json"]
    assert flow.predicted() == [1, 3, 3, 3]
    assert flow.errors() == {"SlowDown": 2}


def test_there_is_no_failures_location(flow: Flow) -> None:
    """The mapping's settings decide: here it discards the record, and its destination gets it."""
    settings = replace(GIVE_UP, on_failure=f"s3://{flow.bucket}")
    counters = flow.deliver(flow.function(FAILURES_LOCATION=""), flow.put(ride_event(1), b"{", ride_event(3)), settings)
    assert counters.discarded == 2
    assert sorted(set(flow.predicted())) == [1, 3]
    assert flow.errors()["NoFailuresLocation"] > 0


def test_the_function_dies_in_mid_batch(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole batch is redelivered, and its predictions may be on the stream twice."""
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
    """The cold start ends with one line, and no record is taken from the stream."""
    variables = {"TEST_RUN": "True", "MODEL_LOCATION": "/nowhere", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", "import lambda_function"], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("artifacts.ModelError: there is no folder /nowhere: set MODEL_LOC")


def test_the_model_can_predict_nothing(flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cold start refuses the model, before it turns every ride into a rejection."""
    from sklearn.linear_model import Ridge

    from artifacts import ModelError

    monkeypatch.setattr(sklearn_flavor, "_load_unpinned_skops", lambda *_: Ridge())
    with pytest.raises(ModelError, match="cannot predict a ride.*NotFittedError"):
        flow.function(MODEL_LOCATION=copy_without_served_form(SAMPLE_MODEL, tmp_path / "model"))


def test_the_event_is_not_one_of_kinesis(flow: Flow) -> None:
    """The invocation fails, and the event does not count as done."""
    with pytest.raises(ValueError, match="not a Kinesis event"):
        flow.function().lambda_handler({"Records": [{"body": "SQS"}]}, LambdaContext(60))


def test_the_mapping_gives_a_batch_up(flow: Flow, chaos: Chaos) -> None:
    """The destination gets the whole batch. Replayed after the outage, its good rides are predicted."""
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
