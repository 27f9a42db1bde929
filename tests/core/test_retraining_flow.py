"""What the flow of retraining does with errors and patterns. tests/commands/test_retrain.py runs the whole flow."""

from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from prefect import State
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from scripts.models import retraining_flow
from scripts.models.months import TrainingError
from scripts.models.publishing_proof import PublishError
from scripts.models.retraining import RetrainingError

pytestmark = pytest.mark.slow


def s3_error(status: int) -> ClientError:
    """Build an error with which S3 responded."""
    response: Any = {"ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), True),
        (s3_error(503), True),
        (s3_error(403), False),
        (HTTPError("http://127.0.0.1/", 503, "", Message(), None), True),
        (HTTPError("http://127.0.0.1/", 404, "", Message(), None), False),
        (URLError("no route"), True),
        (MlflowException("no connection"), True),
        (MlflowException("no such run", RESOURCE_DOES_NOT_EXIST), False),
        (FileNotFoundError("no file"), False),
        (TrainingError("too few rides"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_step_is_retried_if_its_error_may_pass(error: Exception, is_retried: bool) -> None:
    """The message for people has the true reason as its cause."""
    explained = PublishError("explained")
    explained.__cause__ = error
    step = retraining_flow.publish
    for found in (error, explained):
        state: State[Any] = Failed(data=found)
        assert retraining_flow.may_pass(step, TaskRun(task_key="key", dynamic_key="0"), state) is is_retried
    assert step.retry_condition_fn is retraining_flow.may_pass


def test_a_pattern_names_the_files_of_a_folder(tmp_path: Path) -> None:
    """A scheduled run finds the months that have arrived."""
    names = [str(tmp_path / name) for name in ("2023-01.parquet", "2023-02.parquet")]
    for name in names:
        Path(name).touch()
    assert retraining_flow.expand(f"{tmp_path}/2023-*.parquet") == names
    assert retraining_flow.expand("https://example.org/?a=*") == ["https://example.org/?a=*"]
    with pytest.raises(RetrainingError, match="no file has such a name"):
        retraining_flow.expand(f"{tmp_path}/2024-*.parquet")
