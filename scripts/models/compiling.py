"""Compiling a fitted pipeline into its served form: plain arrays that give the same doubles.

A pipeline that is not understood is not compiled: scikit-learn serves it. Compilation ends with a proof, see
``scripts.models.proving``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joblib
from sklearn.pipeline import Pipeline

from scripts.models.compiled_inputs import NotUnderstoodError, find_sources
from scripts.models.compiled_linear import LINEAR_MODELS, compile_linear
from scripts.models.compiled_trees import compile_trees
from scripts.models.proving import Predict, Proof, prove
from scripts.models.tabulating import tabulate
from served.forms import Form, read_form, write_form


@dataclass(frozen=True)
class ServedForm:
    """A pipeline's served form."""

    kind: str
    content: bytes
    """The content of its file."""
    proof: Proof


def compile_pipeline(
    pipeline: Any, predict: Predict, advance: Callable[[int, int], None] = lambda *_: None
) -> ServedForm:
    """Return a pipeline's served form.

    Args:
        pipeline: a fitted pipeline of a transformer and a model.
        predict: the pipeline's own predictions for a list of dictionaries.
        advance: called with the steps that are done and their total.

    Raises:
        NotUnderstoodError: if the pipeline has no served form, or if the form would predict something else.
    """
    # One thread adds the trees of a forest in their order, and several threads in any.
    with joblib.parallel_config("sequential"):
        content = write_form(_compile(pipeline, predict, advance))
        # Read again, so that what the services will read is proved, and not what is in memory here.
        form = read_form(content)
        return ServedForm(form.kind, content, prove(form, predict))


def _compile(pipeline: Any, predict: Predict, advance: Callable[[int, int], None]) -> Form:
    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        raise NotUnderstoodError("it is not a pipeline of a transformer and a model")
    transformer, model = (step for _, step in pipeline.steps)
    if not type(model).__module__.startswith("sklearn."):
        raise NotUnderstoodError(f"a {type(model).__name__} is not scikit-learn's")
    sources = find_sources(transformer)
    if type(model).__name__ in LINEAR_MODELS:
        return compile_linear(model, sources)
    trees = compile_trees(model, sources)
    return tabulate(trees, predict, advance) or trees
