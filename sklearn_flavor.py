"""MLflow's sklearn flavor, read without mlflow: fitted scikit-learn pipelines, as skops or pickled.

Importing mlflow takes longer than the rest of a cold start, and mlflow trusts the types that the artifact itself names.
"""

import importlib.metadata
import importlib.util
import io
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import Any, TypeAlias

from artifacts import MAX_MESSAGE_LENGTH, KeptArtifact, ModelError, in_one_line
from digests import copy_pinned, refuse_unpinned
from features import SAMPLE_RIDE, prepare_features
from forests import find_tree_sum
from linear_models import find_formula
from model_metadata import KEY, read_metadata
from pickled_code import check_python

TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
]
"""The types that a skops file without a pinned digest may hold besides those that skops trusts.

They are the trees of scikit-learn's ensembles, the losses of a TweedieRegressor, the type of an imputer's array, the
dictionary in which a VotingRegressor names its members, and the folds and the scorer that a GridSearchCV keeps.
``skops_schema`` checks the values in them: skops checks types alone, and warns that forged node indices can crash
``predict``.
"""

DEFAULT_FORMAT = "pickle"
"""The serialization format that MLflow assumes if a model's flavor names none."""

BUILD_WITH_SKLEARN = (
    'build the image with --build-arg CATEGORIES="packages sklearn", or here run ./scripts/environment sklearn -- true'
)
"""The advice in errors about missing scikit-learn, skops or cloudpickle."""

Pipeline = Any  # a fitted scikit-learn estimator: anything with ``predict``
Features: TypeAlias = list[Any]
Call: TypeAlias = Callable[[Features], Any]
"""Predicts a value for each ride, whose features are a dictionary."""


def load_pipeline_calls(artifact: KeptArtifact, description: Mapping[str, Any], *, is_pinned: bool) -> Iterator[Call]:
    """Load the pipeline and yield the ways to call it, one for each form of input that it may have been fitted with.

    The arguments and errors are those of ``flavors.load_calls``.
    """
    pipeline = _load_pipeline(artifact, description["flavors"], is_pinned=is_pinned)
    _check_vectorizer(pipeline, read_metadata(description, artifact.location).features, artifact.location)
    yield from input_forms(pipeline, _signature_columns(description), artifact.location)


def _load_pipeline(artifact: KeptArtifact, flavors: Mapping[str, Any], *, is_pinned: bool) -> Pipeline:
    flavor = flavors["sklearn"]
    _check_sklearn(artifact, flavor.get("sklearn_version"))
    name, serialization = flavor.get("pickled_model"), str(flavor.get("serialization_format") or DEFAULT_FORMAT)
    if not isinstance(name, str):
        raise ModelError(f"{artifact.location}: its MLmodel does not name the model's file (pickled_model)")
    if serialization not in ("skops", "cloudpickle", "pickle"):
        raise ModelError(f"{artifact.location}: the serialization format {serialization} is not known here")
    what = f"{artifact.location}/{name}"
    if code := flavor.get("code"):
        # The digest covers the code too, because the model imports it.
        artifact = copy_pinned(artifact, "which brings code of its own", is_pinned=is_pinned)
        _add_to_path(artifact, str(code))
    try:
        # These very bytes are loaded: the file could change after it was checked.
        content = artifact.read(name)
        if serialization == "skops" and not is_pinned:
            pipeline = _load_unpinned_skops(what, content, artifact.digest(name))
        else:
            if not is_pinned:
                refuse_unpinned(what, f"a {serialization}", artifact.digest(name))
            pipeline = _load_pinned_skops(content) if serialization == "skops" else _unpickle(what, content, flavors)
        return _on_one_core(pipeline, what)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{what} cannot be loaded: {in_one_line(error)}{_hint(error)}") from error


def _unpickle(what: str, content: bytes, flavors: Mapping[str, Any]) -> Pipeline:
    check_python(what, content, flavors)
    # The files of cloudpickle are pickles too. Nothing is unpickled unless it has the pinned digest.
    return pickle.loads(content)  # noqa: S301


def _load_unpinned_skops(what: str, content: bytes, digest: str) -> Pipeline:
    # Imported here because it takes as long as loading a small pickle, which does not need it.
    import skops.io

    from skops_schema import SchemaError, check_schema

    file = io.BytesIO(content)
    try:
        check_schema(file)
    except SchemaError as error:
        raise ModelError(f"{what} cannot be loaded: {error}={digest}") from error
    return skops.io.load(file, trusted=TRUSTED_TYPES)


def _load_pinned_skops(content: bytes) -> Pipeline:
    """Load a skops file with all types that it holds: whoever pins its digest trusts it, as with a pickle."""
    import skops.io

    return skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))


