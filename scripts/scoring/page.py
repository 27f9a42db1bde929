"""The page of a report: one file of HTML that needs no other file, no script and no network."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from batch.manifests import Manifest, ModelIdentity
from rides import MAX_TRIP_DISTANCE
from scripts.environment import ROOT
from scripts.scoring.html import (
    make_document,
    make_figure,
    make_grid,
    make_paragraph,
    make_table,
    make_tiles,
    write_number,
)
from scripts.scoring.plots import draw_density, draw_errors, draw_values, draw_zones
from scripts.scoring.sums import MILES, ZONES, ValueSums
from targets import DURATION

MIN_RIDES = 30
"""Of a pair of zones in the table: with fewer rides, one odd ride would decide its place."""
MAX_PAIRS, MAX_ZONES = 20, 12
"""The pairs in the table, and the pickup zones in the plot."""
LABEL_WIDTH = 25
"""Characters of a line of a zone's label in the plot."""
ZONE_NAMES = ROOT / "web" / "static" / "zones.json"
OTHER_ZONES = {0: "Numbers that are no zones", 264: "Unknown", 265: "Outside New York City"}
"""What TLC's zone 264 and 265 stand for (its taxi_zone_lookup.csv), and index 0 of the sums."""
MONTH_NAMES = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def make_page(manifests: Sequence[Manifest], left_out: Sequence[str], sums: ValueSums) -> str:
    """Return the page about months of one colour.

    Args:
        manifests: the manifests of the months, at least one, in order of time.
        left_out: the months that the user asked for and that are not scored, such as "2023-02".
        sums: the sums over the months' predictions.
    """
    title = f"{manifests[0].colour.capitalize()} taxis, {_period(manifests)}"
    models = dict.fromkeys((manifest.model.name, manifest.model.version) for manifest in manifests)
    parts = [
        *(make_paragraph(f"Ride {sums.target}s predicted by {name}, version {version}") for name, version in models),
        *([make_paragraph(f"Not scored, and not in this report: {', '.join(left_out)}")] if left_out else []),
        _tiles(manifests, sums),
        *_explain_errors(manifests[0].model),
        *_plots(sums),
        *_pairs(sums),
        *_months(manifests),
        *_reasons(manifests),
    ]
    return make_document(title, parts)


def _period(manifests: Sequence[Manifest]) -> str:
    names = [f"{MONTH_NAMES[manifest.month - 1]} {manifest.year}" for manifest in manifests]
    return " to ".join(dict.fromkeys((names[0], names[-1])))


def _explain_errors(model: ModelIdentity) -> Iterable[str]:
    if target := model.known_target:
        payment = ", paid by card" if target.by_card else ""
        yield make_paragraph(
            f"Errors are of usual rides, which models are trained on: {target.least:g} to {target.most:g}"
            f" {target.unit}{payment}, and more than 0 and at most {MAX_TRIP_DISTANCE:g} miles. An error is the actual"
            f" {target.name} minus the predicted one, in {target.unit}: above 0, {_name_excess(target.name)}."
        )


def _name_excess(target: str) -> str:
    """Return what it means that the actual value is larger than the predicted one."""
    is_duration = target == DURATION.name
    return "the ride took longer than predicted" if is_duration else f"the {target} is above the predicted one"


def _tiles(manifests: Sequence[Manifest], sums: ValueSums) -> str:
    counts = [manifest.counts for manifest in manifests]
    measured = int(sums.all.rides[0])
    tiles = {
        "Rows": f"{sum(count.rows for count in counts):,}",
        "Predicted": f"{sum(count.predicted for count in counts):,}",
        "Left out": f"{sum(count.rejected for count in counts):,}",
        "Usual rides": f"{measured:,}",
        f"RMSE, {sums.unit}": write_number(float(sums.all.rmse[0]), 3),
        f"MAE, {sums.unit}": write_number(sums.mae if measured else None, 3),
        f"Mean error, {sums.unit}": write_number(float(sums.all.errors[0]), 3),
    }
    return make_tiles(tiles)


