"""The environment of the processes that are measured: the same for all consumers, but for the model."""

import os
from pathlib import Path

from scripts import local_aws

NOT_OURS = ("LOG_LEVEL", "POWERTOOLS_METRICS_DISABLED", "POWERTOOLS_METRICS_NAMESPACE")
"""What else a caller may have set of the function's variables: it logs and counts as it does in Lambda."""


def environment(endpoint: str, location: Path, run_id: str, sha256: str | None = None) -> dict[str, str]:
    """Return the whole environment for a consumer with the model in that folder; its digest is pinned where given."""
    variables = dict(os.environ)
    local_aws.isolate(variables, endpoint)
    for name in (*local_aws.FUNCTION_VARIABLES, *NOT_OURS):
        variables.pop(name, None)
    variables.update(
        PREDICTIONS_STREAM_NAME=local_aws.OUTPUT_STREAM,
        FAILURES_LOCATION=local_aws.REJECTIONS,
        MODEL_LOCATION=str(location),
        RUN_ID=run_id,
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    if sha256:
        variables["MODEL_SHA256"] = sha256
    return variables