def _check_vectorizer(pipeline: Pipeline, names: Sequence[str], location: str) -> None:
    """Raise ModelError if the pipeline's DictVectorizer was fitted on features that it will not get.

    It would take 0 for each of them, without an error, and the pipeline would predict wrong values.
    """
    vectorizer: Any = pipeline.steps[0][1] if getattr(pipeline, "steps", None) else None
    if type(vectorizer).__name__ != "DictVectorizer":
        return
    # A category is a column of its own, such as "PU_DO=130_205".
    fitted = {str(column).partition(vectorizer.separator)[0] for column in vectorizer.vocabulary_}
    if missing := sorted(fitted - prepare_features(SAMPLE_RIDE, names).keys()):
        shown = ascii(", ".join(missing))[1:-1][:MAX_MESSAGE_LENGTH]
        raise ModelError(
            f"{location} was fitted on features that it does not get: {shown}; train it on features that `features.py`"
            f" makes, and log it with their names in metadata.{KEY}.features"
        )


def input_forms(pipeline: Pipeline, signature_columns: Sequence[str], location: str) -> Iterator[Call]:
    """Yield the pipeline's ``predict`` for dictionaries, and for a DataFrame if it may have been fitted on one.

    A formula or a sum of trees takes the place of ``predict`` if it gives the same values for dictionaries.

    scikit-learn keeps the names of a DataFrame's columns in ``feature_names_in_``. If the first step does not keep
    them, only the signature has them. It names columns for some pipelines that take dictionaries too, so dictionaries
    are tried first.
    """
    fitted_columns = getattr(pipeline, "feature_names_in_", None)
    if fitted_columns is None:
        yield find_formula(pipeline) or find_tree_sum(pipeline) or pipeline.predict
    try:
        columns = list(signature_columns if fitted_columns is None else fitted_columns)
    except TypeError as error:
        raise ModelError(f"{location} cannot be used: its feature_names_in_ is not a list of names") from error
    if columns:
        yield _frame_call(pipeline, columns, location)


def _frame_call(pipeline: Pipeline, columns: Sequence[str], location: str) -> Call:
    try:
        # Only these models need pandas, which takes a third of a second to import.
        import pandas as pd
    except ImportError as error:
        raise ModelError(
            f"{location} was fitted on a DataFrame, which needs pandas ({error}): build the image with"
            ' --build-arg CATEGORIES="packages sklearn dataframe", or here run ./scripts/environment dataframe -- true'
        ) from error

    def call(features: Features) -> Any:
        frame = pd.DataFrame(features)
        # Most estimators insist on the order of the columns. If one is missing, the estimator says so.
        return pipeline.predict(frame[[column for column in columns if column in frame]])

    return call


def _signature_columns(description: Mapping[str, Any]) -> list[str]:
    """Return the names of the columns in the model's signature. The list is empty if there are no names."""
    try:
        return [str(column["name"]) for column in json.loads(description["signature"]["inputs"])]
    except (KeyError, TypeError, ValueError):
        return []


def _add_to_path(artifact: KeptArtifact, code: str) -> None:
    """Let Python import the modules that were logged with the model by ``code_paths``. Raises ModelError."""
    folder = Path(artifact.location, code)
    files = folder.iterdir() if folder.is_dir() else ()
    modules = [path.stem for path in files if path.suffix == ".py" or path.is_dir()]
    if taken := sorted(filter(_is_taken, modules)):
        # Python would give the model the other module.
        raise ModelError(
            f"the model's own code has a module {taken[0]}, as the function or a package has: rename it in the model"
        )
    sys.path.append(str(folder))


def _is_taken(module: str) -> bool:
    if module in sys.modules:
        return True
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # a folder that is no package would not come first


def _hint(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in ("cloudpickle", "skops"):
        return f"; {BUILD_WITH_SKLEARN}"
    if isinstance(error, ImportError | AttributeError):
        return "; if the model has classes of your own, log it with code_paths=[...], so that it brings their module"
    return ""


def _check_sklearn(artifact: KeptArtifact, made_with: object) -> None:
    """Refuse a model of another scikit-learn: the inner state of a pipeline changes from one minor to the next."""
    try:
        installed = importlib.metadata.version("scikit-learn")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"{artifact.location} has no served form and needs scikit-learn, which is not installed: train it again"
            f" with ./scripts/train, or {BUILD_WITH_SKLEARN}"
        ) from error
    if made_with is None:
        raise ModelError(
            f"{artifact.location}: its MLmodel does not say which scikit-learn made the model: if it was {installed},"
            f" add sklearn_version: {installed} to its flavor sklearn"
        )
    if str(made_with).split(".")[:2] != installed.split(".")[:2]:
        raise ModelError(
            f"{artifact.location} was made with scikit-learn {made_with}, but {installed} is installed here:"
            " train it again, or install that version"
        )


def _on_one_core(pipeline: Pipeline, what: str) -> Pipeline:
    """Set every ``n_jobs`` to 1: on a function's one core, a thread pool costs more time than it saves."""
    if not hasattr(pipeline, "predict"):
        raise ModelError(f"{what} holds a {type(pipeline).__name__}, which cannot predict")
    for estimator in _estimators(pipeline):
        if hasattr(estimator, "n_jobs"):
            estimator.n_jobs = 1
    return pipeline


def _estimators(value: Any) -> Iterator[Any]:
    """Yield a fitted estimator and all estimators in it, such as steps, fitted clones and members of an ensemble."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        yield value
        value = vars(value)
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, list | tuple | ValuesView):
        for part in value:
            yield from _estimators(part)
