"""The plots of a model's errors, for the artifacts of its run.

Only training imports this module, because matplotlib takes a second to import.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from scripts import density
from scripts.density import drawable
from scripts.models.error_groups import LEAST_RIDES, ErrorGroup, group_by_distance, group_by_hour, group_by_zone
from scripts.models.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

STYLE: "dict[RcKeyType, Any]" = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "font.family": ["sans-serif"],
}
DOTS_AN_INCH, WIDTH, HEIGHT, TALL = 100, 8, 5.4, 7  # the last three in inches
BAR, DOT = "#56b4e9", "#000000"
"""Light and dark, so that nothing depends on telling colours apart."""
GRID = "#e6e6e6"
STEPS = (1, 2, 5, 10)
"""The distances between the marks of an axis, times a power of ten."""
BINS = 60
HIDDEN = 0.005
"""The share of the largest values that the density leaves out, because they would make everything else small."""
ZONES = 15
"""The number of zones in the plot, which are those with the most rides."""
HINT = "Dots near zero: no bias. Short bars: predictions to rely on."


@mpl.rc_context(STYLE)
def draw(evaluation: Evaluation) -> dict[str, Figure]:
    """Return the plots by their files' names. Save each as PNG in the folder of the model card, which shows them."""
    return {
        "predicted-and-actual.png": _draw_values(evaluation),
        "errors-by-hour.png": _draw_columns(evaluation, group_by_hour(evaluation), "hour of the pickup"),
        "errors-by-distance.png": _draw_columns(evaluation, group_by_distance(evaluation), "distance in miles"),
        "errors-by-zone.png": _draw_zones(evaluation),
    }


def _draw_values(evaluation: Evaluation) -> Figure:
    actual, predicted = evaluation.actual, drawable(evaluation.predicted)
    largest = max(np.quantile(actual, 1 - HIDDEN), np.quantile(predicted, 1 - HIDDEN))
    low = min(0.0, float(np.quantile(predicted, HIDDEN)))
    high = max(1.02 * float(largest), low + 1)
    counts, _, _ = np.histogram2d(actual, predicted, np.linspace(low, high, BINS + 1))
    figure = _begin(f"Predicted against actual {evaluation.target.name}", TALL)
    axes = figure.add_subplot()
    density.draw(axes, counts, low, high, evaluation.target.unit)
    outside = 1 - counts.sum() / len(actual)
    note = f"; {outside:.1%} of the rides are outside" if outside > 0 else ""
    axes.set_title(f"Rides on the line are predicted exactly, rides above it too high{note}", fontsize=10, pad=28)
    return figure


def _draw_columns(evaluation: Evaluation, groups: Sequence[ErrorGroup], name: str) -> Figure:
    """Draw the errors of groups from left to right, above their numbers of rides."""
    figure = _begin(f"Errors by {name}", HEIGHT)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    places = list(range(len(groups)))
    far_low, low, median, high, far_high = _quantiles(groups)
    axes.vlines(places, far_low, far_high, color=BAR, linewidth=1.5, label="9 in 10 rides")
    axes.vlines(places, low, high, color=BAR, linewidth=9, label="half of the rides")
    axes.plot(places, median, "o", color=DOT, markersize=5, label="median")
    axes.axhline(0, color=DOT, linewidth=0.8)
    axes.set(ylabel=f"predicted − actual, {evaluation.target.unit}", ylim=_limits(groups))
    axes.grid(axis="y", color=GRID)
    axes.yaxis.set_major_locator(MaxNLocator(10, steps=STEPS))
    _explain(figure, axes)
    below.bar(places, [group.rides for group in groups], color=BAR, width=0.7)
    below.set(xlabel=name, ylabel="rides")
    below.set_xticks(places, [group.name for group in groups])
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    below.grid(axis="y", color=GRID)
    return figure


def _draw_zones(evaluation: Evaluation) -> Figure:
    """Draw the errors of the zones with most rides from top to bottom: of the pickup, and of the dropoff beside it."""
    figure = _begin("Errors in the zones with most rides", TALL)
    ends = {"pickup zone": group_by_zone(evaluation, "PULocationID")}
    ends["dropoff zone"] = group_by_zone(evaluation, "DOLocationID")
    shown = {name: sorted(zones, key=lambda group: -group.rides)[:ZONES] for name, zones in ends.items()}
    limits = _limits([group for groups in shown.values() for group in groups])
    # With space between the numbers of rides on the left and the zones on the right.
    panels = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    for axes, (name, groups) in zip(panels, shown.items(), strict=True):
        places = list(range(len(groups)))
        far_low, low, median, high, far_high = _quantiles(groups)
        axes.hlines(places, far_low, far_high, color=BAR, linewidth=1.5, label="9 in 10 rides")
        axes.hlines(places, low, high, color=BAR, linewidth=9, label="half of the rides")
        axes.plot(median, places, "o", color=DOT, markersize=5, label="median")
        axes.axvline(0, color=DOT, linewidth=0.8)
        axes.set(xlabel=f"predicted − actual, {evaluation.target.unit}", xlim=limits)
        axes.set_yticks(places, [group.name for group in groups])
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_title("rides", loc="right", fontsize=10)
        axes.grid(axis="x", color=GRID)
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=STEPS))
        axes.invert_yaxis()
        right = axes.secondary_yaxis("right")
        right.set_yticks(places, [f"{group.rides:,}" for group in groups])
        right.spines["right"].set_visible(False)
        right.tick_params(length=0)
    _explain(figure, axes)
    return figure


def _begin(title: str, height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_AN_INCH, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    return figure


def _explain(figure: Figure, axes: Axes) -> None:
    """Put the legend of the axes below all axes of the figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, title=HINT)


def _quantiles(groups: Sequence[ErrorGroup]) -> Any:
    """Return a row for each of the quantiles, with a number for each group."""
    return drawable(np.asarray([group.quantiles for group in groups])).T


def _limits(groups: Sequence[ErrorGroup]) -> tuple[float, float]:
    """Return limits a little beyond zero and the errors of groups with enough rides, and at least a unit apart."""
    rides = np.asarray([group.rides for group in groups])
    known = np.nan_to_num(_quantiles(groups)[:, rides >= min(LEAST_RIDES, rides.max())])
    low, high = min(0.0, float(known.min())), max(0.0, float(known.max()))
    margin = max(1.0, high - low) / 20
    return low - margin, high + margin
