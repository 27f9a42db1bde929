"""A model's baseline: the distributions of its training rides, in bins into which later rides are counted as well.

``./scripts/train`` writes it into the artifact. Predicting does not need it: it is used to see drift.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from artifacts import Artifact, ModelError
from digests import digest_of
from model_metadata import ModelMetadata
from served.arrays import Floats

if TYPE_CHECKING:
    from features import Features

FORMAT = 2
"""Baselines of earlier formats have nothing to calibrate limits with. A model with such a baseline is served, but its
rides are not counted."""
DISTANCE, RATIO, PREDICTION, UNSEEN, HOUR, PICKUP = VARIABLES = (
    *("trip_distance", "distance_ratio", "prediction", "prediction_of_unseen_pairs", "hour", "pickup_zone"),
)
"""The histograms. ``distance_ratio`` is the distance divided by the usual distance of the ride's pair of zones. Its
last bin has the rides whose pair has no usual distance. ``prediction`` has the rides of pairs that training rides have,
and ``prediction_of_unseen_pairs`` has all other rides."""


Cells: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.intp]]"


class Scale(Struct, frozen=True):
    """How much the training rides' own windows of one size differ from all training rides.

    Windows are consecutive rides in the order of their pickups: of all rides, and of the rides that the model was
    trained on alone.
    """

    rides: int
    """The size of a window."""
    windows: int
    """The number of windows that do not overlap."""
    deviations: dict[str, list[float]]
    """For each test of ``drift.find_shares``, the standard deviation of each share."""
    limits: dict[str, float]
    """For each test, the number of standard deviations beyond which a window has drifted."""


class ExpectedErrors(Struct, frozen=True):
    """The errors of predictions in the bins of one histogram, on rides that the model was not trained on."""

    rides: list[int]
    mae: list[float]
    rmse: list[float]


class ErrorScale(Struct, frozen=True):
    """How much the errors of windows of the validation rides differ by more than chance.

    An error is actual minus predicted, as a part of the MAE of its bin in ``errors``, and limited to
    ``actual_errors.MOST_ERROR``. Standard deviations of windows and zones are without the part that is chance.
    """

    rides: int
    """The size of a window."""
    windows: int
    """The number of windows."""
    mean: float
    """The mean error of all validation rides."""
    ride: float
    """The standard deviation of the error of one ride."""
    window: float
    """The standard deviation of a window's mean error."""
    zone: float
    """The standard deviation of a zone's mean error in one window, compared with the window's zone in the middle."""
    mae: float
    """The standard deviation of a window's MAE divided by its estimate."""
    most: float = 0.0
    """The largest difference of a zone in a window of training or validation rides, in standard deviations."""


class Baseline(Struct, frozen=True):
    """The content of the file, without its digest. docs/formats.md has the format."""

    target: str
    unit: str
    edges: dict[str, list[float]]
    """The inner edges of each histogram: n edges make n + 1 bins, and a value that equals an edge is above it."""
    pickup_zones: list[int]
    """The zones with a bin of their own in ``pickup_zone``. Its first bin has all others."""
    rides: int
    """The rides in ``counts``: the training rides, and all others of their files that services would predict."""
    without_distance: int
    """Further rides of these files: those of 0 miles, which are in no histogram."""
    counts: dict[str, list[int]]
    scales: list[Scale]
    """In the order of their sizes. Empty if there are too few training rides."""
    errors: dict[str, ExpectedErrors]
    """By the names of the two histograms of predictions."""
    error_scale: ErrorScale | None
    """None if there are too few validation rides."""
    pairs: dict[str, float]
    """The usual distance of each pair of zones that training rides have, in miles; 0 if too few rides have it."""


class _Format(Struct):
    format: int


class _Places(dict[str, int]):
    """The place of each pair in the tables of ``Bins``. Pairs that no training ride has share those of their pickup."""

    pickups: Mapping[str, int]

    def __missing__(self, pair: str) -> int:
        return self.pickups.get(pair[: pair.find("_")], 0)


