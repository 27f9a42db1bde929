"""The benchmark: it measures what it says, in turns, and computes the ratios. No test looks at a time."""

import contextlib
import importlib
import itertools
import json
import socketserver
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from rides import Ride
from scripts.benchmark import endpoint as bench_endpoint
from scripts.benchmark.consumers import COMMON, CONSUMERS, EMPTY, FLOOR, OURS, OURS_SKLEARN
from scripts.benchmark.counting import COLD, SIZES
from scripts.benchmark.inputs import BOOSTED, FOREST, RIDGE, SERVED, SKOPS, LoggedModel, write_events
from scripts.benchmark.load import HOST, Answers, Traffic, send
from scripts.benchmark.processes import (
    DELAYED,
    ENVIRONMENT_OF,
    FORMS_OF,
    NO_MODEL,
    WARM,
    Cell,
    Launch,
    Sample,
    make_variables,
    measure_in_turns,
)
from scripts.benchmark.results import CPU, WALL, ColdRow, WarmRow, make_cold_rows, make_warm_rows
from scripts.benchmark.services import COURSE, KINDS, MLFLOW, start, wait
from scripts.benchmark.web import LIST_RIDES, check
from scripts.cli import CommandError
from scripts.commands.bench import COUNTING, WEB
from scripts.environment import locked_packages
from scripts.pythons import ENVIRONMENTS
from scripts.sources.synthetic import generate_rides
from streaming.delivery import SDK_CONFIG
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, failed, finish

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: "
KEPT, CLOSED = ANSWER + b"keep-alive\r\n\r\n%s", ANSWER + b"close\r\n\r\n%s"


def sample(wall: float, peak_memory: int = 0) -> Sample:
    """Return a measurement whose CPU time is half its wall time."""
    return Sample(wall, wall / 2, 0.0, peak_memory)


