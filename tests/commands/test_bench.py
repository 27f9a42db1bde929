"""The benchmark: that it measures what it says and computes what follows from that; no times."""

import json
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from scripts.benchmark.cold_starts import STARTS, ColdStart, Process
from scripts.benchmark.cost import Price, dollars_per_million_rides
from scripts.benchmark.environments import closure
from scripts.benchmark.plan import QUICK
from scripts.benchmark.steps import shares
from scripts.benchmark.warm_batches import Batch, Cell
from scripts.benchmark.worker import Turn, timed

from scripts.benchmark import cold_starts, inputs, measured_process, warm_batches
from scripts.benchmark import endpoint as bench_endpoint
from scripts.benchmark.consumers import COMMON, FLOOR, OURS
from scripts.benchmark.results import cold_ratios, warm_ratios
from scripts.cli import CommandError
from scripts.sources.chosen import generated_rides
from tests.conftest import SAMPLE_MODEL
from tests.tools import failed, finish

PRICE = Price(per_gb_second=0.00002, per_million_requests=0.25, memory_mb=2048, date="today")
"""Two gigabytes for a second cost four thousandths of a cent."""


def batch(wall_ms: float, cpu_ms: float) -> Batch:
    """Build what a batch took."""
    return Batch(wall_ms, cpu_ms, rides_per_cpu_second=1.0, turns=1)