def _plots(sums: ValueSums) -> Iterable[str]:
    yield f"<h2>{escape(f'{sums.target}s'.capitalize())}</h2>"
    if not sums.predicted.any():
        yield make_paragraph("No ride was predicted.")
        return
    shown, steps = f"0 to {sums.top:g} {sums.unit}", f"in steps of {sums.step:g} {sums.unit}"
    if sums.target == DURATION.name:
        steps = "by the minute"
    if not sums.all.rides[0]:
        beyond = f"Predictions outside {shown}: {_outside(sums.predicted):,}."
        figure = make_figure("Distribution", f"All predicted rides. {beyond}", draw_values(sums))
        yield make_grid([figure])
        yield make_paragraph(f"The errors are not known, because no usual ride has an actual {sums.target}.")
        return
    beyond = f"Predictions outside {shown}: {_outside(sums.usual.sum(axis=0)):,}."
    if above := _outside(sums.usual.sum(axis=1)):
        beyond += f" Actual values above: {above:,}."
    same = f"On the line, the prediction is right; below it, {_name_excess(sums.target)}."
    yield make_grid(
        [
            make_figure("Distribution", f"Usual rides {steps}. {beyond}", draw_values(sums)),
            make_figure(
                "Actual against predicted", f"Usual rides by the {sums.unit} of both. {same}", draw_density(sums)
            ),
        ]
    )
    yield "<h2>Errors</h2>"
    rides, names = sums.pickups.rides, zone_names()
    largest = [zone for zone in np.argsort(-rides, kind="stable").tolist() if rides[zone]][:MAX_ZONES]
    labels = [textwrap.fill(names[zone], LABEL_WIDTH) for zone in largest]
    hours = {float(hour): str(hour) for hour in range(0, len(sums.hours.rides), 2)}
    ends = {place - 0.5: f"{miles:g}" for place, miles in enumerate((*MILES, MAX_TRIP_DISTANCE))}
    by_hour = draw_errors(sums.hours, hours, "hour of the pickup", sums.unit)
    by_distance = draw_errors(sums.distances, ends, "miles", sums.unit)
    of_zones = f"The zones with the most usual rides, {len(largest)} of {np.count_nonzero(rides)}, and their rides."
    yield make_grid(
        [
            make_figure("By hour", "A bar for each hour of the day, as clocks at the pickup show it.", by_hour),
            make_figure("By distance", "A bar for the rides between two distances.", by_distance),
            make_figure("By pickup zone", of_zones, draw_zones(sums.pickups, largest, labels, sums.unit)),
        ],
        third_is_tall=True,
    )


def _outside(counts: np.typing.NDArray[np.int64]) -> int:
    return int(counts[0] + counts[-1])


def _pairs(sums: ValueSums) -> Iterable[str]:
    """Yield the table of the pairs of zones with the largest RMSE."""
    pairs, names = sums.pairs, zone_names()
    if not pairs.rides.any():
        return
    known = np.flatnonzero(pairs.rides >= MIN_RIDES)
    worst = known[np.argsort(-pairs.rmse[known], kind="stable")][:MAX_PAIRS]
    yield "<h2>Pairs of zones with the largest errors</h2>"
    if not len(worst):
        yield make_paragraph(f"No pair of zones has {MIN_RIDES} usual rides.")
        return
    yield make_paragraph(f"By RMSE, in {sums.unit}. Pairs with at least {MIN_RIDES} usual rides: {len(known):,}.")
    actual, errors, rmse = pairs.actual, pairs.errors, pairs.rmse
    rows = [
        [
            f"{names[pair // ZONES]} to {names[pair % ZONES]}",
            f"{pairs.rides[pair]:,}",
            *(write_number(float(value), 1) for value in (actual[pair], actual[pair] - errors[pair], errors[pair])),
            write_number(float(rmse[pair]), 1),
        ]
        for pair in worst
    ]
    yield make_table("Pairs of zones", ["Pair", "Rides", "Mean actual", "Mean predicted", "Mean error", "RMSE"], rows)


def _months(manifests: Sequence[Manifest]) -> Iterable[str]:
    yield "<h2>Months</h2>"
    several = len({manifest.model for manifest in manifests}) > 1
    rows = [
        [
            f"{manifest.year:04}-{manifest.month:02}, {manifest.input.location}"
            + (f", by {manifest.model.name} ({manifest.model.sha256[:12]})" if several else ""),
            *(f"{count:,}" for count in (counts.rows, counts.predicted, counts.rejected, counts.measured)),
            write_number(counts.rmse, 3),
            write_number(counts.mae, 3),
        ]
        for manifest in manifests
        for counts in [manifest.counts]
    ]
    yield make_table("Months", ["Month and input", "Rows", "Predicted", "Left out", "Usual rides", "RMSE", "MAE"], rows)


def _reasons(manifests: Sequence[Manifest]) -> Iterable[str]:
    yield "<h2>Rows left out</h2>"
    reasons: Counter[str] = Counter()
    for manifest in manifests:
        reasons.update(manifest.counts.reasons)
    if reasons:
        yield make_table("Rows left out", ["Reason", "Rows"], [[name, f"{n:,}"] for name, n in reasons.most_common()])
    else:
        yield make_paragraph("Every row was predicted.")


def zone_names() -> list[str]:
    """Return the name of each zone by its number in the sums, with the number, because some zones share a name."""
    known = {zone: name for zone, _, name in json.loads(ZONE_NAMES.read_text())}
    names = known | OTHER_ZONES
    return [f"{names[zone]} ({zone})" if zone else names[zone] for zone in range(ZONES)]
