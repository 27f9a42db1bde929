"""Counts of rides in a baseline's bins as metrics for Prometheus, and the way back from such metrics to counts."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from baselines import PREDICTION, UNSEEN, Bins
from ride_counts import RideCounts

IN_BINS, COUNTED = "rides_in_bins", "rides_counted"
BASELINE, HISTOGRAM, BIN, PART = "baseline", "histogram", "bin", "part"
"""The labels. A baseline is named as in ``RideCounts.baseline``, and a bin by its index."""
PARTS = ("rides", "without_distance", "rejected")
"""The parts of the counted rides: fields of RideCounts."""


def write_counts(bins: Bins, cells: Sequence[float], rejected: float) -> Iterator[Metric]:
    """Yield the metrics for the cells of ``bins``, for prometheus_client. A bin without rides has a sample too."""
    rides = sum(sum(cells[bins.slices[name]]) for name in (PREDICTION, UNSEEN))
    counted = CounterMetricFamily(COUNTED, "Rides by how they are counted.", labels=(BASELINE, PART))
    for part, number in zip(PARTS, (rides, cells[-1], rejected), strict=True):
        counted.add_metric((bins.name, part), number)
    yield counted
    in_bins = CounterMetricFamily(IN_BINS, "Rides in the bins of the baseline.", labels=(BASELINE, HISTOGRAM, BIN))
    for name, place in bins.slices.items():
        for bin_, number in enumerate(cells[place]):
            in_bins.add_metric((bins.name, name, str(bin_)), number)
    yield in_bins


def counts_from_metrics(text: str) -> list[RideCounts]:
    """Return the counts in a text of metrics: one for each baseline, of all services in the text together.

    The difference of two such counts is what the service has counted in between. Raises ValueError if the text is not
    in Prometheus' format.
    """
    parts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    cells: defaultdict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    try:
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                if name == f"{COUNTED}_total":
                    parts[labels[BASELINE]][labels[PART]] += int(value)
                elif name == f"{IN_BINS}_total":
                    cells[labels[BASELINE]][labels[HISTOGRAM], int(labels[BIN])] += int(value)
    except (KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"these are not metrics as GET /metrics answers them: {error}") from error
    return [
        RideCounts(name, found["rides"], found["without_distance"], found["rejected"], _histograms(cells[name]))
        for name, found in parts.items()
    ]


def _histograms(cells: Counter[tuple[str, int]]) -> dict[str, list[int]]:
    sizes: Counter[str] = Counter()
    for name, bin_ in cells:
        sizes[name] = max(sizes[name], bin_ + 1)
    every = {name: [cells[name, bin_] for bin_ in range(size)] for name, size in sizes.items()}
    return {name: found for name, found in every.items() if any(found)}