def test_quick_run_reports_each_case_and_leaves_no_other_file(tmp_path: Path) -> None:
    """The results go to stdout and into two files. A batch of one ride is measured on any budget."""
    size = ("--quick", "--rounds", "1", "--budget", "0.03", "--parts", "warm", "--models", RIDGE)
    done = finish("bench", *size, "--json", "bench.json", "--plot", "bench.png", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads((tmp_path / "bench.json").read_text())["rows"]
    complete = {(row["case"], row["measure"]) for row in rows if row["rides"] == 1 and None not in row.values()}
    assert complete == set(itertools.product((WARM, DELAYED), (WALL, CPU)))
    assert all(f"Batches, {case}, ridge, wall ms" in done.stdout for case in (WARM, DELAYED))
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.png"}


def test_quick_run_reports_what_counting_adds(tmp_path: Path) -> None:
    """Each load has the times without counting, and what counting adds in percent; so has a cold start."""
    size = ("--quick", "--rounds", "1", "--models", RIDGE)
    done = finish("bench", COUNTING, *size, "--json", "bench.json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads((tmp_path / "bench.json").read_text())["rows"]
    expected = {*itertools.product((WARM, DELAYED), SIZES), (COLD, 1)}
    assert {(row["case"], row["rides"]) for row in rows if row["wall"] > 0 < row["cpu"]} == expected
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json"}


def test_quick_comparison_of_web_services_reports_each_of_them(tmp_path: Path) -> None:
    """Every service has a rate, a ratio and its memory, for single rides and lists. Each answer was checked."""
    size = ("--quick", "--rounds", "1", "--models", RIDGE, "--budget", "1")
    done = finish("bench", WEB, *size, "--json", "bench.json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    report: dict[str, list[dict[str, Any]]] = json.loads((tmp_path / "bench.json").read_text())
    names = {row["service"] for row in report["memory"] if row["requests"] and row["rss_after"]}
    assert names == {OURS, OURS_SKLEARN, COURSE, MLFLOW}
    complete = {(row["service"], row["load"]["rides"]) for row in report["rows"] if row["rides_per_second"]}
    assert complete == {(name, rides) for name in names for rides in (1, LIST_RIDES)}
    assert all(row["ours_to_this"] > 0 for row in report["rows"])
    assert "Web services, ridge" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json"}


@pytest.mark.parametrize(
    ("answers", "errors"),
    [
        pytest.param([KEPT % b"[]"], {}, id="connection kept"),
        pytest.param([CLOSED % b"[]"], {}, id="connection closed after the answer"),
        pytest.param([KEPT % b"[]", KEPT % b"{}"], {"another answer than before": 5}, id="answers mixed up"),
        pytest.param([(KEPT % b"[]").replace(b"200", b"503")], {"status 503": 10}, id="status"),
        pytest.param([CLOSED % b"["], {"closed before the answer": 10}, id="half an answer"),
        pytest.param([b""], {"closed before the answer": 10}, id="no answer"),
    ],
)
def test_load_generator_counts_what_is_not_the_right_answer(answers: list[bytes], errors: dict[str, int]) -> None:
    """Each of 10 requests is either a right answer or an error. A new connection follows one that was closed."""
    answers_in_turn = itertools.cycle(answers)

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            is_kept = True
            while is_kept and self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                self.rfile.read(2)
                answer = next(answers_in_turn)
                self.wfile.write(answer)
                is_kept = b"keep-alive" in answer

    with socketserver.ThreadingTCPServer((HOST, 0), Connection) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        found = send(Traffic(port, "/predict", ["[]"], connections=1, seconds=PATIENCE, requests=10))
        server.shutdown()
    assert found.errors == errors
    assert found.requests == 10 - sum(errors.values())


@pytest.mark.parametrize(
    ("service", "body", "wrong"),
    [
        (OURS, '{"duration": 1.5, "model_version": "1"}', False),
        (OURS, '[{"duration": 1.5, "model_version": "1"}, {"duration": 1.5, "model_version": "1"}]', True),
        (COURSE, '{"duration": 1.25, "model_version": "1"}', True),
        (MLFLOW, '{"predictions": [1.5]}', False),
        (MLFLOW, '{"predictions": []}', True),
    ],
)
def test_wrong_durations_end_the_comparison(service: str, body: str, wrong: bool) -> None:
    """The answer has one duration for each ride, and it is scikit-learn's."""
    ride = Ride(1, 2, 3.0)
    answers = Answers(1, 1.0, 0.0, 0.0, 0.0, {}, [body, None])
    with pytest.raises(CommandError, match=f"the service '{service}' gave") if wrong else contextlib.nullcontext():
        check(service, KINDS[service], [[ride], [ride]], answers, {ride: 1.5})


def test_service_that_does_not_start_ends_the_comparison(tmp_path: Path) -> None:
    """The error has the service's own last line."""
    model = LoggedModel("a-run", {SERVED: tmp_path / "missing"})
    with start(OURS, 1, model, tmp_path) as service, pytest.raises(CommandError, match=r"'ours' failed .*missing"):
        wait(service)


def test_batch_with_too_few_rides_is_refused(tmp_path: Path) -> None:
    """A smaller batch would be shown under the wrong size."""
    with pytest.raises(CommandError, match="a batch of 5 rides is wanted, but there are only 3 rides"):
        write_events(generate_rides(3, seed=0), [1, 5], tmp_path)


def test_cold_start_of_each_consumer_predicts_and_reports_its_memory(tmp_path: Path) -> None:
    """Common practice imports mlflow, the floor imports scikit-learn, and ours and the empty floor import neither."""
    write_events(generate_rides(1, seed=0), [1], tmp_path)
    model = LoggedModel("a-run", {SERVED: Path(SAMPLE_MODEL)})
    forms = {COMMON: SERVED, FLOOR: SERVED, OURS: SERVED, EMPTY: NO_MODEL}
    with bench_endpoint.serve() as endpoint:
        launches = [Launch(name, make_variables(endpoint, model, form), tmp_path) for name, form in forms.items()]
        peaks = [launch.measure_cold_start().peak_memory for launch in launches]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] > 20e6


LOG_MODEL = """
import json, sys
from pathlib import Path
from scripts.benchmark.inputs import generate_inputs, log_models
from scripts.models import proof_rides
proof_rides.RANDOM_RIDES = proof_rides.GOLDEN_PAIRS = 10
model = log_models([sys.argv[2]], generate_inputs(1_000).trips, Path(sys.argv[1]), trees=3)[sys.argv[2]]
print(json.dumps([model.run_id, {form: str(path) for form, path in model.folders.items()}]))
"""
PREDICT = """
import json, sys
from scripts.benchmark.consumers import prepare
answer = prepare(sys.argv[1], json.load(open(sys.argv[2])))()
print(json.dumps([answer, "sklearn" in sys.modules]))
"""


def run(code: str, *arguments: str, variables: Any = None) -> Any:
    """Run code in a process of its own, because consumers read their settings once; return the last printed value."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [FOREST, BOOSTED])
def test_all_consumers_predict_the_same_doubles_and_ours_without_scikit_learn(name: str, tmp_path: Path) -> None:
    """The model is logged as the benchmark logs it, and each consumer gets the form with which it is measured."""
    write_events(generate_rides(300, seed=1), [300], tmp_path)
    model = LoggedModel(*run(LOG_MODEL, str(tmp_path), name))

    def predict(consumer: str) -> tuple[list[float], bool]:
        variables = make_variables(endpoint, model, FORMS_OF[consumer][0]) | {"TEST_RUN": "True"}
        answer, has_scikit_learn = run(PREDICT, consumer, str(tmp_path / "300.json"), variables=variables)
        if isinstance(answer, dict):
            answer = [prediction["prediction"]["ride_duration"] for prediction in answer["predictions"]]
        return answer, has_scikit_learn

    with bench_endpoint.serve() as endpoint, ThreadPoolExecutor(2) as pool:
        found = dict(zip(CONSUMERS, pool.map(predict, CONSUMERS), strict=True))
    expected, _ = found[FLOOR]
    assert len(set(expected)) > 10
    assert found == {consumer: (expected, consumer != OURS) for consumer in CONSUMERS}


@pytest.mark.parametrize(("consumer", "has_scikit_learn"), [(OURS, False), (EMPTY, False), (OURS_SKLEARN, True)])
def test_lean_environments_have_no_scikit_learn(consumer: str, has_scikit_learn: bool) -> None:
    """The cold starts of ours prove that the served form does not need scikit-learn."""
    names = locked_packages(ENVIRONMENTS[ENVIRONMENT_OF[consumer]]).keys()
    assert "numpy" in names
    assert [name in names for name in ("scikit-learn", "scipy", "skops")] == [has_scikit_learn] * 3


def test_floor_has_the_settings_of_our_client(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other settings, a setting of the SDK would look like an advantage of ours."""
    for name in ("PREDICTIONS_STREAM_NAME", "RUN_ID"):
        monkeypatch.setenv(name, "any")
    monkeypatch.delenv("MODEL_LOCATION", raising=False)
    config, ours = importlib.import_module("scripts.benchmark.floor").CONFIG, cast("Any", SDK_CONFIG)
    settings = ("connect_timeout", "read_timeout", "parameter_validation")
    assert [getattr(config, name) for name in settings] == [getattr(ours, name) for name in settings]
    assert config.retries["total_max_attempts"] == ours.retries["total_max_attempts"]


def test_failure_of_a_measured_process_ends_the_run(tmp_path: Path) -> None:
    """The event is missing, so the process cannot measure."""
    with Launch(FLOOR, {}, tmp_path).start() as measure, pytest.raises(CommandError, match="floor failed"):
        measure(7, 0.0)


def test_endpoint_answers_as_kinesis_does() -> None:
    """The response has one result for each entry, and operations other than putting are refused."""
    entries: Any = [{"Data": b'"PartitionKey":', "PartitionKey": f'"PartitionKey": {number}'} for number in range(500)]
    with bench_endpoint.serve() as endpoint:
        client = boto3.client("kinesis", endpoint_url=endpoint)
        many = client.put_records(StreamName="rides", Records=entries)
        one = client.put_record(StreamName="rides", Data=b"1", PartitionKey="1")
        with pytest.raises(ClientError):
            client.list_streams()
    assert (many["FailedRecordCount"], len(many["Records"])) == (0, 500)
    assert many["Records"][0]["SequenceNumber"] == one["SequenceNumber"]


def test_endpoint_does_not_answer_before_its_latency() -> None:
    """A request with a latency of an hour gets no response."""
    config = Config(read_timeout=0.2, retries={"total_max_attempts": 1})
    with bench_endpoint.serve() as endpoint:
        bench_endpoint.set_latency(endpoint, 3600.0)
        client = boto3.client("kinesis", endpoint_url=endpoint, config=config)
        with pytest.raises(ReadTimeoutError):
            client.put_record(StreamName="rides", Data=b"1", PartitionKey="1")


def test_requests_in_flight_wait_for_their_latency_side_by_side() -> None:
    """The latency in this test ends when all requests are waiting, so it would never end if they waited one by one."""
    in_flight = threading.Barrier(24)
    with bench_endpoint.Endpoint(partial(in_flight.wait, PATIENCE)) as server, ThreadPoolExecutor(24) as pool:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = Config(max_pool_connections=24, retries={"total_max_attempts": 1})
        url = f"http://{HOST}:{server.server_address[1]}"
        client = boto3.client("kinesis", endpoint_url=url, config=config)
        put = partial(client.put_record, StreamName="rides", Data=b"1", PartitionKey="1")
        answers = [future.result() for future in [pool.submit(put) for _ in range(48)]]
        server.shutdown()
    assert len(answers) == 48


def test_consumers_take_turns_within_their_budget() -> None:
    """A batch that would exceed the budget is left out, but not the other consumers' batches of that size."""
    seconds = {COMMON: 1.0, OURS: 0.1}
    order: list[Cell] = []

    def measure(cell: Cell) -> Sample:
        order.append(cell)
        return sample(seconds[cell.consumer] * cell.rides)

    cells = [Cell("ridge", WARM, rides, consumer) for rides in (1, 10) for consumer in seconds]
    found = measure_in_turns({cell: partial(measure, cell) for cell in cells}, 2, 5.0, lambda: None)
    common_1, ours_1, _, ours_10 = cells
    assert order == [common_1, ours_1, ours_10] * 2
    assert {cell: len(samples) for cell, samples in found.items()} == {common_1: 2, ours_1: 2, ours_10: 2}


def test_ratios_of_batches_are_those_of_the_medians() -> None:
    """A ratio is missing if one of its two consumers was left out."""
    found = {
        Cell("ridge", WARM, 100, COMMON): [sample(0.5), sample(9.0), sample(0.25)],
        Cell("ridge", WARM, 100, OURS): [sample(0.125)],
        Cell("ridge", DELAYED, 100, OURS): [sample(2.0)],
        Cell("ridge", DELAYED, 100, OURS_SKLEARN): [sample(4.0)],
        Cell("ridge", DELAYED, 100, FLOOR): [sample(1.0)],
        Cell("ridge", "cold, skops", 1, FLOOR): [sample(1.6)],
    }
    assert make_warm_rows(found) == [
        WarmRow("ridge", WARM, 100, WALL, 500.0, None, 125.0, None, 4.0, None, None),
        WarmRow("ridge", WARM, 100, CPU, 250.0, None, 62.5, None, 4.0, None, None),
        WarmRow("ridge", DELAYED, 100, WALL, None, 4000.0, 2000.0, 1000.0, None, 2.0, 0.5),
        WarmRow("ridge", DELAYED, 100, CPU, None, 2000.0, 1000.0, 500.0, None, 2.0, 0.5),
    ]


def test_cold_starts_are_compared_with_ours_of_the_same_model() -> None:
    """The ratios are ratios of the medians."""
    found = {
        Cell("ridge", "cold, skops", 1, COMMON): [sample(8.0, 400_000_000), sample(9.0, 1), sample(1.0, 500_000_000)],
        Cell("ridge", "cold, served form", 1, OURS): [sample(2.0, 100_000_000)],
        Cell("forest", "cold, served form", 1, OURS): [sample(4.0, 200_000_000)],
        Cell("forest", "cold, no model", 1, EMPTY): [sample(1.0, 50_000_000)],
        Cell("ridge", WARM, 100, COMMON): [sample(0.5)],
    }
    assert make_cold_rows(found) == [
        ColdRow("ridge", COMMON, SKOPS, 8000.0, 4000.0, 400.0, 0.25, 0.25),
        ColdRow("ridge", OURS, SERVED, 2000.0, 1000.0, 100.0, 1.0, 1.0),
        ColdRow("forest", OURS, SERVED, 4000.0, 2000.0, 200.0, 1.0, 1.0),
        ColdRow("forest", EMPTY, NO_MODEL, 1000.0, 500.0, 50.0, 4.0, 4.0),
    ]


def test_unwritable_file_is_noticed_before_the_measurements(tmp_path: Path) -> None:
    """The error names the file."""
    done = finish("bench", "--json", str(tmp_path / "none" / "bench.json"), cwd=tmp_path)
    assert failed(done) == f"bench: {tmp_path}/none/bench.json cannot be written: No such file or directory"
