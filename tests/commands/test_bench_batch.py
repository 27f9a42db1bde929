"""The comparison of the batch job with the course's script. No test looks at a time."""

import contextlib
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.benchmark.batch import COURSE_SCRIPT, BatchCell, BatchSample, run_on_one_core
from scripts.benchmark.batch_files import check_agreement
from scripts.benchmark.batch_results import BatchRow, RateRow, make_rates, make_rows
from scripts.benchmark.consumers import OURS, OURS_SKLEARN
from scripts.benchmark.inputs import QUICK, RIDGE
from scripts.cli import CommandError
from scripts.commands.bench import BATCH
from tests.tools import finish

PROGRAMS = {COURSE_SCRIPT, OURS, OURS_SKLEARN}
MEGABYTE = 1_000_000


@pytest.mark.slow
def test_quick_comparison_reports_each_program_and_leaves_no_other_file(tmp_path: Path) -> None:
    """Every program scores each file, and the batch job alone the longest one. Their predictions were compared."""
    size = ("--quick", "--rounds", "1", "--models", RIDGE)
    done = finish("bench", BATCH, *size, "--json", "bench.json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    report: dict[str, list[dict[str, Any]]] = json.loads((tmp_path / "bench.json").read_text())
    measured = {(row["program"], row["rows"]) for row in report["rows"] if row["wall"] and row["peak_memory"] > 50}
    sizes = {QUICK.trips * times for times in QUICK.repeats}
    assert measured == {(name, rows) for name in PROGRAMS for rows in sizes} | {(OURS, QUICK.trips * QUICK.longest)}
    assert {row["program"] for row in report["rates"]} == PROGRAMS
    assert all(f"| {name} " in done.stdout for name in ("program", *PROGRAMS))
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json"}


Rides = Sequence[tuple[int, float | None, float]]
"""A zone, the actual and the predicted duration of each ride."""


def write(path: Path, rides: Rides) -> Path:
    """Write predictions as both programs do: each ride has a zone, an actual and a predicted duration."""
    zones, actual, predicted = zip(*rides, strict=True)
    pickup = pa.array([datetime(2023, 1, 1)] * len(rides), pa.timestamp("us"))
    columns = {"pickup_datetime": pickup, "PULocationID": zones, "DOLocationID": zones}
    pq.write_table(pa.table({**columns, "actual_duration": actual, "predicted_duration": predicted}), path)
    return path


RIDES = [(1, 5.0, 6.5), (2, 7.0, 8.5), (1, 5.0, 6.25)]


@pytest.mark.parametrize(
    ("ours", "course", "error"),
    [
        pytest.param(RIDES, RIDES, None, id="same"),
        pytest.param([*RIDES, (3, 61.0, 9.0), (4, None, 9.0)], RIDES, None, id="unusual rides in ours"),
        pytest.param(RIDES[1:], RIDES, None, id="a ride that ours rejects"),
        pytest.param(RIDES, RIDES[:2], "predicts 6.25 minutes .* course's script None", id="a ride too many in ours"),
        pytest.param(RIDES, [*RIDES[:2], (1, 5.0, 6.25000001)], "predicts 6.25 minutes", id="another prediction"),
        pytest.param([(1, 99.0, 6.5)], RIDES, "no ride is in both", id="nothing to compare"),
    ],
)
def test_different_predictions_end_the_comparison(
    ours: Rides, course: Rides, error: str | None, tmp_path: Path
) -> None:
    """The same ride has the same prediction. Rides that one of the programs leaves out do not count."""
    outputs = write(tmp_path / "ours", ours), write(tmp_path / "course", course)
    with pytest.raises(CommandError, match=error) if error else contextlib.nullcontext():
        check_agreement(*outputs)


def test_memory_of_a_process_is_its_own() -> None:
    """It is not the peak of the measuring process, which has imported pyarrow, or the peak of an earlier process."""
    found = [
        run_on_one_core("a program", [sys.executable, "-c", f"b'x' * {size * MEGABYTE}"], {}).peak_memory / MEGABYTE
        for size in (300, 0)
    ]
    assert 300 < found[0] < 400
    assert found[1] < 100


def test_program_that_fails_ends_the_comparison() -> None:
    """The error has the program's last line."""
    failing = [sys.executable, "-c", "print('first'); import sys; sys.exit('no such month')"]
    with pytest.raises(CommandError, match=r"'a program' failed with exit code 1 \(its last line: no such month\)"):
        run_on_one_core("a program", failing, {})


def test_ratios_and_rates_are_those_of_the_medians() -> None:
    """The rate leaves out what every file costs. It is missing if the longer file took no longer."""
    found = {
        BatchCell(1, COURSE_SCRIPT): [BatchSample(6.0, 5.0, 3 * MEGABYTE)],
        BatchCell(1, OURS): [BatchSample(9.0, 9.0, 0), BatchSample(2.0, 1.5, MEGABYTE), BatchSample(1.0, 1.0, 0)],
        BatchCell(1, OURS_SKLEARN): [BatchSample(1.5, 1.0, MEGABYTE)],
        BatchCell(10, COURSE_SCRIPT): [BatchSample(24.0, 14.0, MEGABYTE)],
        BatchCell(10, OURS): [BatchSample(4.0, 3.0, MEGABYTE)],
        BatchCell(10, OURS_SKLEARN): [BatchSample(1.5, 2.0, MEGABYTE)],
        BatchCell(100, OURS): [BatchSample(22.0, 21.0, MEGABYTE)],
    }
    rows = make_rows(RIDGE, 1_000, found)
    assert rows[:2] == [
        BatchRow(RIDGE, COURSE_SCRIPT, 1_000, 6.0, 5.0, 3.0, 1_000 / 6.0, 1.0),
        BatchRow(RIDGE, OURS, 1_000, 2.0, 1.5, 0.0, 500.0, 3.0),
    ]
    assert rows[-1] == BatchRow(RIDGE, OURS, 100_000, 22.0, 21.0, 1.0, 100_000 / 22.0, None)
    assert make_rates(rows) == [
        RateRow(RIDGE, COURSE_SCRIPT, 500.0, 1_000.0, 1.0),
        RateRow(RIDGE, OURS_SKLEARN, None, 9_000.0, None),
        RateRow(RIDGE, OURS, 4_500.0, 6_000.0, 9.0),
    ]
