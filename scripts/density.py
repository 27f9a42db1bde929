"""A plot of how many rides have which actual and predicted value, for the report of a month and for a model's training.

Only modules that draw import this one, because matplotlib takes a second to import.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

SCALE = LinearSegmentedColormap.from_list("rides", ["#b7d3e8", "#5b9fc9", "#1f6193", "#08264a"])
"""One hue from light to dark, so that it does not depend on telling colours apart."""
PAPER = "#f7f7f5"
"""The ground of the rides' density, light on a dark page too, so that dark always means many."""
EQUAL = "#d55e00"
"""The line where both values are the same."""
LARGEST = 1e6
"""Matplotlib cannot draw much larger numbers, and a model may predict any number."""


def draw(axes: Axes, counts: NDArray[Any], low: float, high: float, unit: str) -> None:
    """Draw the density, with a line where both values are the same, and a bar that explains the colours.

    Args:
        axes: where to draw.
        counts: the number of rides by actual and predicted value, in equal steps.
        low: the lowest value of both.
        high: the highest.
        unit: of both values.
    """
    axes.set_facecolor(PAPER)
    shown = np.ma.masked_equal(counts.T, 0)
    norm = LogNorm(1, max(10, int(counts.max(initial=0))))
    image = axes.imshow(shown, SCALE, norm, interpolation="nearest", origin="lower", extent=(low, high, low, high))
    axes.plot([low, high], [low, high], color=EQUAL, linewidth=1.2, label="predicted = actual")
    axes.set(xlabel=f"actual {unit}", ylabel=f"predicted {unit}", xlim=(low, high), ylim=(low, high))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    bar = axes.figure.colorbar(image, ax=axes, label="rides", shrink=0.85, format=StrMethodFormatter("{x:,.0f}"))
    bar.minorticks_off()


def drawable(values: NDArray[Any]) -> NDArray[Any]:
    """Return values within numbers that matplotlib can draw."""
    clipped: NDArray[Any] = np.clip(values, -LARGEST, LARGEST)
    return clipped
