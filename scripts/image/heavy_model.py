"""Models that are too much for the function: one that is slow, one that needs memory, each by the number of rides.

Both are true nearest-neighbour regressors over many remembered rides, saved as MLflow saves a model.
"""

from typing import Any

import yaml

REMEMBERED = 1_000_000
"""Rides that the model compares each ride with."""

SLOW = "manhattan"
"""With this metric a ride takes some milliseconds on one vCPU, and next to no memory."""

GREEDY = "cosine"
"""With this metric a ride takes 8 MB, for its distances to all that is remembered."""


def heavy_model(metric: str) -> dict[str, bytes]:
    """Return the files of such a model, by name."""
    # Here and not above: they take a second, and few commands need them.
    import numpy as np
    import skops.io
    from sklearn import __version__
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import Pipeline

    miles = np.linspace(0.1, 100, REMEMBERED)
    vectorizer = DictVectorizer(sparse=False).fit([{"trip_distance": 1.0}])
    regressor = KNeighborsRegressor(n_neighbors=1, algorithm="brute", metric=metric).fit(
        miles.reshape(-1, 1), 5 * miles
    )
    pipeline = Pipeline([("vectorizer", vectorizer), ("regressor", regressor)])
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops", "sklearn_version": __version__}
    description: dict[str, Any] = {"run_id": f"heavy-{metric}", "flavors": {"sklearn": flavor}}
    return {"MLmodel": yaml.safe_dump(description).encode(), "model.skops": skops.io.dumps(pipeline)}