class Bins:
    """The bins of a baseline, prepared for counting: one row of cells, which has all histograms one after the other.

    The last cell has the rides of 0 miles. Models are not trained on such rides, so they are in no histogram.
    """

    def __init__(self, baseline: Baseline, digest: str) -> None:
        """Prepare the look-up tables. ``digest`` is the SHA-256 of the baseline's file."""
        self.baseline = baseline
        self.name = digest[:16]
        """Tells counts of this baseline from counts of others."""
        # A distance ratio that is not known is NaN, which sorts after infinity.
        edges = {**baseline.edges, RATIO: [*baseline.edges[RATIO], math.inf]}
        edges[UNSEEN] = edges[PREDICTION]
        sizes = [len(edges[name]) + 1 if name in edges else len(baseline.pickup_zones) + 1 for name in VARIABLES]
        ends = list(accumulate(sizes))
        self.slices = {name: slice(end - size, end) for name, size, end in zip(VARIABLES, sizes, ends, strict=True)}
        self.size = ends[-1] + 1
        self._edges = {name: np.array(found) for name, found in edges.items()}
        starts = [self.slices[name].start for name in (RATIO, PREDICTION, DISTANCE, HOUR, PICKUP, UNSEEN)]
        self._fill_tables(baseline, starts)

    def _fill_tables(self, baseline: Baseline, starts: Sequence[int]) -> None:
        """Prepare what the count of a ride needs to know of its pair, by the place of the pair.

        The first places are those of pairs that no training ride has, by the zone of the pickup. The last place is that
        of all rides of 0 miles: one of their cells is the last cell, and their other cells lie beyond it and are cut
        off.
        """
        *first, pickup, unseen = starts
        zones = {str(zone): place for place, zone in enumerate(baseline.pickup_zones, 1)}
        others, pairs = len(zones) + 1, baseline.pairs
        self._places = _Places(zip(pairs, range(others, others + len(pairs)), strict=True))
        self._places.pickups = zones
        self._no_distance = others + len(pairs)
        usual = np.zeros(others + len(pairs) + 1)
        usual[others:-1] = np.fromiter(pairs.values(), float, len(pairs))
        self._usual = np.where(usual > 0, usual, math.nan)
        # A row for each of the histograms, in which the cells of a ride begin.
        rows = np.repeat(np.array([*first, pickup])[:, np.newaxis], len(usual), axis=1)
        rows[1, :others] = unseen
        rows[4, :others] += np.arange(others)
        find = zones.get
        rows[4, others:-1] += np.fromiter([find(pair[: pair.find("_")], 0) for pair in pairs], np.intp, len(pairs))
        rows[:, -1] = self.size
        rows[2, -1] = self.size - 1
        self._rows = rows
        self._rows_without_hour = rows[[0, 1, 2, 4]]

    def find(self, features: "Sequence[Features]", values: "Sequence[float] | Floats") -> list[int]:
        """Return the cells of a few rides, found one by one, for their features and predicted values."""
        found, edges, pairs = [], self.baseline.edges, self.baseline.pairs
        distance, ratio, prediction, unseen, hour, pickup = (self.slices[name].start for name in VARIABLES)
        for one, value in zip(features, values, strict=True):
            miles, pair = one["trip_distance"], one["PU_DO"]
            if not miles:
                found.append(self.size - 1)
                continue
            usual = pairs.get(pair)
            ratios = bisect_right(edges[RATIO], miles / usual) if usual else len(edges[RATIO]) + 1
            start = unseen if usual is None else prediction
            found += distance + bisect_right(edges[DISTANCE], miles), ratio + ratios
            found += start + bisect_right(edges[PREDICTION], value), pickup + self._find_zone(pair)
            if "hour" in one:
                found.append(hour + bisect_right(edges[HOUR], one["hour"]))
        return found

    def _find_zone(self, pair: str) -> int:
        return self._places.pickups.get(pair[: pair.find("_")], 0)

    def count(self, features: "Sequence[Features]", values: "Sequence[float] | Floats") -> "Cells":
        """Return the number of rides in each cell, for their features and predicted values. Fast for many rides."""
        find, count = self._places, len(features)
        places = [find[one["PU_DO"]] for one in features]
        distances = [one["trip_distance"] for one in features]
        place = -1
        for _ in range(distances.count(0.0)):
            place = distances.index(0.0, place + 1)
            places[place] = self._no_distance
        edges, has_hour = self._edges, "hour" in features[0]
        # Few calls of numpy, because each takes longer than its work on a hundred numbers.
        miles = np.fromiter(distances, float, count)
        chosen = np.fromiter(places, np.intp, count)
        cells = (self._rows if has_hour else self._rows_without_hour).take(chosen, 1)
        cells[0] += edges[RATIO].searchsorted(miles / self._usual.take(chosen), "right")
        cells[1] += edges[PREDICTION].searchsorted(values, "right")
        cells[2] += edges[DISTANCE].searchsorted(miles, "right")
        if has_hour:
            cells[3] += edges[HOUR].searchsorted([one["hour"] for one in features], "right")
        found: Cells = np.bincount(cells.ravel(), minlength=self.size)[: self.size]
        return found


def read_baseline(artifact: Artifact, metadata: ModelMetadata) -> tuple[Baseline, str] | None:
    """Return the baseline of an artifact and its digest; None if it has none, or one of an earlier format.

    Raises ModelError if the file is missing, or is not the file that the artifact names.
    """
    if metadata.baseline is None:
        return None
    content = artifact.read(metadata.baseline.file)
    place, digest = f"{artifact.location}/{metadata.baseline.file}", digest_of(content)
    if digest != metadata.baseline.sha256:
        raise ModelError(f"{place} is not the file that its MLmodel names: log or publish the model again")
    try:
        if msgspec.json.decode(content, type=_Format).format != FORMAT:
            return None
        return msgspec.json.decode(content, type=Baseline), digest
    except msgspec.MsgspecError as error:
        raise ModelError(f"{place} is not a baseline: {error}; train the model again") from error
