"""A model's baseline: the distributions of its training rides, in bins into which later rides are counted as well.

``./scripts/train`` writes it into the artifact. Predicting does not need it: it is used to see drift.
"""

import math
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from artifacts import Artifact, ModelError
from digests import digest_of
from model_metadata import ModelMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features import Features

FORMAT = 2
"""Earlier formats had no windows to calibrate thresholds with. A model with such a baseline is served, but not
watched."""
DISTANCE, RATIO, PREDICTION, UNSEEN, HOUR, PICKUP = VARIABLES = (
    *("trip_distance", "distance_ratio", "prediction", "prediction_of_unseen_pairs", "hour", "pickup_zone"),
)
"""The histograms. ``distance_ratio`` is the distance divided by the usual distance of the ride's pair of zones. The
last bin has the rides whose pair has no usual distance. ``prediction`` has rides of pairs that training rides have, and
``prediction_of_unseen_pairs`` has all others."""


FEW = 4
"""Up to this number of rides are counted one by one. Numpy would take longer, several times as long for one ride."""
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
    """Their number."""
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
    """Such rides of 0 miles, which are in no histogram."""
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


class Bins:
    """The bins of a baseline, prepared for counting: cells in a row, those of one histogram behind those of another.

    The last cell has the rides of 0 miles. Models are not trained on such rides, so they are in no histogram.
    """

    def __init__(self, baseline: Baseline, digest: str) -> None:
        """Prepare the look-up tables. ``digest`` is the SHA-256 of the baseline's file."""
        self.baseline = baseline
        self.name = digest[:16]
        """Tells counts of this baseline from counts of others."""
        # A distance ratio that is not known is NaN, which sorts behind infinity.
        edges = {**baseline.edges, RATIO: [*baseline.edges[RATIO], math.inf]}
        edges[UNSEEN] = edges[PREDICTION]
        sizes = [len(edges[name]) + 1 if name in edges else len(baseline.pickup_zones) + 1 for name in VARIABLES]
        ends = list(accumulate(sizes))
        self.slices = {name: slice(end - size, end) for name, size, end in zip(VARIABLES, sizes, ends, strict=True)}
        self.size = ends[-1] + 1
        self._edges, self._arrays = edges, {name: np.array(found) for name, found in edges.items()}
        # Place 0 stands for all pairs that no training ride has.
        self._places = dict(zip(baseline.pairs, range(1, len(baseline.pairs) + 1), strict=True))
        self._usual = np.array([0.0, *baseline.pairs.values()])
        self._usual[self._usual <= 0] = math.nan
        starts = {name: part.start for name, part in self.slices.items()}
        self._predictions = np.full(len(self._usual), starts[PREDICTION])
        self._predictions[0] = starts[UNSEEN]
        zones = {str(zone): starts[PICKUP] + bin_ for bin_, zone in enumerate(baseline.pickup_zones, 1)}
        get, other = zones.get, starts[PICKUP]
        self._pickups = np.array([other, *[get(pair[: pair.find("_")], other) for pair in baseline.pairs]])
        self._starts, self._zones = starts, zones

    def count(self, features: "Sequence[Features]", values: "Sequence[float]") -> "Cells":
        """Return the number of rides in each cell, for the features and the predicted values of some rides.

        Hours are counted if the features have them.
        """
        if len(features) <= FEW:
            return self._count_few(features, values)
        get, count = self._places.get, len(features)
        # Lists and fromiter, because np.array looks at the types of all elements first.
        places = np.fromiter([get(one["PU_DO"], 0) for one in features], np.intp, count)
        miles = np.fromiter([one["trip_distance"] for one in features], float, count)
        predicted = np.fromiter(values, float, count)
        kept: Any = None
        if not miles.all():
            kept = miles.nonzero()[0]
            places, miles, predicted = places[kept], miles[kept], predicted[kept]
        edges, starts = self._arrays, self._starts
        pickups = self._pickups[places]
        for place in (places == 0).nonzero()[0].tolist():
            pickups[place] = self._find_pickup(features[place if kept is None else kept[place]]["PU_DO"])
        bins = [
            edges[DISTANCE].searchsorted(miles, "right"),
            edges[RATIO].searchsorted(miles / self._usual[places], "right") + starts[RATIO],
            edges[PREDICTION].searchsorted(predicted, "right") + self._predictions[places],
            pickups,
        ]
        if "hour" in features[0]:
            hours = np.fromiter([one["hour"] for one in features], float, count)
            hours = hours if kept is None else hours[kept]
            bins.append(edges[HOUR].searchsorted(hours, "right") + starts[HOUR])
        cells = np.bincount(np.concatenate(bins), minlength=self.size)
        cells[-1] = count - len(miles)
        return cells

    def _count_few(self, features: "Sequence[Features]", values: "Sequence[float]") -> "Cells":
        """Count rides one by one, into the same cells."""
        edges, starts = self._edges, self._starts
        cells = np.zeros(self.size, np.intp)
        for one, value in zip(features, values, strict=True):
            miles = one["trip_distance"]
            if not miles:
                cells[-1] += 1
                continue
            place = self._places.get(one["PU_DO"], 0)
            cells[bisect_right(edges[DISTANCE], miles)] += 1
            # NaN has no place in an order, and bisect would take it for a small number.
            usual = self._usual.item(place)
            cells[starts[RATIO] + (bisect_right(edges[RATIO], miles / usual) if usual > 0 else len(edges[RATIO]))] += 1
            cells[self._predictions.item(place) + bisect_right(edges[PREDICTION], value)] += 1
            cells[self._pickups.item(place) if place else self._find_pickup(one["PU_DO"])] += 1
            if "hour" in one:
                cells[starts[HOUR] + bisect_right(edges[HOUR], one["hour"])] += 1
        return cells

    def _find_pickup(self, pair: str) -> int:
        """Return the cell of the zone where a ride begins whose pair no training ride has."""
        return self._zones.get(pair[: pair.find("_")], self._starts[PICKUP])


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
