"""The flavors of an MLflow model: the first flavor that is known here is loaded.

A served form comes first, because it does not need scikit-learn. The flavor sklearn comes second, and other flavors,
which need mlflow, come last.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from artifacts import KeptArtifact, ModelError, in_one_line
from digests import copy_pinned
from served.arrays import MAX_BYTES, FormError
from served.forms import FLAVOR, read_form

Features: TypeAlias = list[Any]
Call: TypeAlias = Callable[[Features], Any]
"""Predicts a value for each ride, whose features are a dictionary."""


def load_calls(artifact: KeptArtifact, description: Mapping[str, Any], *, is_pinned: bool) -> Iterator[Call]:
    """Load the model and yield the ways to call it, one for each form of input that it may have been fitted with.

    Args:
        artifact: the model's files.
        description: the content of its MLmodel file.
        is_pinned: whether the user has pinned the digest of the model, which ``digests.open_pinned`` has verified.

    Raises:
        ModelError: if the model has no flavor that can be loaded, or if loading it is unsafe or impossible here.
    """
    flavors = description.get("flavors")
    if not isinstance(flavors, dict):
        raise ModelError(f"{artifact.location}: its MLmodel names no flavors")
    if isinstance(flavors.get(FLAVOR), dict):
        yield _load_form(artifact, flavors[FLAVOR])
    elif isinstance(flavors.get("sklearn"), dict):
        # Imported here because a served form does not need these modules.
        from sklearn_flavor import load_pipeline_calls

        yield from load_pipeline_calls(artifact, description, is_pinned=is_pinned)
    elif isinstance(flavors.get("python_function"), dict):
        yield _load_pyfunc(artifact, flavors, is_pinned=is_pinned)
    else:
        names = ", ".join(map(str, flavors))
        raise ModelError(f"{artifact.location}: its MLmodel names no flavor that can be loaded, only {names}")


def _load_form(artifact: KeptArtifact, flavor: Mapping[str, Any]) -> Call:
    """Read a served form. It holds no code, so it needs no pinned digest."""
    name = flavor.get("data")
    if not isinstance(name, str):
        raise ModelError(f"{artifact.location}: its MLmodel does not name the file of its served form (data)")
    what = f"{artifact.location}/{name}"
    content = artifact.read(name, MAX_BYTES + 1)
    # A file that is too large is not read to its end, and refused for its size.
    digest = artifact.digest(name) if len(content) <= MAX_BYTES else None
    # The file of another model could be loaded, and would predict something else.
    if digest and flavor.get("sha256", digest) != digest:
        raise ModelError(f"{what} is not the file that its MLmodel names: its digest is {digest}: log the model again")
    try:
        return read_form(content)
    except FormError as error:
        raise ModelError(
            f"{what} cannot be loaded: {in_one_line(error)}; if the file is damaged, log the model again"
        ) from error


def _load_pyfunc(artifact: KeptArtifact, flavors: Mapping[str, Any], *, is_pinned: bool) -> Call:
    names = ", ".join(map(str, flavors))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow.pyfunc
        import pandas as pd
    except ImportError as error:
        raise ModelError(
            f"{artifact.location} is of the flavor {names}, which needs mlflow ({error}):"
            ' build the image with --build-arg CATEGORIES="packages training", or log it with mlflow.sklearn'
        ) from error
    from pickled_code import check_python

    verified = copy_pinned(artifact, f"of the flavor {names}", is_pinned=is_pinned)
    for name in verified.names():
        check_python(f"{artifact.location}/{name}", verified.read(name), flavors)
    try:
        pyfunc = mlflow.pyfunc.load_model(verified.location)
    except Exception as error:
        raise ModelError(f"{artifact.location} cannot be loaded: {in_one_line(error)}") from error
    return lambda features: pyfunc.predict(pd.DataFrame(features))
