"""The environment of the processes that are measured: the same for all consumers, but for the model."""

import os
from pathlib import Path

from scripts.localaws import setup

NOT_OURS = ("LOG_LEVEL", "POWERTOOLS_METRICS_DISABLED", "POWERTOOLS_METRICS_NAMESPACE")
"""What else a caller may have set of the function's variables: it logs and counts as it does in Lambda."""


def environment(endpoint: str, location: Path, run_id: str, sha256: str | None = None) -> dict[str, str]:
    """Return the whole environment for a consumer with the model in that folder; its digest is pinned where given."""
    variables = dict(os.environ)
    setup.isolate(variables, endpoint)
    for name in (*setup.FUNCTION_VARIABLES, *NOT_OURS):
        variables.pop(name, None)
    variables.update(
        PREDICTIONS_STREAM_NAME=setup.OUTPUT_STREAM,
        FAILURES_LOCATION=setup.REJECTIONS,
        MODEL_LOCATION=str(location),
        RUN_ID=run_id,
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    if sha256:
        variables["MODEL_SHA256"] = sha256
    return variables
