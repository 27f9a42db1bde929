"""Compiling a fitted pipeline into its served form: plain arrays that give the same doubles.

A pipeline that is not understood is not compiled: scikit-learn serves it. Compilation ends with a proof, see
``scripts.models.proving``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joblib
from sklearn.pipeline import Pipeline

from artifacts import in_one_line
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
    try:
        # One thread adds the trees of a forest in their order, and several threads in any.
        with joblib.parallel_config("sequential"):
            return _compile(pipeline, predict, advance)
    except (NotUnderstoodError, MemoryError):
        raise
    except FormError as error:
        raise NotUnderstoodError(str(error)) from error
    except Exception as error:
        # A pipeline may hold anything, such as an estimator that was not fitted.
        raise NotUnderstoodError(f"compiling it raised a {in_one_line(error)}") from error


def _compile(pipeline: Any, predict: Predict, advance: Callable[[int, int], None]) -> ServedForm:
    compiled = compile_arrays(pipeline)
    trees = compiled if isinstance(compiled, Trees) else None
    # The table is the first half of the way, and the proof is the second one.
    table = tabulate(trees, predict, lambda done, total: advance(done, 2 * total)) if trees else None
    content = write_form(table or compiled)
    # Read again, so that what the services will read is proved, and not what is in memory here.
    form = read_form(content)
    rides = list(proof_rides(form, trees))
    return ServedForm(
        form.kind, content, prove(form, predict, rides, lambda done, total: advance(total + done, 2 * total))
    )


def compile_arrays(pipeline: Any) -> Linear | Trees:
    """Return a pipeline's weights or trees, without a proof. Raises NotUnderstoodError."""
    if type(pipeline) is not Pipeline or len(pipeline.steps) != 2:
        raise NotUnderstoodError("it is not a pipeline of a transformer and a model")
    transformer, model = (step for _, step in pipeline.steps)
    if type(model) not in LINEAR_MODELS:
        return compile_trees(model, find_sources(transformer))
    return compile_linear(model, find_sources(transformer))
