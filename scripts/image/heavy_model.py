"""Models that are too heavy for the function: one is slow, one takes much memory, both in proportion to the rides.

Both are nearest-neighbour regressors over many remembered rides, in MLflow's format.
"""

import functools
import hashlib
from typing import Any

import yaml

REMEMBERED = 1_000_000
"""Rides that the model compares each ride with."""
SLOW = "manhattan"
"""With this metric, a ride takes some milliseconds on one vCPU and almost no memory."""
GREEDY = "cosine"
"""With this metric, a ride takes 8 MB for its distances to all remembered rides."""


@functools.cache
def heavy_model(metric: str) -> dict[str, bytes]:
    """Return the files of a heavy model, by name: the same ones at each call, so that their digest is known."""
    # Imported late, because scikit-learn takes a second, and few commands need a heavy model.
    import numpy as np
    import skops.io
    from sklearn import __version__
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import Pipeline

    miles = np.linspace(0.1, 100, REMEMBERED)
    vectorizer = DictVectorizer(sparse=False).fit([{"trip_distance": 1.0}])
    regressor = KNeighborsRegressor(n_neighbors=1, algorithm="brute", metric=metric)
    pipeline = Pipeline([("vectorizer", vectorizer), ("regressor", regressor.fit(miles.reshape(-1, 1), 5 * miles))])
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops", "sklearn_version": __version__}
    description: dict[str, Any] = {"run_id": f"heavy-{metric}", "flavors": {"sklearn": flavor}}
    return {"MLmodel": yaml.safe_dump(description).encode(), "model.skops": skops.io.dumps(pipeline)}


def digest(metric: str) -> str:
    """Return the digest of a heavy model, which is not of a type that is loaded without one."""
    return hashlib.sha256(heavy_model(metric)["model.skops"]).hexdigest()
