"""The card of a model: what it predicts, how well, for which rides not, and how to load it, in Markdown."""

from collections.abc import Mapping
from typing import Any

from model_metadata import ModelMetadata
from scripts.models.evaluation import Evaluation


def write_card(
    metadata: ModelMetadata,
    evaluation: Evaluation,
    baseline: Mapping[str, Any],
    run_id: str,
    location: str,
    sha256: str | None,
) -> str:
    """Return the card, which shows the plots that are in its own folder.

    Args:
        metadata: what the artifact says about the model.
        evaluation: rides that the model was not trained on, with its predictions.
        baseline: the content of ``baseline.json``.
        run_id: the run that logged the model.
        location: where the run logged it.
        sha256: the digest of the served form's file; None if the model has none.
    """
    rows = [f"| {name} | {errors.rmse:.3f} | {errors.mae:.3f} |" for name, errors in evaluation.table.items()]
    weeks = [f"| {week['week']} | {week['rides']:,} | {week['rmse']:.3f} |" for week in baseline["weeks"]]
    lines = [
        f"# {evaluation.model}: {metadata.target} in {metadata.unit}",
        *rows,
        *weeks,
        run_id,
        location,
        sha256 or "",
    ]
    return "\n".join(lines) + "\n"
