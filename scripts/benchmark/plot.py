"""What the benchmark found, as a picture."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from scripts.benchmark.consumers import COMMON, FLOOR, OURS
from scripts.benchmark.results import GrowthRow, Report
from scripts.benchmark.steps import SHARES

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

CONSUMER_COLOURS = {COMMON: "#b3452c", OURS: "#1f6f8b", FLOOR: "#8a8a8a"}
MODEL_COLOURS = ("#1f6f8b", "#e0a030")
STEP_COLOURS = ("#1f6f8b", "#e0a030", "#7fb069", "#b3452c", "#c8c8c8")
STYLE: "dict[RcKeyType, Any]" = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
}

PANELS_A_ROW = 3
PANEL_INCHES, DOTS_AN_INCH = (5.4, 4.4), 110

Panel = Callable[[Axes], None]


def draw(report: Report, path: Path) -> None:
    """Draw what was measured into a PNG file, a panel for each subject.

    Raises:
        OSError: where the file cannot be written.
    """
    panels = list(_panels(report))
    columns, rows = min(len(panels), PANELS_A_ROW), ceil(len(panels) / PANELS_A_ROW)
    size = (columns * PANEL_INCHES[0], rows * PANEL_INCHES[1])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=DOTS_AN_INCH, layout="constrained")
        for place, panel in enumerate(panels, 1):
            panel(figure.add_subplot(rows, columns, place))
        figure.savefig(path, format="png")


def _panels(report: Report) -> Iterator[Panel]:
    for model in dict.fromkeys(row.model for row in report.warm):
        yield partial(_warm, report, model)
    if report.cold:
        yield partial(_cold, report)
    if report.growth_by_batch:
        yield partial(_growth_by_batch, report.growth_by_batch)
        yield partial(_growth_by_trees, report.growth_by_trees)
    if report.steps:
        yield partial(_steps, report)


def _warm(report: Report, model: str, axes: Axes) -> None:
    for consumer, colour in CONSUMER_COLOURS.items():
        rows = [row for row in report.warm if (row.model, row.consumer) == (model, consumer)]
        sizes = [row.rides for row in rows]
        axes.plot(sizes, [row.wall_ms for row in rows], "o-", color=colour, label=f"{consumer}, wall")
        axes.plot(sizes, [row.cpu_ms for row in rows], ":", color=colour, label=f"{consumer}, CPU")
    _log_log(axes, f"Warm batches, {model}", "rides a batch", "ms a batch")
    axes.legend(frameon=False, fontsize=8)


def _cold(report: Report, axes: Axes) -> None:
    labels = [f"{row.start} ({row.model})" for row in report.cold]
    colours = [CONSUMER_COLOURS[_consumer(row.start)] for row in report.cold]
    bars = axes.barh(labels, [row.seconds for row in report.cold], color=colours)
    axes.bar_label(bars, [f"{row.seconds:.2f} s, {row.peak_memory_mb:.0f} MB" for row in report.cold], padding=3)
    axes.invert_yaxis()
    axes.set(title="Cold start", xlabel="seconds from exec to the first prediction")
    axes.margins(x=0.45)
    axes.tick_params(axis="y", labelsize=8)


def _consumer(start: str) -> str:
    return next(consumer for consumer in CONSUMER_COLOURS if start.startswith(consumer))


def _growth_by_batch(rows: Sequence[GrowthRow], axes: Axes) -> None:
    for model, colour in zip(dict.fromkeys(row.model for row in rows), MODEL_COLOURS, strict=False):
        of_model = [row for row in rows if row.model == model]
        sizes = [row.rides for row in of_model]
        axes.plot(sizes, [row.wall_us_a_ride for row in of_model], "o-", color=colour, label=f"{model}, wall")
        axes.plot(sizes, [row.cpu_us_a_ride for row in of_model], ":", color=colour, label=f"{model}, CPU")
    _log_log(axes, "Ours, by the size of the batch", "rides a batch", "µs a ride")
    axes.legend(frameon=False, fontsize=8)


def _growth_by_trees(rows: Sequence[GrowthRow], axes: Axes) -> None:
    trees = [row.trees or 0 for row in rows]
    axes.plot(trees, [row.wall_us_a_ride for row in rows], "o-", color=MODEL_COLOURS[1], label="forest, wall")
    axes.plot(trees, [row.cpu_us_a_ride for row in rows], ":", color=MODEL_COLOURS[1], label="forest, CPU")
    _log_log(axes, f"Ours, by the size of the forest, batches of {rows[0].rides:,}", "trees", "µs a ride")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # they may all lie within one decade
    axes.set_xticks(trees, [str(number) for number in trees])
    axes.legend(frameon=False, fontsize=8)


def _steps(report: Report, axes: Axes) -> None:
    labels = [f"{row.model}, {row.rides:,}" for row in report.steps]
    left = [0.0] * len(labels)
    for step, colour in zip(SHARES, STEP_COLOURS, strict=True):
        widths = [100 * row.shares[step] for row in report.steps]
        axes.barh(labels, widths, left=left, color=colour, label=step)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(title="Ours, where a batch's time goes", xlabel="% of the wall time", xlim=(0, 100))
    axes.legend(frameon=False, fontsize=8, ncols=len(SHARES), loc="lower center", bbox_to_anchor=(0.5, -0.28))


def _log_log(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.grid(which="major", color="#e6e6e6")
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
