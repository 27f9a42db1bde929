"""The page about a window: one file of HTML with the verdict, the tests, and a plot of each histogram."""

import textwrap
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from baselines import DISTANCE, HOUR, PICKUP, PREDICTION, RATIO
from scripts.scoring.html import (
    make_document,
    make_figure,
    make_grid,
    make_paragraph,
    make_table,
    make_tiles,
    write_number,
)
from scripts.scoring.page import LABEL_WIDTH, zone_names
from scripts.watching import shown
from scripts.watching.judging import JudgedWindow
from scripts.watching.panels import Panel, make_panels
from scripts.watching.plots import draw_numbers, draw_zones

MAX_ZONES, MAX_ERRORS = 10, 20
"""The number of zones in the plot, and of tests of errors in the table: the ones that differ most."""
TITLES = {
    DISTANCE: "Distance",
    RATIO: "Distance / usual distance of the pair of zones",
    PREDICTION: "Prediction",
    HOUR: "Hour of the pickup",
    PICKUP: "Pickup zone",
}
NUMBERS_CAPTION = (
    "Above, the share of the rides in each bin. Below, how much the share of the rides below each edge differs from"
    " that of the training rides; the shaded range is not drift."
)
UNITS = {DISTANCE: "miles", RATIO: "usual distances", HOUR: "hour"}


def make_page(judged: JudgedWindow) -> str:
    """Return the page."""
    return make_document(judged.verdict.capitalize(), _parts(judged))


def _parts(judged: JudgedWindow) -> Iterator[str]:
    yield make_paragraph(shown.explain_verdict(judged))
    if judged.sentences:
        yield _list(list(map(_begin_sentence, judged.sentences)))
    yield _tiles(judged)
    source, model, *notes = shown.describe_window(judged)
    yield make_paragraph(_begin_sentence(source))
    yield make_paragraph(_begin_sentence(model))
    yield _list([_begin_sentence(note.removeprefix("- ")) for note in notes])
    if judged.findings:
        yield from _tests(judged)
    yield "<h2>Errors</h2>"
    yield from (make_paragraph(line.removeprefix("- ")) for line in shown.describe_errors(judged))
    if judged.errors:
        yield from _errors(judged)


def _tiles(judged: JudgedWindow) -> str:
    counts, unit = judged.window.counts, judged.model.baseline.unit
    check = judged.check
    # Beside the measured errors, the estimate is that of the same rides.
    estimate = check.estimate if check else judged.estimate
    tiles = {
        "Predicted rides": f"{counts.rides + counts.without_distance:,}",
        "Rejected": f"{counts.rejected:,}",
        f"Estimated MAE, {unit}": write_number(estimate.mae if estimate else None, 3),
        f"Measured MAE, {unit}": write_number(check.measured.mae if check else None, 3),
    }
    return make_tiles(tiles)


def _tests(judged: JudgedWindow) -> Iterator[str]:
    yield "<h2>Tests</h2>"
    yield make_paragraph(
        "The last column is the deviation of the share divided by its limit: above 1, it is drift. The limits come from"
        " the training rides' own windows."
    )
    rows = [[f"{name}, {place}" if place else name, *numbers] for name, place, *numbers in shown.rows_of_tests(judged)]
    yield make_table("Tests", ["Test", "Share", "Usual share", "Part of its limit"], rows)
    yield "<h2>Histograms</h2>"
    figures = []
    panels = make_panels(judged.model.baseline, judged.window.counts, judged.findings)
    # The plot of the zones is tall, so it is the last.
    for panel in sorted(panels, key=lambda one: one.test == PICKUP):
        if panel.test == PICKUP:
            figures.append(_zones_figure(panel))
        else:
            svg = draw_numbers(panel, UNITS.get(panel.test, judged.model.baseline.unit))
            figures.append(make_figure(TITLES[panel.test], NUMBERS_CAPTION, svg))
    yield make_grid(figures)


def _zones_figure(panel: Panel) -> str:
    order = np.argsort(-panel.excesses, kind="stable")[:MAX_ZONES].tolist()
    labels = [textwrap.fill(_name_zone(int(panel.edges[place])), LABEL_WIDTH) for place in order]
    caption = (
        f"The {len(order)} zones that differ most, of {len(panel.edges)} with enough training rides. The line around"
        " the end of a bar is the range that is not drift."
    )
    return make_figure(TITLES[PICKUP], caption, draw_zones(panel, order, labels))


def _errors(judged: JudgedWindow) -> Iterator[str]:
    unit = judged.model.baseline.unit
    yield make_paragraph(
        f"The mean of actual minus predicted, in {unit}, over all rides and by zone. A zone is compared with the other"
        f" zones of the window. The table has the {min(len(judged.errors), MAX_ERRORS)} tests that differ most, of"
        f" {len(judged.errors)}."
    )
    names = [
        one.name.replace("_", " ") + (f", {_name_zone(one.zone)}" if one.zone is not None else "")
        for one in judged.errors
    ]
    rows = [[name, *numbers] for name, (_, *numbers) in zip(names, shown.rows_of_errors(judged), strict=True)]
    heads = ["Rides", "Number", "Mean error", "Mean prediction", "Part of its limit"]
    yield make_table("Errors", heads, rows[:MAX_ERRORS])


def _name_zone(zone: int) -> str:
    names = zone_names()
    return names[zone] if 0 < zone < len(names) else f"zone {zone}"


def _begin_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _list(texts: Sequence[str]) -> str:
    items = "\n".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>\n{items}\n</ul>" if texts else ""
