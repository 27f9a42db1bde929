"""A model's baseline: the distributions of its training rides, in bins into which later rides are counted as well.

``./scripts/train`` writes it into the artifact. Predicting does not need it: it is used to see drift.
"""

from typing import TYPE_CHECKING

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
    median: float
    ride: float
    """The standard deviation of the error of one ride."""
    window: float
    """The standard deviation of a window's mean error."""
    zone: float
    """The standard deviation of a zone's mean error in one window, beside the window's median error."""
    mae: float
    """The standard deviation of a window's MAE divided by its estimate."""


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
    """The bins of a baseline, prepared for counting. All histograms lie one after the other in one array."""

    def __init__(self, baseline: Baseline, digest: str) -> None:
        """Prepare the look-up tables. ``digest`` is the SHA-256 of the baseline's file."""
        self.name = digest[:16]
        """Tells counts of this baseline from counts of others."""
        self._edges = {name: np.array(edges) for name, edges in baseline.edges.items()}
        # A distance ratio that is not known is NaN, which sorts behind infinity.
        self._edges[RATIO] = np.append(self._edges[RATIO], np.inf)
        predictions = len(self._edges[PREDICTION]) + 1
        sizes = [len(self._edges[DISTANCE]) + 1, len(self._edges[RATIO]) + 1, predictions, predictions]
        sizes += [len(self._edges[HOUR]) + 1, len(baseline.pickup_zones) + 1]
        ends = np.cumsum(sizes).tolist()
        self.slices = {name: slice(end - size, end) for name, size, end in zip(VARIABLES, sizes, ends, strict=True)}
        self.size: int = ends[-1]
        # Place 0 stands for all pairs that no training ride has.
        self._places = {pair: place for place, pair in enumerate(baseline.pairs, 1)}
        usual = np.array([0.0, *baseline.pairs.values()])
        self._usual = np.where(usual > 0, usual, np.nan)
        self._zones = {str(zone): bin_ for bin_, zone in enumerate(baseline.pickup_zones, 1)}
        bins = [0, *(self._zones.get(pair.partition("_")[0], 0) for pair in baseline.pairs)]
        self._pickups = np.array(bins) + self.slices[PICKUP].start
        starts = np.full(len(usual), self.slices[PREDICTION].start)
        starts[0] = self.slices[UNSEEN].start
        self._predictions = starts

    def count(
        self, features: "Sequence[Features]", values: "Sequence[float]"
    ) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
        """Return the number of rides in each bin of all histograms.

        ``features`` and predicted ``values`` belong to rides that go more than 0 miles. Hours are counted if the
        features have them.
        """
        count = len(features)
        find = self._places.get
        places = np.array([find(one["PU_DO"], 0) for one in features], np.intp)
        miles = np.fromiter([one["trip_distance"] for one in features], float, count)
        edges, slices = self._edges, self.slices
        pickups = self._pickups[places]
        # Few rides have a pair that the table does not know.
        for place in np.flatnonzero(places == 0).tolist():
            zone = features[place]["PU_DO"].partition("_")[0]
            pickups[place] = slices[PICKUP].start + self._zones.get(zone, 0)
        bins = [
            edges[DISTANCE].searchsorted(miles, "right"),
            edges[RATIO].searchsorted(miles / self._usual[places], "right") + slices[RATIO].start,
            edges[PREDICTION].searchsorted(np.fromiter(values, float, count), "right") + self._predictions[places],
            pickups,
        ]
        if "hour" in features[0]:
            hours = np.fromiter([one["hour"] for one in features], float, count)
            bins.append(edges[HOUR].searchsorted(hours, "right") + slices[HOUR].start)
        return np.bincount(np.concatenate(bins), minlength=self.size)


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
