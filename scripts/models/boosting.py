"""The boosted model: gradient boosting on what the zones and their pair usually mean for a ride, its distance and time.

Each zone and each pair of zones becomes three numbers: the mean of the target, of the target per mile, and of the
miles. The means are shrunk towards the mean of all rides, so that a rare pair says little.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import TargetEncoder

from features import DEFAULT_FEATURES, TIMES, ZONES
from served.arrays import Floats

CATEGORIES = ("PU_DO", *ZONES)
WITHOUT_TIME = (*DEFAULT_FEATURES, *ZONES)
WITH_TIME = (*WITHOUT_TIME, *TIMES)
"""The features that the model wants."""
SMOOTHING = 20.0
"""A mean counts as much as that of all rides if it comes from this number of rides."""
LARGEST_RATE = 0.99
"""The share of rides whose target per mile is taken as it is. The rest, which hardly moved, counts as this quantile."""
PARTS = 5
"""The encoding of each part of the rides comes from the other parts."""
ROWS_AT_ONCE = 100_000
"""The features of a ride take several times as much memory in a dictionary as in a DataFrame."""


def fit_boosted(features: Iterable[Any], values: Sequence[float] | Floats, names: Sequence[str], seed: int) -> Any:
    """Return a pipeline of encoders and boosted trees, fitted to a DataFrame of these features.

    Args:
        features: the features of each ride, as ``prepare_features`` makes them.
        values: the target of each ride.
        names: the features that the model wants: ``WITHOUT_TIME`` or ``WITH_TIME``.
        seed: decides in which parts the rides are encoded, and how the trees are drawn.
    """
    frame = pd.concat(_frames(features, names), ignore_index=True)
    target = np.asarray(values, np.float64)
    transformer, matrix = _encode(frame, target, seed)
    trees = HistGradientBoostingRegressor(
        max_iter=400,
        max_leaf_nodes=63,
        min_samples_leaf=40,
        # Each split looks at half of the columns, which tell much the same. This makes the trees differ more.
        max_features=0.5,
        learning_rate=0.05,
        early_stopping=False,
        random_state=seed,
    )
    return Pipeline([("encode", transformer), ("trees", trees.fit(matrix, target))])


def _frames(features: Iterable[Any], names: Sequence[str]) -> Iterator[Any]:
    rows = iter(features)
    while part := list(itertools.islice(rows, ROWS_AT_ONCE)):
        yield pd.DataFrame(part, columns=list(names))


def _encode(frame: Any, target: Floats, seed: int) -> tuple[ColumnTransformer, Floats]:
    """Return the fitted encoders, and the matrix to fit trees to.

    In this matrix, the means of each ride come from other rides: otherwise the trees would trust the mean of a rare
    pair, which has the ride's own target in it.
    """
    miles = frame["trip_distance"].to_numpy()
    rate = target / miles
    targets = {"value": target, "rate": rate.clip(max=np.quantile(rate, LARGEST_RATE)), "miles": miles}
    folds = KFold(PARTS, shuffle=True, random_state=seed)
    encoder = TargetEncoder(smooth=SMOOTHING, target_type="continuous", cv=folds)
    numbers = [name for name in frame.columns if name not in CATEGORIES]
    steps = [*((name, encoder, list(CATEGORIES)) for name in targets), ("numbers", "passthrough", numbers)]
    # A ColumnTransformer gives all encoders the same target, so each encoder is fitted again, to its own target. The
    # first fit only makes the encoders, so it gets few rides.
    transformer = ColumnTransformer(steps).fit(frame.head(PARTS), target[:PARTS])
    parts = [
        transformer.named_transformers_[name].fit_transform(frame[list(CATEGORIES)], own)
        for name, own in targets.items()
    ]
    return transformer, np.hstack([*parts, frame[numbers].to_numpy(np.float64)])
