"""The benchmark's results as a picture: the time of warm batches, and cold starts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.benchmark.consumers import COMMON, EMPTY, FLOOR, OURS, OURS_SKLEARN
from scripts.benchmark.processes import DELAYED, LATENCY, WARM
from scripts.benchmark.results import WALL, ColdRow, WarmRow

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

COLOURS = {COMMON: "#b3452c", OURS_SKLEARN: "#7fb2c4", OURS: "#1f6f8b", FLOOR: "#8a8a8a", EMPTY: "#c4c4c4"}
LINES = {WARM: "o-", DELAYED: "o--"}
STYLE: "dict[RcKeyType, Any]" = {"axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
PANEL_WIDTH, PANEL_HEIGHT, DOTS_AN_INCH = 5.4, 4.4, 110  # the first two in inches


def draw(warm: Sequence[WarmRow], cold: Sequence[ColdRow], path: Path) -> None:
    """Draw the results into a PNG file: a panel for each model's warm batches, and one for the cold starts.

    Raises OSError if the file cannot be written.
    """
    models = list(dict.fromkeys(row.model for row in warm))
    panels = len(models) + bool(cold)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(panels * PANEL_WIDTH, PANEL_HEIGHT), dpi=DOTS_AN_INCH, layout="constrained")
        for place, model in enumerate(models, 1):
            of_model = [row for row in warm if (row.model, row.measure) == (model, WALL)]
            _draw_warm(of_model, figure.add_subplot(1, panels, place))
        if cold:
            _draw_cold(cold, figure.add_subplot(1, panels, panels))
        figure.savefig(path, format="png")


def _draw_warm(rows: Sequence[WarmRow], axes: Axes) -> None:
    for case, line in LINES.items():
        found = [row for row in rows if row.case == case]
        rides = [row.rides for row in found]
        times = {COMMON: [row.common for row in found], OURS_SKLEARN: [row.sklearn for row in found]}
        times |= {OURS: [row.ours for row in found], FLOOR: [row.floor for row in found]}
        for consumer, of_consumer in times.items():
            heights = [time or math.nan for time in of_consumer]
            label = consumer if case == WARM else None
            axes.plot(rides, heights, line, color=COLOURS[consumer], label=label, markersize=4)
    axes.set(title=f"Warm batches, {rows[0].model}", xscale="log", yscale="log")
    axes.set(xlabel=f"rides a batch (dashed: {LATENCY * 1000:g} ms a request)", ylabel="ms a batch")
    axes.grid(which="major", color="#e6e6e6")
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.legend(frameon=False, fontsize=8)


def _draw_cold(rows: Sequence[ColdRow], axes: Axes) -> None:
    for row in rows:
        label = f"{row.consumer}, {row.form} ({row.model})"
        seconds = row.wall / 1000
        bar = axes.barh([label], [seconds], color=COLOURS[row.consumer])
        axes.bar_label(bar, [f"{seconds:.2f} s, {row.peak_memory:.0f} MB"], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(title="Cold start", xlabel="seconds from exec to the first prediction")
    axes.margins(x=0.45)
    axes.tick_params(axis="y", labelsize=8)