def test_a_quick_run_reports_every_part_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """All cells that the budget allows, for programs and as a picture. Cold starts have a test of their own."""
    size = ("--quick", "--rounds", "1", "--budget", "1", "--parts", "warm", "growth", "cost")
    done = finish("bench", *size, "--json", "-", "--plot", "bench.png", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    report: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    assert {name for name, rows in report.items() if not rows} == {"cold", "cold_ratios"}
    measured = {(row["model"], row["consumer"], row["rides"]) for row in report["warm"]}
    models, sizes = ("ridge", "forest"), sorted({*QUICK.batches, 500})
    quick_ones = {(model, consumer, rides) for model in models for consumer in (OURS, FLOOR) for rides in sizes}
    assert measured >= quick_ones | {(model, COMMON, 1) for model in models}
    assert [(row["model"], row["rides"]) for row in report["warm_ratios"]] == [(m, n) for m in models for n in sizes]
    assert [row["trees"] for row in report["growth_by_trees"]] == list(QUICK.growth_trees)
    assert len(report["growth_by_batch"]) == 2 * len(QUICK.growth_batches)
    assert [(row["model"], row["rides"]) for row in report["steps"]] == [(m, n) for m in models for n in (100, 500)]
    assert [path.name for path in tmp_path.iterdir()] == ["bench.png"]


def test_one_part_alone_may_lack_what_the_budget_does_not_reach(tmp_path: Path) -> None:
    """The tables say so."""
    size = ("--quick", "--rounds", "1", "--budget", "0.03")
    done = finish("bench", *size, "--parts", "warm", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warm, compared" in done.stdout
    assert "Ours, by the size of the batch" not in done.stdout


def test_a_batch_is_never_smaller_than_it_says(tmp_path: Path) -> None:
    """Its figures would be those of another."""
    with pytest.raises(CommandError, match="a batch of 5 rides is wanted, and there are 3"):
        inputs.write_events(generated_rides(3, seed=0), [1, 5], tmp_path)


@pytest.mark.parametrize("consumer", [COMMON, OURS, FLOOR])
def test_a_fresh_process_of_each_consumer_predicts_and_puts(consumer: str, tmp_path: Path) -> None:
    """It says how much memory it needed, and how many modules: common practice imports the most of them."""
    inputs.write_events(generated_rides(1, seed=0), [1], tmp_path)
    with bench_endpoint.serve() as endpoint:
        variables = measured_process.environment(endpoint, Path(SAMPLE_MODEL), run_id="a-run")
        start = cold_starts.start(Process(Path(sys.executable), consumer, variables), tmp_path / "1.json")
    assert (start.modules > 2_500) == (consumer == COMMON)
    assert start.modules > 1_000
    assert start.peak_memory > 50e6


def test_the_endpoint_answers_as_kinesis_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One result for each entry; and nothing else is taken."""
    entries: Any = [{"Data": b'"PartitionKey":', "PartitionKey": f'"PartitionKey": {number}'} for number in range(500)]
    with bench_endpoint.serve() as endpoint:
        client = boto3.client("kinesis", endpoint_url=endpoint)
        many = client.put_records(StreamName="rides", Records=entries)
        one = client.put_record(StreamName="rides", Data=b"1", PartitionKey="1")
        with pytest.raises(ClientError):
            client.list_streams()
    assert many["FailedRecordCount"] == 0
    assert len(many["Records"]) == 500
    assert many["Records"][0]["SequenceNumber"] == one["SequenceNumber"]


def test_the_ratios_are_those_of_the_medians() -> None:
    """Where one of two was left out there is none."""
    found = {
        Cell("ridge", COMMON, 100): batch(wall_ms=300, cpu_ms=200),
        Cell("ridge", OURS, 100): batch(wall_ms=6, cpu_ms=5),
        Cell("ridge", FLOOR, 100): batch(wall_ms=5, cpu_ms=4),
        Cell("ridge", OURS, 1_000): batch(wall_ms=60, cpu_ms=50),
    }
    ratios = [(row.rides, row.wall_common_to_ours, row.cpu_ours_to_floor) for row in warm_ratios(found)]
    assert ratios == [(100, 50.0, 1.25), (1_000, None, None)]


def test_a_cold_start_is_compared_within_its_serialization() -> None:
    """And with common practice with the full mlflow, whatever skinny does."""
    seconds = (4.0, 3.0, 9.0, 2.0, 1.5, 1.6, 0.5)
    found = {
        ("ridge", start): ColdStart(took, took * 100e6, 1_000) for start, took in zip(STARTS, seconds, strict=True)
    }
    ratios = [
        (row.serialization, row.seconds_ours_to_common, row.seconds_ours_to_floor, row.memory_ours_to_common)
        for row in cold_ratios(found)
    ]
    assert ratios == [("skops", 0.5, 1.25, 0.5), ("cloudpickle", 0.5, 3.0, 0.5)]


def test_turns_are_summed_up_by_their_medians() -> None:
    """A turn counts once, however many batches it had."""
    turns = [
        Turn(batches=10, wall=0.1, cpu=0.05, steps={"decode": 0.01}),
        Turn(batches=1, wall=0.02, cpu=0.01, steps={"decode": 0.002}),
        Turn(batches=1, wall=9.0, cpu=8.0, steps={"decode": 7.0}),
    ]
    assert warm_batches.summary(100, turns) == Batch(20.0, 10.0, 10_000.0, turns=3, steps={"decode": 0.002})


def test_a_turn_has_one_batch_at_least() -> None:
    """However little time it was given."""
    calls: list[None] = []
    assert timed(lambda: calls.append(None), 0.0).batches == len(calls) == 1


@pytest.mark.parametrize(
    ("seconds", "rides", "dollars"),
    [
        pytest.param(1.0, 1, 40.25, id="a second a ride"),
        pytest.param(1.0, 100, 0.4025, id="a second for a hundred"),
        pytest.param(0.0101, 100, 0.0025 + 0.0044, id="billed in milliseconds, rounded up"),
        pytest.param(0.011, 100, 0.0025 + 0.0044, id="a whole number of milliseconds stays"),
    ],
)
def test_a_million_rides_cost_their_milliseconds_and_requests(seconds: float, rides: int, dollars: float) -> None:
    """By Lambda's rule, for any price."""
    assert dollars_per_million_rides(seconds, rides, PRICE) == pytest.approx(dollars)


def test_the_shares_of_the_steps_are_those_of_the_whole() -> None:
    """The model is a part of predict, and what no step took is the rest."""
    steps = {"decode": 1.0, "predict": 5.0, "model": 3.0, "deliver": 2.0, "store": 0.1, "answer": 0.1}
    assert shares(steps, 10.0) == pytest.approx({"decode": 0.1, "model": 0.3, "encode": 0.2, "put": 0.2, "rest": 0.2})


def test_skinny_gets_what_it_needs_and_not_mlflow() -> None:
    """The packages say themselves what they need."""
    needed = closure(("mlflow-skinny", "pandas"))
    assert {"mlflow-skinny", "pandas", "numpy", "pydantic-core", "urllib3"} <= needed
    assert needed.isdisjoint({"mlflow", "scikit-learn", "matplotlib"})


def test_a_file_that_cannot_be_written_is_noticed_first(tmp_path: Path) -> None:
    """Before minutes have passed."""
    done = finish("bench", "--json", str(tmp_path / "none" / "bench.json"), cwd=tmp_path)
    assert failed(done) == f"bench: {tmp_path}/none/bench.json cannot be written: No such file or directory"
