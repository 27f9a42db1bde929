"""The plots of a report, as SVG to put into a page of HTML.

Their colours are the page's: ``currentColor`` for text and lines, and its variables ``--first`` and ``--second``. So
the same plot is readable on a light and on a dark page. Only the report imports this module, because matplotlib takes a
second to import.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from scripts import density
from scripts.density import drawable
from scripts.scoring.sums import STEPS, GroupErrors, Numbers, ValueSums

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, FIRST, SECOND = "#010203", "#010204", "#010205"
"""Stand for the page's colours until the plot is drawn, because matplotlib knows no CSS."""
CSS = {INK: "currentColor", FIRST: "var(--first)", SECOND: "var(--second)"}
WIDTH, HEIGHT, TALL = 4.2, 2.9, 3.6
"""Inches. A phone shows the plot in about this size, and text of 9 points can be read there."""
STYLE: "dict[RcKeyType, Any]" = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "font.size": 9,
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "axes.axisbelow": True,
    "legend.frameon": False,
    # A model's unit may be dollars, as $.
    "text.parse_math": False,
    "legend.fontsize": 9,
}
MARKS: dict[str, Any] = {
    "label": "mean error",
    "linestyle": "none",
    "marker": "D",
    "markersize": 4.5,
    "color": SECOND,
    "markeredgecolor": INK,
}


@mpl.rc_context(STYLE)
def draw_values(sums: ValueSums) -> str:
    """Draw how many rides have which actual and which predicted value; without usual rides only the latter."""
    usual = {"actual": (sums.usual.sum(axis=1), FIRST), "predicted": (sums.usual.sum(axis=0), SECOND)}
    lines = usual if sums.usual.any() else {"predicted": (sums.predicted, SECOND)}
    figure, axes = begin(TALL)
    edges = np.linspace(0, sums.top, STEPS + 1)
    for name, (counts, colour) in lines.items():
        axes.stairs(counts[1:-1], edges, label=name, color=colour, linewidth=1.6, fill=name == "actual", alpha=0.9)
    axes.set(xlabel=sums.unit, ylabel="rides", xlim=(0, sums.top))
    axes.set_ylim(0, max(1, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    put_legend_above(axes)
    return as_svg(figure, f"{sums.target}s")


@mpl.rc_context(STYLE)
def draw_density(sums: ValueSums) -> str:
    """Draw how many usual rides have which actual and predicted value, with a line where both are the same."""
    figure, axes = begin(TALL)
    density.draw(axes, sums.usual[1:-1, 1:-1], 0, sums.top, sums.unit)
    return as_svg(figure, "density")


@mpl.rc_context(STYLE)
def draw_errors(groups: GroupErrors, labels: Mapping[float, str], name: str, unit: str) -> str:
    """Draw upright bars of the RMSE, and marks of the mean error.

    Args:
        groups: the errors by group.
        labels: texts under the bars, by their places: 0 is the middle of the first bar, 0.5 its right end.
        name: says what the groups are.
        unit: of the errors.
    """
    figure, axes = begin()
    places = range(len(groups.rides))
    rmse, errors = drawable(groups.rmse), drawable(groups.errors)
    axes.bar(places, rmse, color=FIRST, label="RMSE")
    axes.plot(places, errors, **MARKS)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(list(labels), list(labels.values()))
    axes.set(xlabel=name, ylabel=unit, ylim=_limits(rmse, errors))
    put_legend_above(axes)
    return as_svg(figure, name)


@mpl.rc_context(STYLE)
def draw_zones(groups: GroupErrors, zones: Sequence[int], labels: Sequence[str], unit: str) -> str:
    """Draw bars from left to right for some of the groups, with space for long labels."""
    figure, axes = begin(1.2 + 0.44 * len(zones))
    chosen, places = list(zones), range(len(zones))
    rmse, errors = drawable(groups.rmse[chosen]), drawable(groups.errors[chosen])
    bars = axes.barh(places, rmse, color=FIRST, label="RMSE")
    axes.bar_label(bars, [f"{rides:,}" for rides in groups.rides[chosen]], padding=3, fontsize=8)
    axes.plot(errors, places, **MARKS)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    # The line at zero is enough, and nothing crosses the numbers of rides.
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    low, high = _limits(rmse, errors)
    axes.set(xlabel=unit, xlim=(low, high * 1.2))  # with space for the number of rides
    put_legend_above(axes)
    return as_svg(figure, "zones")


def begin(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return an empty plot."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    return figure, axes


def _limits(*values: Numbers) -> tuple[float, float]:
    """Return limits a little beyond all values and zero, and at least 1 apart."""
    known = np.nan_to_num(np.concatenate(values))
    high = max(1.0, 1.1 * float(known.max()))
    return min(0.0, 1.1 * float(known.min())) - high / 20, high


def put_legend_above(axes: Axes) -> None:
    """Put the legend where it hides nothing."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, reverse=True)


def as_svg(figure: Figure, name: str) -> str:
    """Return the figure's SVG for a page: without the header of a file, and with the page's colours."""
    content = io.StringIO()
    # A salt, because otherwise the ids in the file would be different each time.
    with mpl.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", metadata=nothing)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    # Namespaces look like links, and HTML needs none. Several plots of a page would have the same ids of groups.
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| id="[a-z]+[0-9a-z_]*_[0-9]+"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for stand_in, colour in CSS.items():
        svg = svg.replace(stand_in, colour)
    return svg
