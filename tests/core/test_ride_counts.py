"""Counting rides in a baseline's bins: each ride once, in the right bin, however the rides are split."""

import math
import random
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import reduce
from itertools import pairwise
from operator import add
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import ModelError
from baselines import DISTANCE, HOUR, PICKUP, PREDICTION, RATIO, UNSEEN, Bins
from features import Features
from model import Model, PredictionError
from model_metadata import ModelMetadata
from ride_counts import FEW, Counter, RideCounts
from rides import Ride
from scripts.models.boosting import WITH_TIME
from tests.tools import ROOT
from tests.watched_models import BASELINE, BINS, EDGES, PAIRS, ZONES, draw_rides

NO_VALUE = 55.0
"""The model predicts infinity for rides of this length."""
POISON = 66.0
"""The model raises for rides of this length."""
RIDES = st.builds(
    Ride,
    st.sampled_from([*ZONES, 40, 50, -1, 2**32 + 10, 2**63, -(2**64)]),
    st.sampled_from([*ZONES, 11, -20, 2**64 + 20]),
    st.sampled_from([0.0, 0.3, *EDGES[DISTANCE], 5.5, 100.0, NO_VALUE, POISON]),
    st.datetimes(timezones=st.none()),
)


def predict(features: list[Features]) -> list[float]:
    """Predict values in all bins and at their edges, predict infinity, or raise an error."""
    miles = [one["trip_distance"] for one in features]
    if POISON in miles:
        raise ValueError("poison")
    return [math.inf if one == NO_VALUE else one * 8.0 for one in miles]


def watched(names: Sequence[str] = WITH_TIME) -> Model:
    """Build a model with a baseline."""
    return Model(predict, "v", ModelMetadata(features=tuple(names)), bins=BINS)


def count(model: Model, rides: Sequence[Ride]) -> RideCounts:
    """Predict rides in one batch, and return what an entry point reports of it."""
    counter = Counter(BINS)
    counter.rejected = sum(isinstance(one, PredictionError) for one in model.predict(rides, counter=counter))
    return counter.total()


def find_bins(ride: Ride) -> Iterator[tuple[str, int]]:
    """Yield the histograms that a ride is in, and its bin, as docs/formats.md says it."""
    miles, pair = ride.trip_distance, f"{ride.PULocationID}_{ride.DOLocationID}"
    usual = PAIRS.get(pair, 0.0)
    yield DISTANCE, bisect_right(EDGES[DISTANCE], miles)
    yield RATIO, bisect_right(EDGES[RATIO], miles / usual) if usual else 4
    yield PREDICTION if pair in PAIRS else UNSEEN, bisect_right(EDGES[PREDICTION], miles * 8)
    yield PICKUP, ZONES.index(ride.PULocationID) + 1 if ride.PULocationID in ZONES else 0
    assert ride.pickup_datetime
    yield HOUR, bisect_right(EDGES[HOUR], ride.pickup_datetime.hour + ride.pickup_datetime.minute / 60)


def count_one_by_one(rides: Sequence[Ride]) -> RideCounts:
    """Count rides as slowly as possible."""
    sizes = {name: len(edges) + 1 for name, edges in EDGES.items()} | {UNSEEN: 3, PICKUP: 4, RATIO: 5}
    predicted = [ride for ride in rides if ride.trip_distance not in (NO_VALUE, POISON)]
    found = [place for ride in predicted if ride.trip_distance for place in find_bins(ride)]
    counts = {name: [found.count((name, bin_)) for bin_ in range(size)] for name, size in sizes.items()}
    without = sum(not ride.trip_distance for ride in predicted)
    kept = {name: cells for name, cells in counts.items() if any(cells)}
    return RideCounts(BINS.name, len(predicted) - without, without, len(rides) - len(predicted), kept)


@given(st.lists(RIDES, max_size=40))
def test_each_ride_is_in_the_bins_that_the_format_names(rides: list[Ride]) -> None:
    """The numbers of rides are on both sides of the limit from which on numpy counts."""
    assert count(watched(), rides) == count_one_by_one(rides)


@settings(max_examples=200)
@given(st.lists(RIDES, min_size=1, max_size=60), st.sets(st.integers(1, 60)))
def test_the_counts_of_any_batches_add_up_to_those_of_all_rides(rides: list[Ride], cuts: set[int]) -> None:
    """A batch that the model cannot predict as a whole is halved, which makes no difference either."""
    model = watched()
    ends = sorted({0, len(rides), *(cut for cut in cuts if cut < len(rides))})
    parts = [count(model, rides[start:end]) for start, end in pairwise(ends)]
    whole = count(model, rides)
    assert reduce(add, parts) == whole
    assert whole - parts[0] == reduce(add, parts[1:], RideCounts(BINS.name))
    merged = Counter(BINS)
    for start, end in pairwise(ends):
        one = Counter(BINS)
        model.predict(rides[start:end], counter=one)
        merged.merge(one)
    assert msgspec.structs.replace(whole, rejected=0) == merged.total()
    assert msgspec.json.decode(msgspec.json.encode(whole), type=RideCounts) == whole


