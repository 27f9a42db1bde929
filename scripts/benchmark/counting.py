"""What counting rides costs: our function with a model that has a baseline, with and without counting, in turns.

Both take turns in one process, because two processes of the same program differ by some percent.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from rich.table import Table

from digests import digest_of
from model import load_model
from rides import Ride
from scripts.benchmark import endpoint
from scripts.benchmark.consumers import OURS
from scripts.benchmark.inputs import SERVED, LoggedModel, Plan
from scripts.benchmark.processes import LATENCIES, Launch, Sample, make_variables
from scripts.benchmark.results import format_figure, markdown_table
from scripts.environment import ROOT
from scripts.models.baseline import FILE, encode, make_baseline
from scripts.models.months import RideSet
from served.arrays import Floats
from targets import DURATION
from trips import Trips

SIZES = (100, 500)
"""The rides of a batch."""
COLD = "cold start"
"""The load whose cost is the time to read the baseline and to prepare its bins."""


@dataclass(frozen=True)
class CountingRow:
    """The cost of counting for one batch, or of the baseline for one cold start: medians of pairs of turns."""

    model: str
    case: str
    rides: int
    wall: float
    """Milliseconds without counting."""
    wall_cost: float
    """The time that counting adds, in percent."""
    cpu: float
    cpu_cost: float


def measure(
    models: Mapping[str, LoggedModel], trips: Trips, plan: Plan, url: str, events: Path, advance: Callable[[], None]
) -> list[CountingRow]:
    """Return the rows of all models. ``advance`` is called after each of the ``count_cases``."""
    rows = []
    for name, model in models.items():
        variables = make_variables(url, model, SERVED)
        watched = make_variables(
            url, replace(model, folders={SERVED: add_baseline(model.folders[SERVED], trips)}), SERVED
        )
        for case, latency in LATENCIES.items():
            endpoint.set_latency(url, latency)
            for rides in SIZES:
                rows.append(make_row(name, case, rides, take_turns(watched, events, rides, plan)))
                advance()
        endpoint.set_latency(url, 0.0)
        launches = [Launch(OURS, one, events) for one in (watched, variables)]
        pairs = [[launch.measure_cold_start() for launch in launches] for _ in range(plan.rounds + 1)]
        rows.append(make_row(name, COLD, 1, pairs[1:]))  # the first start reads files into the page cache
        advance()
    return rows


def count_cases(models: int) -> int:
    """Return the number of rows."""
    return models * (len(LATENCIES) * len(SIZES) + 1)


def add_baseline(folder: Path, trips: Trips) -> Path:
    """Put a baseline of the trips that the model was trained on into a copy of its folder, and return the copy."""
    model = load_model(str(folder))
    rides = RideSet((), trips.rides, np.array(trips.values), 0)

    def predict(chosen: Sequence[Ride]) -> Floats:
        return np.array(model.predict(chosen))

    content = encode(make_baseline(rides, rides, predict(trips.rides), DURATION, predict))
    watched = folder.with_name(f"{folder.name}-watched")
    watched.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (watched / file.name).write_bytes(file.read_bytes())
    description = yaml.safe_load((folder / "MLmodel").read_text())
    description["metadata"]["ride_model"]["baseline"] = {"file": FILE, "sha256": digest_of(content)}
    (watched / "MLmodel").write_text(yaml.safe_dump(description))
    (watched / FILE).write_bytes(content)
    return watched


def take_turns(variables: Mapping[str, str], events: Path, rides: int, plan: Plan) -> list[list[Sample]]:
    """Return the samples of each round in a new process: with and without counting."""
    given = [str(events / f"{rides}.json"), str(plan.rounds), str(plan.turn_seconds)]
    command = [sys.executable, "-m", "scripts.benchmark.counting_turns", *given]
    done = subprocess.run(command, cwd=ROOT, env=variables, check=True, stdout=subprocess.PIPE, text=True)
    return [[Sample(wall, cpu, cpu, 0) for wall, cpu in pair] for pair in json.loads(done.stdout.splitlines()[-1])]


def make_row(model: str, case: str, rides: int, pairs: list[list[Sample]]) -> CountingRow:
    """Return the row of some pairs of samples, with and without counting."""
    figures = []
    for at in (0, 1):  # the wall time and the CPU time of a sample
        figures.append(statistics.median(without[at] for _, without in pairs) * 1000)
        figures.append((statistics.median(counted[at] / without[at] for counted, without in pairs) - 1) * 100)
    return CountingRow(model, case, rides, *figures)


def counting_table(rows: list[CountingRow], model: str) -> Table:
    """Return the table of one model."""
    table = markdown_table(f"Counting, {model}", "load", "rides", "wall ms", "adds %", "CPU ms", "adds %")
    for row in rows:
        if row.model == model:
            figures = map(format_figure, (row.wall, row.wall_cost, row.cpu, row.cpu_cost))
            table.add_row(row.case, f"{row.rides:,}", *figures)
    table.caption = "adds: the time that counting takes, or reading the baseline at a cold start, in percent"
    return table
