"""The plots of a report about drift, as SVG to put into a page of HTML. Their colours are the page's.

Only the report imports this module, because matplotlib takes a second to import.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from scripts.scoring.plots import FIRST, HEIGHT, INK, MARKS, SECOND, STYLE, WIDTH, as_svg, put_legend_above
from scripts.watching.panels import Panel

MAX_LABELS = 9
"""More edges than this do not fit under a plot."""
WINDOW = {name: value for name, value in MARKS.items() if name != "label"}


@mpl.rc_context(STYLE)
def draw_numbers(panel: Panel, unit: str) -> str:
    """Draw the shares of rides in the bins of a number; below, how much the shares below each edge differ."""
    figure = Figure(figsize=(WIDTH, HEIGHT + 1), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    ends = np.arange(len(panel.usual) + 1) - 0.5
    above.stairs(panel.usual, ends, label="training rides", color=FIRST, fill=True, alpha=0.45)
    above.stairs(panel.window, ends, label="this window", color=SECOND, linewidth=1.6)
    above.set(ylabel="rides", ylim=(0, None))
    places = ends[1:-1]
    below.fill_between(places, -panel.band, panel.band, color=FIRST, alpha=0.3, linewidth=0)
    below.axhline(0, color=INK, linewidth=0.8)
    below.plot(places, panel.differences, color=SECOND, linewidth=1.6, marker=".", markersize=4)
    steps = range(0, len(panel.edges), -(-len(panel.edges) // MAX_LABELS))
    below.set_xticks([places[step] for step in steps], [f"{panel.edges[step]:.4g}" for step in steps])
    below.set(xlabel=unit, ylabel="difference", xlim=(ends[0], ends[-1]))
    _finish(above, below)
    put_legend_above(above)
    return as_svg(figure, panel.test)


@mpl.rc_context(STYLE)
def draw_zones(panel: Panel, chosen: Sequence[int], labels: Sequence[str]) -> str:
    """Draw the shares of some of the zones, with the range around the usual share that is not drift."""
    figure = Figure(figsize=(WIDTH, 1.2 + 0.44 * len(chosen)), layout="constrained")
    axes = figure.add_subplot()
    places, indices = np.arange(len(chosen)), list(chosen)
    usual, band = panel.usual[indices], panel.band[indices]
    # In each zone, the share of all rides that the test compares is that of the bin.
    axes.barh(places, usual, color=FIRST, alpha=0.45, label="training rides")
    axes.errorbar(usual, places, xerr=[np.minimum(band, usual), band], fmt="none", ecolor=INK, capsize=3, linewidth=1)
    axes.plot(usual + panel.differences[indices], places, label="this window", **WINDOW)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="share of the rides", xlim=(0, None))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
    put_legend_above(axes)
    return as_svg(figure, panel.test)


def _finish(*axes: Axes) -> None:
    for one in axes:
        one.grid(color=INK, alpha=0.15, linewidth=0.6)
        one.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