@pytest.mark.parametrize("zones", [40, 1_100], ids=["in a table", "too many for a table"])
def test_the_number_of_zones_makes_no_difference(zones: int) -> None:
    """Rides one by one are looked up by the names of their pairs. Zones have any numbers that a baseline can have."""
    draw = random.Random(zones)  # noqa: S311 - not for secrets
    numbers = draw.sample(range(-(10**12), 10**12), zones)
    pairs = {f"{start}_{draw.choice(numbers)}": draw.choice([0.0, 2.0]) for start in numbers for _ in range(3)}
    bins = Bins(msgspec.structs.replace(BASELINE, pairs=pairs, pickup_zones=[*numbers[:3], 7]), "0" * 64)
    known = [Ride(int(start), int(end), draw.uniform(0, 8)) for start, end in (pair.split("_") for pair in pairs)]
    others = [Ride(draw.choice([*numbers, 7, 8]), draw.choice([*numbers, 2**70]), 3.0) for _ in range(500)]
    rides = [*known, *others, Ride(numbers[0], numbers[1], 0.0)]
    values = [draw.uniform(0, 30) for _ in rides]
    cells = np.bincount(bins.find(rides, values, ()), minlength=bins.size)
    assert bins.count(rides, values, ()).tolist() == cells.tolist()


@pytest.mark.parametrize("pairs", [{"10_20_30": 1.0}, {"10": 1.0}, {"east_west": 1.0}, {"": 1.0}])
def test_a_pair_that_is_not_two_zones_is_an_error(pairs: dict[str, float]) -> None:
    """The error says what to do."""
    with pytest.raises(ModelError, match=r"a pair of the baseline is not two zones.*: train the model again"):
        Bins(msgspec.structs.replace(BASELINE, pairs=pairs), "0" * 64)


@pytest.mark.parametrize("number", [FEW, FEW + 1])
def test_a_model_without_the_time_counts_no_hours(number: int) -> None:
    """The other histograms have every ride of more than 0 miles."""
    rides = draw_rides(number)
    expected = count_one_by_one(rides)
    found = count(watched(("PU_DO", "trip_distance")), rides)
    assert found == msgspec.structs.replace(
        expected, counts={name: cells for name, cells in expected.counts.items() if name != HOUR}
    )


def test_hours_are_those_where_the_ride_takes_place() -> None:
    """A pickup with a UTC offset is in the same bin as in the training rides, which have local times."""
    utc = datetime(2023, 2, 1, 23, 30, tzinfo=UTC)
    model = Model(predict, "v", ModelMetadata(features=WITH_TIME), "America/New_York", BINS)
    assert count(model, [Ride(10, 10, 1.0, utc)]).counts[HOUR] == [0, 0, 0, 1]
    assert utc.astimezone(ZoneInfo("America/New_York")).hour == 18


def test_a_model_that_changes_its_features_is_predicted_all_the_same() -> None:
    """If the hours are gone, its rides cannot be counted, and then no histogram has them."""

    def spoil(features: list[Features]) -> list[float]:
        for one in features[1:]:
            del one["hour"]
        return [1.0] * len(features)

    counter, metadata = Counter(BINS), ModelMetadata(features=WITH_TIME)
    assert Model(spoil, "v", metadata, bins=BINS).predict(draw_rides(20), counter=counter) == [1.0] * 20
    assert counter.total() == RideCounts(BINS.name)


def test_counts_of_different_baselines_do_not_add_up() -> None:
    """The error names both. So it is if the counts that are subtracted are the larger ones."""
    first, other = count(watched(), draw_rides(9)), RideCounts("other", 3)
    for combine in (first.__add__, first.__sub__):
        with pytest.raises(ValueError, match=f"counted with two baselines, {BINS.name} and other"):
            combine(other)
    with pytest.raises(ValueError, match="the counters were reset in between"):
        first - (first + first)


def test_the_documented_counts_are_written_as_they_are_shown() -> None:
    """Each histogram has all rides. The two histograms of predictions have them together."""
    section = (ROOT / "docs" / "formats.md").read_text().partition("\n### The counts of rides\n")[2]
    example = section.partition("```json\n")[2].partition("\n```")[0].encode()
    shown = msgspec.json.decode(example, type=RideCounts)
    assert msgspec.json.encode(shown) == example
    rides = {name: sum(cells) for name, cells in shown.counts.items()}
    rides[PREDICTION] += rides.pop(UNSEEN)
    assert rides == dict.fromkeys((DISTANCE, RATIO, PREDICTION, PICKUP), shown.rides)
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) >= set(RideCounts.__struct_fields__)
