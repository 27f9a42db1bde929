"""What the image measures: its size, its cold start, its memory and its speed."""

import statistics
import time
from collections.abc import Mapping

from scripts.cli import CommandError
from scripts.image.container import FunctionContainer
from scripts.image.engine import Engine
from scripts.image.scenarios import COMPLETE, Stage, good_rides

COLD_STARTS = 3
WARM_BATCHES = 20
BATCH, LARGE_BATCH = 500, 8_000
"""Rides: what the local stack hands over at once, and nearly the 6 MB at which Lambda closes a batch."""


def sizes(engine: Engine, base: str, images: Mapping[str, str]) -> dict[str, str]:
    """Return what each image, by its name for people, adds to the base."""
    ground = engine.size(base)
    return {f"{name} adds to the base": _megabytes(engine.size(image) - ground) for name, image in images.items()}


def performance(stage: Stage) -> dict[str, str]:
    """Return how fast the function is and how much memory it takes, by what was measured."""
    from_s3 = [_cold_start(stage, stage.image) for _ in range(COLD_STARTS)]
    baked = [_cold_start(stage, stage.baked_image) for _ in range(COLD_STARTS)]
    measured = {
        "cold start and one ride, model out of S3": f"{statistics.median(from_s3):.2f} s",
        "cold start and one ride, model baked in": f"{statistics.median(baked):.2f} s",
    }
    with stage.function() as function:
        _timed(function, 1)
        measured["peak memory after one ride"] = _megabytes(function.peak_memory())
        batches = [_timed(function, BATCH) for _ in range(WARM_BATCHES)]
        measured[f"a warm batch of {BATCH} rides"] = f"{statistics.median(batches) * 1000:.0f} ms"
        measured[f"peak memory after {WARM_BATCHES} of them"] = _megabytes(function.peak_memory())
        measured[f"a batch of {LARGE_BATCH:,} rides"] = f"{_timed(function, LARGE_BATCH):.2f} s"
        measured["peak memory after that"] = _megabytes(function.peak_memory())
    return measured


def _cold_start(stage: Stage, image: str) -> float:
    with stage.function(image=image) as function:
        return _timed(function, 1)


def _timed(function: FunctionContainer, rides: int) -> float:
    """Return the seconds that a batch of so many rides takes, as its caller sees it."""
    event = good_rides(rides)
    began = time.perf_counter()
    answer = function.invoke(event)
    seconds = time.perf_counter() - began
    if answer != COMPLETE:
        raise CommandError(f"a batch of {rides} rides to measure with was answered {str(answer)[:300]}")
    return seconds


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
