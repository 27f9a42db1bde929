"""Warm batches: consumers that stay up, with batches of all sizes in turn, so that what disturbs one disturbs all."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from scripts.benchmark.plan import Plan
from scripts.benchmark.worker import Turn, Worker

WARM_UP_RIDES = 1


@dataclass(frozen=True)
class Cell:
    """What is measured at one place of the table."""

    model: str
    consumer: str
    rides: int
    """In a batch."""


@dataclass(frozen=True)
class Batch:
    """What a batch of a cell takes: medians of so many turns."""

    wall_ms: float
    cpu_ms: float
    rides_per_cpu_second: float
    turns: int
    steps: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds by step."""


def measured(
    cells: Collection[Cell], workers: Mapping[tuple[str, str], Worker], plan: Plan, advance: Callable[[], None]
) -> dict[Cell, Batch]:
    """Return what batches take, for each cell that its budget reaches.

    A cell that has used its budget up gets no further turn. It gets none at all where the next smaller batch says that
    its first batch alone would take longer.

    Args:
        cells: what to measure.
        workers: by model and consumer.
        plan: the number of rounds, the length of a turn and the budget of a cell.
        advance: called after each turn, also after one that is left out.
    """
    turns: defaultdict[Cell, list[Turn]] = defaultdict(list)
    ordered = sorted(cells, key=lambda cell: (cell.rides, cell.model, cell.consumer))
    for model, consumer in dict.fromkeys((cell.model, cell.consumer) for cell in ordered):
        workers[model, consumer].turn(WARM_UP_RIDES, 0.0)  # loads the model and opens the connection
    for _ in range(plan.rounds):
        for cell in ordered:
            if _expected(cell, turns) <= plan.budget and sum(turn.wall for turn in turns[cell]) < plan.budget:
                turns[cell].append(workers[cell.model, cell.consumer].turn(cell.rides, plan.turn_seconds))
            advance()
    return {cell: summary(cell.rides, turns[cell]) for cell in cells if turns[cell]}


def _expected(cell: Cell, turns: Mapping[Cell, Sequence[Turn]]) -> float:
    """Return the seconds that the cell's first batch should take, by the largest smaller one; 0 for later ones."""
    if turns.get(cell):
        return 0.0
    smaller = [
        (other.rides, measured[-1].wall / measured[-1].batches)
        for other, measured in turns.items()
        if measured and other.model == cell.model and other.consumer == cell.consumer and other.rides < cell.rides
    ]
    if not smaller:
        return 0.0
    rides, seconds = max(smaller)
    return seconds * cell.rides / rides


def summary(rides: int, turns: Sequence[Turn]) -> Batch:
    """Return the medians of turns with batches of so many rides."""
    wall = statistics.median(turn.wall / turn.batches for turn in turns)
    cpu = statistics.median(turn.cpu / turn.batches for turn in turns)
    steps = {
        step: statistics.median(turn.steps.get(step, 0.0) / turn.batches for turn in turns) for step in turns[0].steps
    }
    return Batch(wall * 1000, cpu * 1000, rides / cpu, len(turns), steps)
