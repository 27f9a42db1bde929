"""A model's baseline: the distributions of its training rides, in bins into which later rides are counted as well.

``./scripts/train`` writes it into the artifact. Predicting does not need it: it is used to see drift.
"""

import math
import struct
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from artifacts import Artifact, ModelError
from digests import digest_of
from model_metadata import ModelMetadata
from served.arrays import Floats

if TYPE_CHECKING:
    from rides import Ride

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


MOST_CELLS = 1_000_000
"""The most pairs of zones for which there is a table of all of them. TLC's 265 zones and one for others have 70,756."""


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
        self._pickups = {zone: place for place, zone in enumerate(baseline.pickup_zones, 1)}
        self._prepare_places(baseline)

    def _prepare_places(self, baseline: Baseline) -> None:
        """Prepare what the count of a ride needs to know of its pair of zones, by the place of the pair.

        A pair is a number: a row for the pickup's zone, and a column for the dropoff's. The first row and the first
        column are those of all zones that the baseline does not have, whatever their numbers. A place is an interval of
        these numbers. Each pair that training rides have is an interval of its own, and the pairs of a pickup's zone
        that lie between share one. The last place is that of all rides of 0 miles: their distance is in the first bin
        of its histogram, and their other cells lie behind the last one, so that nobody sees them.
        """
        zones = _read_zones(baseline.pairs)
        known = sorted({*zones, *baseline.pickup_zones})
        width = len(known) + 1
        self._columns = {zone: place for place, zone in enumerate(known, 1)}
        self._rows = {zone: place * width for zone, place in self._columns.items()}
        self._nowhere = width * width
        row, column = self._rows, self._columns
        keys = np.array([row[start] + column[end] for start, end in zip(zones[::2], zones[1::2], strict=True)], np.intp)
        starts = np.concatenate([np.arange(width + 1) * width, keys, keys + 1])
        starts.sort(kind="stable")  # the fastest, because these are three sorted parts
        starts = starts[np.diff(starts, prepend=-1) > 0]
        usual = np.fromiter(baseline.pairs.values(), float, len(keys))
        seen = starts.searchsorted(keys)
        self._usual = np.full(len(starts), math.nan)
        self._usual[seen] = np.where(usual > 0, usual, math.nan)
        # A row for each of the histograms, in which the cells of a ride begin.
        firsts = [self.slices[name].start for name in (RATIO, UNSEEN, DISTANCE, PICKUP, HOUR)]
        self._firsts = np.repeat(np.array(firsts)[:, np.newaxis], len(starts), axis=1)
        self._firsts[1, seen] = self.slices[PREDICTION].start
        pickups = np.zeros(width + 1, np.intp)
        for zone, place in self._pickups.items():
            pickups[column[zone]] = place
        self._firsts[3] += pickups[starts // width]
        self._firsts[:, -1] = self.size
        self._firsts[2, -1] = self.size - 1
        self._firsts_without_hour = self._firsts[:4]
        if self._nowhere < MOST_CELLS:
            places = np.arange(len(starts), dtype=np.min_scalar_type(len(starts)))
            find: Callable[[Any], Any] = np.repeat(places, np.diff(starts, append=self._nowhere + 1)).take
        else:

            def find(keys: Any) -> Any:
                return starts.searchsorted(keys, "right") - 1

        self._find_places = find

    def find(self, rides: "Sequence[Ride]", values: "Sequence[float] | Floats", hours: Sequence[float]) -> list[int]:
        """Return the cells of a few rides one after the other; the arguments are those of ``count``."""
        found, edges, pairs = [], self.baseline.edges, self.baseline.pairs
        distance, ratio, prediction, unseen, hour, pickup = (self.slices[name].start for name in VARIABLES)
        for place, (ride, value) in enumerate(zip(rides, values, strict=True)):
            miles, zone = ride.trip_distance, ride.PULocationID
            if not miles:
                found.append(self.size - 1)
                continue
            usual = pairs.get(f"{zone}_{ride.DOLocationID}")
            ratios = bisect_right(edges[RATIO], miles / usual) if usual else len(edges[RATIO]) + 1
            start = unseen if usual is None else prediction
            found += distance + bisect_right(edges[DISTANCE], miles), ratio + ratios
            found += start + bisect_right(edges[PREDICTION], value), pickup + self._pickups.get(zone, 0)
            if hours:
                found.append(hour + bisect_right(edges[HOUR], hours[place]))
        return found

    def count(self, rides: "Sequence[Ride]", values: "Sequence[float] | Floats", hours: Sequence[float]) -> "Cells":
        """Return the number of rides in each cell. Made for many rides.

        ``values`` are the predicted values, and ``hours`` those of the pickups, which only a model with the time has.
        """
        # Few calls of numpy, because each takes longer than its work on a hundred numbers.
        row, column, nowhere, number = self._rows.get, self._columns.get, self._nowhere, len(rides)
        miles = [one.trip_distance for one in rides]
        keys = [
            row(one.PULocationID, 0) + column(one.DOLocationID, 0) if one.trip_distance else nowhere for one in rides
        ]
        packed = struct.pack(f"{number}q{number + len(hours)}d", *keys, *miles, *hours)
        places = self._find_places(np.frombuffer(packed, np.int64, number))
        distances, edges = np.frombuffer(packed, float, number, 8 * number), self._edges
        cells = (self._firsts if hours else self._firsts_without_hour).take(places, 1)
        cells[0] += edges[RATIO].searchsorted(distances / self._usual.take(places), "right")
        cells[1] += edges[PREDICTION].searchsorted(values, "right")
        cells[2] += edges[DISTANCE].searchsorted(distances, "right")
        if hours:
            cells[4] += edges[HOUR].searchsorted(np.frombuffer(packed, float, -1, 16 * number), "right")
        found: Cells = np.bincount(cells.ravel(), minlength=self.size)[: self.size]
        return found


def _read_zones(pairs: Mapping[str, float]) -> list[int]:
    """Return the two zones of each pair, one pair after the other. Raises ModelError."""
    try:
        # In one call, because ``int`` would take several times as long for 20,000 pairs at a cold start.
        zones = msgspec.json.decode(f"[{','.join(pairs).replace('_', ',')}]", type=list[int])
    except msgspec.MsgspecError as error:
        raise ModelError(f"a pair of the baseline is not two zones ({error}): train the model again") from error
    if len(zones) != 2 * len(pairs):
        raise ModelError("a pair of the baseline is not two zones: train the model again")
    return zones


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
