"""What the benchmark found, as rows for programs and for people, and the ratios in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmark import cost, steps
from scripts.benchmark.cold_starts import (
    COMMON_CLOUDPICKLE,
    COMMON_SKOPS,
    FLOOR_CLOUDPICKLE,
    FLOOR_SKOPS,
    OURS_CLOUDPICKLE,
    OURS_SKOPS,
    ColdStart,
    Start,
)
from scripts.benchmark.consumers import COMMON, FLOOR, OURS
from scripts.benchmark.cost import Price
from scripts.benchmark.warm_batches import Batch, Cell


@dataclass(frozen=True)
class WarmRow:
    """A batch of one size, handled by a consumer that stays up."""

    model: str
    consumer: str
    rides: int
    wall_ms: float
    cpu_ms: float
    rides_per_cpu_second: float
    turns: int


@dataclass(frozen=True)
class WarmRatios:
    """How the consumers compare on one batch size; None where one of the two was not measured."""

    model: str
    rides: int
    wall_common_to_ours: float | None
    cpu_ours_to_floor: float | None


@dataclass(frozen=True)
class ColdRow:
    """A cold start."""

    model: str
    start: str
    seconds: float
    peak_memory_mb: float
    modules: int
    runs: int


@dataclass(frozen=True)
class ColdRatios:
    """How ours compares with common practice with the full mlflow, and with the floor, both of its serialization."""

    model: str
    serialization: str
    seconds_ours_to_common: float
    seconds_ours_to_floor: float
    memory_ours_to_common: float


@dataclass(frozen=True)
class GrowthRow:
    """What a ride takes of ours, by the size of its batch and of its model."""

    model: str
    trees: int | None
    """None where the model is no forest, or not one of those that are compared."""
    rides: int
    wall_us_a_ride: float
    cpu_us_a_ride: float


@dataclass(frozen=True)
class CostRow:
    """What a million rides cost in batches of one size."""

    model: str
    consumer: str
    rides: int
    dollars_per_million_rides: float


@dataclass(frozen=True)
class StepsRow:
    """The share of each step in a batch of ours, measured apart with stopwatches in it; together 1."""

    model: str
    rides: int
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """A run. What it was not asked to measure is empty."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    price: Price
    warm: list[WarmRow] = field(default_factory=list)
    warm_ratios: list[WarmRatios] = field(default_factory=list)
    cold: list[ColdRow] = field(default_factory=list)
    cold_ratios: list[ColdRatios] = field(default_factory=list)
    growth_by_batch: list[GrowthRow] = field(default_factory=list)
    growth_by_trees: list[GrowthRow] = field(default_factory=list)
    cost: list[CostRow] = field(default_factory=list)
    steps: list[StepsRow] = field(default_factory=list)


def warm_rows(batches: Mapping[Cell, Batch]) -> list[WarmRow]:
    """Return a row for each cell that was measured."""
    return [
        WarmRow(
            cell.model,
            cell.consumer,
            cell.rides,
            batch.wall_ms,
            batch.cpu_ms,
            batch.rides_per_cpu_second,
            batch.turns,
        )
        for cell, batch in batches.items()
    ]


def warm_ratios(batches: Mapping[Cell, Batch]) -> list[WarmRatios]:
    """Return how the consumers compare, for each model and batch size."""
    rows = []
    for model, rides in dict.fromkeys((cell.model, cell.rides) for cell in batches):
        common, ours, floor = (batches.get(Cell(model, consumer, rides)) for consumer in (COMMON, OURS, FLOOR))
        wall = common.wall_ms / ours.wall_ms if common and ours else None
        cpu = ours.cpu_ms / floor.cpu_ms if ours and floor else None
        rows.append(WarmRatios(model, rides, wall, cpu))
    return rows


def cold_rows(starts: Mapping[tuple[str, Start], ColdStart]) -> list[ColdRow]:
    """Return a row for each way to start."""
    return [
        ColdRow(model, start.name, found.seconds, found.peak_memory / 1e6, round(found.modules), found.runs)
        for (model, start), found in starts.items()
    ]


def cold_ratios(starts: Mapping[tuple[str, Start], ColdStart]) -> list[ColdRatios]:
    """Return how ours compares, for each model and serialization."""
    rows = []
    for model in dict.fromkeys(model for model, _ in starts):
        for ours, common_start, floor in (
            (OURS_SKOPS, COMMON_SKOPS, FLOOR_SKOPS),
            (OURS_CLOUDPICKLE, COMMON_CLOUDPICKLE, FLOOR_CLOUDPICKLE),
        ):
            found, common = starts[model, ours], starts[model, common_start]
            rows.append(
                ColdRatios(
                    model,
                    ours.serialization,
                    found.seconds / common.seconds,
                    found.seconds / starts[model, floor].seconds,
                    found.peak_memory / common.peak_memory,
                )
            )
    return rows


def growth_rows(batches: Mapping[Cell, Batch], trees: Mapping[str, int]) -> list[GrowthRow]:
    """Return what a ride takes in each cell; ``trees`` are those of the models that are compared by them."""
    return [
        GrowthRow(
            cell.model,
            trees.get(cell.model),
            cell.rides,
            batch.wall_ms * 1000 / cell.rides,
            batch.cpu_ms * 1000 / cell.rides,
        )
        for cell, batch in batches.items()
    ]


def cost_rows(batches: Mapping[Cell, Batch], sizes: Sequence[int], price: Price) -> list[CostRow]:
    """Return what each consumer costs, in batches of these sizes."""
    return [
        CostRow(
            cell.model,
            cell.consumer,
            cell.rides,
            cost.dollars_per_million_rides(batch.wall_ms / 1000, cell.rides, price),
        )
        for cell, batch in batches.items()
        if cell.rides in sizes
    ]


def steps_rows(batches: Mapping[Cell, Batch]) -> list[StepsRow]:
    """Return what part of a batch each step takes."""
    return [
        StepsRow(cell.model, cell.rides, steps.shares(batch.steps, batch.wall_ms / 1000))
        for cell, batch in batches.items()
    ]
