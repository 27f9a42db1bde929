"""A window of rides that a model has predicted: their counts in the bins of its baseline, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from baselines import Baseline, Bins, read_baseline
from digests import open_pinned
from features import prepare_features
from model import describe_model, find_location
from model_metadata import ModelMetadata
from ride_counts import Counter, RideCounts
from rides import Ride
from scripts.cli import CommandError
from scripts.models.actual_errors import ActualRides
from served.arrays import Floats
from settings import ModelSettings

CHUNK = 10_000
"""Rides that are counted at once."""


@dataclass(frozen=True)
class WatchedModel:
    """The parts of a model that judging its rides needs. The model itself is not loaded."""

    location: str
    version: str
    metadata: ModelMetadata
    bins: Bins
    zone: tzinfo
    """The time zone of the pickups' hours."""

    @property
    def baseline(self) -> Baseline:
        """The model's baseline."""
        return self.bins.baseline


@dataclass(frozen=True)
class PredictedRides:
    """Rides with their predictions. Each attribute has an element for each ride."""

    pickups: NDArray[np.int64]
    """The zones where they begin."""
    dropoffs: NDArray[np.int64]
    miles: Floats
    hours: Floats
    """The hours of the pickups, with minutes as their fraction; NaN if the model does not want the time."""
    predicted: Floats
    actual: Floats
    """The actual values, NaN if they are not known."""

    @classmethod
    def of(
        cls, model: WatchedModel, rides: Sequence[Ride], predicted: Floats, actual: Floats | None = None
    ) -> "PredictedRides":
        """Return rides that have a pickup if the model wants the time."""
        features = [prepare_features(ride, model.metadata.features, model.zone) for ride in rides]
        return cls(
            np.array([ride.PULocationID for ride in rides], np.int64),
            np.array([ride.DOLocationID for ride in rides], np.int64),
            np.array([ride.trip_distance for ride in rides], float),
            np.array([one.get("hour", np.nan) for one in features], float),
            predicted,
            np.full(len(rides), np.nan) if actual is None else actual,
        )

    def as_actual_rides(self) -> ActualRides:
        """Return them in the form in which their errors are judged."""
        return ActualRides(np.column_stack([self.pickups, self.dropoffs]), self.miles, self.predicted, self.actual)

    def count(self, model: WatchedModel, rejected: int = 0) -> RideCounts:
        """Return their counts, the same that the model's services count."""
        counter = Counter(model.bins)
        counter.rejected = rejected
        for start in range(0, len(self.miles), CHUNK):
            part = slice(start, start + CHUNK)
            columns = (column[part].tolist() for column in (self.pickups, self.dropoffs, self.miles))
            hours = self.hours[part].tolist() if model.metadata.wants_time else ()
            counter.add([*map(Ride, *columns)], self.predicted[part].tolist(), hours)
        return counter.total()


@dataclass(frozen=True)
class Window:
    """The rides of a window."""

    source: str
    """Where the rides come from, in a few words."""
    counts: RideCounts
    notes: list[str] = field(default_factory=list)
    """Sentences about the counts, for people: which rides were left out, may count twice, or cannot be seen."""
    rides: PredictedRides | None = None
    """The predicted rides one by one, if the source has them."""


def open_watched(settings: ModelSettings) -> WatchedModel:
    """Return the model that the settings name. Raises ModelError, and CommandError if it cannot be watched."""
    location = find_location(settings)
    described = describe_model(location, sha256=settings.sha256, version=settings.run_id)
    artifact, _ = open_pinned(location, settings.sha256)
    found = read_baseline(artifact, described.metadata)
    if not found:
        raise CommandError(
            f"{location} has no baseline that rides can be compared with: train it again with ./scripts/train"
        )
    zone = ZoneInfo(settings.time_zone)
    return WatchedModel(location, described.version, described.metadata, Bins(*found), zone)


def choose_counts(model: WatchedModel, found: Sequence[RideCounts], place: str) -> tuple[RideCounts, list[str]]:
    """Add up the counts of the model's own baseline, and return the sum with a note about the others.

    Raises CommandError if no counts are of its baseline. ``place`` says where they were found.
    """
    own = [one for one in found if one.baseline == model.bins.name]
    others = sorted({one.baseline for one in found} - {model.bins.name})
    if not own:
        raise CommandError(
            f"{place}: the rides were counted with the baseline {' and '.join(others)}, and {model.location} has the"
            f" baseline {model.bins.name}: name the model that counted them with --model"
        )
    fitting = [one for one in own if _fits(model.bins, one)]
    if not fitting:
        raise CommandError(f"{place}: the counts do not fit the bins of their baseline: they were changed or damaged")
    notes = [f"{len(found) - len(own):,} counts of other baselines are left out: {', '.join(others)}"] if others else []
    if damaged := len(own) - len(fitting):
        notes.append(f"{damaged:,} counts do not fit the bins of their baseline: they are left out")
    return sum(fitting[1:], fitting[0]), notes


def _fits(bins: Bins, counts: RideCounts) -> bool:
    """Return whether counts have the histograms of a baseline, if they have rides, and no number below 0."""
    if counts.rides and not counts.counts:
        return False
    sizes = {name: part.stop - part.start for name, part in bins.slices.items()}
    return min(counts.rides, counts.without_distance, counts.rejected) >= 0 and all(
        len(cells) == sizes.get(name) and min(cells) >= 0 for name, cells in counts.counts.items()
    )
