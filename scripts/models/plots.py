"""The plots of a model's errors, for the artifacts of its run.

Only training imports this module, because matplotlib takes a second to import.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from scripts import density
from scripts.density import drawable
from scripts.models.error_groups import ErrorGroup, group_by_distance, group_by_hour, group_by_zone
from scripts.models.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

STYLE: "dict[RcKeyType, Any]" = {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
SIZE, DOTS_AN_INCH = (8, 5), 100
BINS = 60
SHOWN = 0.995
"""The share of the values that the density shows: a few outliers would make everything else small."""
BAR, DOT = "#0072b2", "#000000"


@mpl.rc_context(STYLE)
def draw(evaluation: Evaluation) -> dict[str, Figure]:
    """Return the plots by their files' names. Save each as PNG in the folder of the model card, which shows them."""
    unit = evaluation.target.unit
    return {
        "predicted-and-actual.png": _draw_values(evaluation),
        "errors-by-hour.png": _draw_groups(group_by_hour(evaluation), "hour of the pickup", unit),
        "errors-by-distance.png": _draw_groups(group_by_distance(evaluation), "miles", unit),
        "errors-by-zone.png": _draw_groups(group_by_zone(evaluation, "PULocationID")[:20], "zone", unit),
    }


def _draw_values(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=SIZE, dpi=DOTS_AN_INCH, layout="constrained")
    both = np.concatenate([evaluation.actual, evaluation.predicted])
    low, high = np.quantile(drawable(both), [1 - SHOWN, SHOWN])
    edges = np.linspace(low, max(high, low + 1), BINS + 1)
    counts, _, _ = np.histogram2d(evaluation.actual, evaluation.predicted, edges)
    density.draw(figure.add_subplot(), counts, edges[0], edges[-1], evaluation.target.unit)
    return figure


def _draw_groups(groups: Sequence[ErrorGroup], name: str, unit: str) -> Figure:
    figure = Figure(figsize=SIZE, dpi=DOTS_AN_INCH, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(groups))
    far_low, low, median, high, far_high = drawable(np.asarray([group.quantiles for group in groups])).T
    axes.vlines(places, far_low, far_high, color=BAR, linewidth=1)
    axes.vlines(places, low, high, color=BAR, linewidth=6)
    axes.plot(places, median, "o", color=DOT)
    axes.axhline(0, color=DOT, linewidth=0.8)
    axes.set_xticks(places, [group.name for group in groups])
    axes.set(xlabel=name, ylabel=f"predicted − actual {unit}")
    return figure
