"""A model with a baseline, and the rides that are counted in its bins."""

import random
from datetime import datetime
from pathlib import Path

import msgspec

from baselines import DISTANCE, FORMAT, HOUR, PICKUP, PREDICTION, RATIO, UNSEEN, Baseline, Bins, Scale
from digests import digest_of
from drift import UNSEEN_PAIRS, WITHOUT_DISTANCE
from rides import Ride
from tests.builders import copy_saying

EDGES = {DISTANCE: [1.0, 2.0, 5.0], RATIO: [0.5, 1.0, 2.0], PREDICTION: [8.0, 15.0], HOUR: [6.0, 12.0, 18.0]}
ZONES = [10, 20, 30]
PAIRS = {f"{start}_{end}": float(start + end) / 20 for start in (10, 20, 30, 40) for end in (10, 20)} | {"10_30": 0.0}
"""The last pair has no usual distance."""
COUNTS = {
    DISTANCE: [500, 500, 500, 500],
    RATIO: [400, 400, 400, 400, 400],
    PREDICTION: [600, 600, 600],
    UNSEEN: [100, 50, 50],
    HOUR: [500, 500, 500, 500],
    PICKUP: [500, 500, 500, 500],
}
SHARES = {DISTANCE: 3, RATIO: 3, PREDICTION: 2, UNSEEN_PAIRS: 1, WITHOUT_DISTANCE: 1, HOUR: 3, PICKUP: 3}
"""The number of shares that each test compares."""
BASELINE = Baseline(
    target="duration",
    unit="minutes",
    edges=EDGES,
    pickup_zones=ZONES,
    rides=2_000,
    without_distance=100,
    counts=COUNTS,
    scales=[Scale(250, 20, {name: [0.02] * cuts for name, cuts in SHARES.items()}, dict.fromkeys(SHARES, 4.0))],
    errors={},
    error_scale=None,
    pairs=PAIRS,
)
CONTENT = msgspec.json.encode({"format": FORMAT, **msgspec.to_builtins(BASELINE)})
BINS = Bins(BASELINE, digest_of(CONTENT))


def copy_watched(folder: Path) -> str:
    """Copy the sample model to a folder, with this baseline in place of its own, and return the folder."""
    location = copy_saying({"baseline": {"file": "baseline.json", "sha256": digest_of(CONTENT)}}, folder)
    (folder / "baseline.json").write_bytes(CONTENT)
    return location


def draw_rides(number: int, seed: int = 0) -> list[Ride]:
    """Draw rides: some are between pairs that no training ride has, some have no distance, and some are at an edge."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    return [
        Ride(
            draw.choice([*ZONES, 40, 50]),
            draw.choice(ZONES),
            draw.choice([0.0, 1.0, 2.0, draw.uniform(0.01, 8)]),
            datetime(2023, 2, 1 + number % 28, draw.randrange(24), draw.choice([0, 30])),
        )
        for _ in range(number)
    ]
