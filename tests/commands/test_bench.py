"""The benchmark: it measures what it says, in turns, and computes the ratios. No test looks at a time."""

import contextlib
import itertools
import json
import socketserver
import threading
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from rides import Ride
from scripts.benchmark import endpoint as bench_endpoint
from scripts.benchmark.consumers import COMMON, CONSUMERS, FLOOR, OURS
from scripts.benchmark.inputs import MODELS, RIDGE, SKOPS, LoggedModel, write_events
from scripts.benchmark.load import HOST, Answers, Traffic, send
from scripts.benchmark.processes import WARM, Cell, Launch, Sample, make_variables, measure_in_turns
from scripts.benchmark.results import CPU, MEMORY, WALL, Row, make_rows
from scripts.benchmark.services import COURSE, KINDS, MLFLOW, OURS_WEB, start, wait
from scripts.benchmark.web import LIST_RIDES, check
from scripts.cli import CommandError
from scripts.commands.bench import WEB
from scripts.sources.synthetic import generate_rides
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, failed, finish

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: "
KEPT, CLOSED = ANSWER + b"keep-alive\r\n\r\n%s", ANSWER + b"close\r\n\r\n%s"


def sample(wall: float, peak_memory: int = 0) -> Sample:
    """Return a measurement whose CPU time is half its wall time."""
    return Sample(wall, wall / 2, 0.0, peak_memory)


def test_quick_run_reports_both_models_and_leaves_no_other_file(tmp_path: Path) -> None:
    """The results go to stdout and into two files. A batch of one ride is measured on any budget."""
    size = ("--quick", "--rounds", "1", "--budget", "0.03", "--parts", "warm")
    done = finish("bench", *size, "--json", "bench.json", "--plot", "bench.png", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads((tmp_path / "bench.json").read_text())["rows"]
    complete = {(row["model"], row["measure"]) for row in rows if row["rides"] == 1 and None not in row.values()}
    assert complete == {(model, measure) for model in MODELS for measure in (WALL, CPU)}
    assert all(f"Results, {model}" in done.stdout for model in MODELS)
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.png"}


def test_quick_comparison_of_web_services_reports_each_of_them(tmp_path: Path) -> None:
    """Every service has a rate, a ratio and its memory, for single rides and lists. Each answer was checked."""
    size = ("--quick", "--rounds", "1", "--models", RIDGE, "--budget", "1")
    done = finish("bench", WEB, *size, "--json", "bench.json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    report: dict[str, list[dict[str, Any]]] = json.loads((tmp_path / "bench.json").read_text())
    names = {row["service"] for row in report["memory"] if row["requests"] and row["rss_after"]}
    assert names == {OURS_WEB, COURSE, MLFLOW}
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
        (OURS_WEB, '{"duration": 1.5, "model_version": "1"}', False),
        (OURS_WEB, '[{"duration": 1.5, "model_version": "1"}, {"duration": 1.5, "model_version": "1"}]', True),
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
    model = LoggedModel("a-run", {SKOPS: tmp_path / "missing"})
    with start(OURS_WEB, 1, model, tmp_path) as service, pytest.raises(CommandError, match=r"'ours' failed .*missing"):
        wait(service)


def test_batch_with_too_few_rides_is_refused(tmp_path: Path) -> None:
    """A smaller batch would be shown under the wrong size."""
    with pytest.raises(CommandError, match="a batch of 5 rides is wanted, and there are 3"):
        write_events(generate_rides(3, seed=0), [1, 5], tmp_path)


def test_cold_start_of_each_consumer_predicts_and_reports_its_memory(tmp_path: Path) -> None:
    """Common practice needs the most memory, because it imports mlflow."""
    write_events(generate_rides(1, seed=0), [1], tmp_path)
    with bench_endpoint.serve() as endpoint:
        variables = make_variables(endpoint, LoggedModel("a-run", {SKOPS: Path(SAMPLE_MODEL)}), SKOPS)
        starts = {consumer: Launch(consumer, variables, tmp_path).measure_cold_start() for consumer in CONSUMERS}
    assert starts[COMMON].peak_memory > max(starts[OURS].peak_memory, starts[FLOOR].peak_memory) > 50e6


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


def test_ratios_are_those_of_the_medians() -> None:
    """A ratio is missing if one of its two consumers was left out. Only cold starts have a peak memory."""
    found = {
        Cell("ridge", WARM, 100, COMMON): [sample(0.5), sample(9.0), sample(0.25)],
        Cell("ridge", WARM, 100, OURS): [sample(0.125)],
        Cell("ridge", "cold, skops", 1, OURS): [sample(2.0, 200_000_000)],
        Cell("ridge", "cold, skops", 1, FLOOR): [sample(1.6, 100_000_000)],
    }
    assert make_rows(found) == [
        Row("ridge", WARM, 100, WALL, 500.0, 125.0, None, 4.0, None),
        Row("ridge", WARM, 100, CPU, 250.0, 62.5, None, 4.0, None),
        Row("ridge", "cold, skops", 1, WALL, None, 2000.0, 1600.0, None, 1.25),
        Row("ridge", "cold, skops", 1, CPU, None, 1000.0, 800.0, None, 1.25),
        Row("ridge", "cold, skops", 1, MEMORY, None, 200.0, 100.0, None, 2.0),
    ]


def test_unwritable_file_is_noticed_before_the_measurements(tmp_path: Path) -> None:
    """The error names the file."""
    done = finish("bench", "--json", str(tmp_path / "none" / "bench.json"), cwd=tmp_path)
    assert failed(done) == f"bench: {tmp_path}/none/bench.json cannot be written: No such file or directory"
