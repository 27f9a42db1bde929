"""What is measured: models, batch sizes and forest sizes, in full or quickly."""

from dataclasses import dataclass

RIDGE, FOREST = "ridge", "forest"
WARM, COLD, GROWTH, COST = PARTS = ("warm", "cold", "growth", "cost")

FOREST_BATCH = 1_000
"""Rides of the batches that forests of several sizes are measured with."""

COST_BATCHES = (100, 500)


@dataclass(frozen=True)
class Plan:
    """The sizes of everything; of rides, where nothing else is said."""

    trips: int
    """Synthetic ones to train on, where no file is given."""
    trees: int
    """Of the forest."""
    batches: tuple[int, ...]
    growth_batches: tuple[int, ...]
    growth_trees: tuple[int, ...]
    cold_models: tuple[str, ...]
    rounds: int
    turn_seconds: float
    """Batches of one size follow each other so long, before it is another consumer's turn."""
    budget: float
    """Seconds that one consumer gets for one batch size, over all rounds."""


FULL = Plan(
    trips=60_000,
    trees=100,
    batches=(1, 10, 100, 1_000, 10_000),
    growth_batches=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000),
    growth_trees=(10, 30, 100, 300),
    cold_models=(RIDGE, FOREST),
    rounds=7,
    turn_seconds=0.5,
    budget=100.0,
)
QUICK = Plan(
    trips=5_000,
    trees=20,
    batches=(1, 10, 100, 1_000),
    growth_batches=(1, 10, 100, 1_000),
    growth_trees=(5, 20),
    cold_models=(RIDGE,),
    rounds=2,
    turn_seconds=0.05,
    budget=4.0,
)


def forest_of(trees: int) -> str:
    """Return the name of the forest of so many trees, which is a part of the largest one."""
    return f"{FOREST} of {trees}"
