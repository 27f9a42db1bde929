"""Compiling a fitted pipeline into its served form: plain arrays that give the same doubles.

A pipeline that is not understood is not compiled, and scikit-learn serves it. Compilation ends with a proof (see
``scripts.models.proving``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
from sklearn.pipeline import Pipeline

from artifacts import in_one_line
from features import DEFAULT_FEATURES, SAMPLE_RIDE, prepare_features
from scripts.models.compiled_inputs import NotUnderstoodError, find_sources
from scripts.models.compiled_linear import LINEAR_MODELS, compile_linear
from scripts.models.compiled_trees import compile_trees
from scripts.models.proof_rides import proof_rides
from scripts.models.proving import Predict, Proof, prove
from scripts.models.tabulating import tabulate
from served.arrays import FormError
from served.forms import read_form, write_form
from served.linear import Linear
from served.trees import Trees


@dataclass(frozen=True)
class ServedForm:
    """A pipeline's served form."""

    kind: str
    content: bytes
    """The content of its file."""
    proof: Proof


def compile_pipeline(
    pipeline: Any,
    predict: Predict,
    advance: Callable[[int, int], None] = lambda *_: None,
    names: Sequence[str] = DEFAULT_FEATURES,
) -> ServedForm:
    """Return a pipeline's served form.

    Args:
        pipeline: a fitted pipeline of a transformer and a model.
        predict: the pipeline's own predictions for a list of dictionaries.
        advance: called with the steps that are done and their total.
        names: the features that the model wants.

    Raises:
        NotUnderstoodError: if the pipeline has no served form, or if the form would predict something else.
    """
    try:
        # One thread adds the trees of a forest in order. Several threads add them in any order.
        with joblib.parallel_config("sequential"):
            return _compile(pipeline, predict, advance, names)
    except (NotUnderstoodError, MemoryError):
        raise
    except FormError as error:
        raise NotUnderstoodError(str(error)) from error
    except Exception as error:
        # A pipeline may hold any object, such as an estimator that was not fitted, so any exception is possible.
        raise NotUnderstoodError(f"compiling it raised {in_one_line(error)}") from error


def _compile(pipeline: Any, predict: Predict, advance: Callable[[int, int], None], names: Sequence[str]) -> ServedForm:
    compiled = compile_arrays(pipeline, names)
    trees = compiled if isinstance(compiled, Trees) else None
    # The table is the first half of the progress, and the proof is the second half.
    table = tabulate(trees, predict, lambda done, total: advance(done, 2 * total)) if trees else None
    content = write_form(table or compiled)
    # The content is read again, so that the proof is about the form that the services will read.
    form = read_form(content)
    rides = list(proof_rides(form, trees))
    return ServedForm(
        form.kind, content, prove(form, predict, rides, lambda done, total: advance(total + done, 2 * total))
    )


def compile_arrays(pipeline: Any, names: Sequence[str] = DEFAULT_FEATURES) -> Linear | Trees:
    """Return a pipeline's weights or trees, without a proof. ``names`` are the features that the model wants.

    Raises NotUnderstoodError.
    """
    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        raise NotUnderstoodError("it is not a pipeline of a transformer and a model")
    transformer, model = (step for _, step in pipeline.steps)
    sources = find_sources(transformer, prepare_features(SAMPLE_RIDE, names))
    return compile_linear(model, sources) if type(model) in LINEAR_MODELS else compile_trees(model, sources)
