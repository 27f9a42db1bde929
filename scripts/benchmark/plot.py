"""The benchmark's results as a picture: the time of warm batches, and cold starts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.benchmark.consumers import COMMON, FLOOR, OURS
from scripts.benchmark.processes import WARM
from scripts.benchmark.results import MEMORY, WALL, Row

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

COLOURS = {COMMON: "#b3452c", OURS: "#1f6f8b", FLOOR: "#8a8a8a"}
STYLE: "dict[RcKeyType, Any]" = {"axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
PANEL_WIDTH, PANEL_HEIGHT, DOTS_AN_INCH = 5.4, 4.4, 110  # the first two in inches


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the results into a PNG file: a panel for each model's warm batches, and one for the cold starts.

    Raises OSError if the file cannot be written.
    """
    warm = [row for row in rows if row.case == WARM and row.measure == WALL]
    cold = [row for row in rows if row.case != WARM]
    models = list(dict.fromkeys(row.model for row in warm))
    panels = len(models) + bool(cold)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(panels * PANEL_WIDTH, PANEL_HEIGHT), dpi=DOTS_AN_INCH, layout="constrained")
        for place, model in enumerate(models, 1):
            _draw_warm([row for row in warm if row.model == model], figure.add_subplot(1, panels, place))
        if cold:
            _draw_cold(cold, figure.add_subplot(1, panels, panels))
        figure.savefig(path, format="png")


def _by_consumer(row: Row) -> dict[str, float | None]:
    return {COMMON: row.common, OURS: row.ours, FLOOR: row.floor}


def _draw_warm(rows: Sequence[Row], axes: Axes) -> None:
    for consumer, colour in COLOURS.items():
        times = [_by_consumer(row)[consumer] or math.nan for row in rows]
        axes.plot([row.rides for row in rows], times, "o-", color=colour, label=consumer)
    axes.set(title=f"Warm batches, {rows[0].model}", xscale="log", yscale="log")
    axes.set(xlabel="rides a batch", ylabel="ms a batch")
    axes.grid(which="major", color="#e6e6e6")
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.legend(frameon=False, fontsize=8)


def _draw_cold(rows: Sequence[Row], axes: Axes) -> None:
    figures = {(row.model, row.case, row.measure): _by_consumer(row) for row in rows}
    places = dict.fromkeys((consumer, row.case, row.model) for row in rows for consumer in COLOURS)
    for consumer, case, model in places:
        seconds = (figures[model, case, WALL][consumer] or 0.0) / 1000
        label = f"{consumer}, {case.removeprefix('cold, ')} ({model})"
        bar = axes.barh([label], [seconds], color=COLOURS[consumer])
        axes.bar_label(bar, [f"{seconds:.2f} s, {figures[model, case, MEMORY][consumer]:.0f} MB"], padding=3)
    axes.invert_yaxis()
    axes.set(title="Cold start", xlabel="seconds from exec to the first prediction")
    axes.margins(x=0.45)
    axes.tick_params(axis="y", labelsize=8)
