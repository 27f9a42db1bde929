"""What keeps the function fast, in counts that no noise moves: imports, model calls and requests."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from delivery import MAX_ENTRIES
from scripts.environment import locked
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.flow import Chaos
from tests.tools import ROOT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NEEDED = {
    *("aws-lambda-powertools", "boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3"),
    *("joblib", "narwhals", "numpy", "scikit-learn", "scipy", "skops", "threadpoolctl"),
    *("cloudpickle", "msgspec", "pyyaml", "typing-extensions"),
}
"""What a cold start and a good batch import of the image's packages. One that joins them has to be worth its time."""

NAME_IMPORTS = """
import sys
import lambda_function
lambda_function.lambda_handler({event!r})
print(*{{name.partition(".")[0] for name in sys.modules}})
"""


def test_a_good_batch_imports_no_package_that_it_does_not_use(stream: str) -> None:
    """The image has others, for aggregated records and for tables."""
    variables = {"MODEL_LOCATION": SAMPLE_MODEL, "PREDICTIONS_STREAM_NAME": stream, "FAILURES_LOCATION": "s3://a/b"}
    code = NAME_IMPORTS.format(event=kinesis_event(ride_event()))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    packages = importlib.metadata.packages_distributions()
    imported = {package for name in done.stdout.splitlines()[-1].split() for package in packages.get(name, [])}
    assert {package.lower().replace("_", "-") for package in imported} & locked(["packages"]).keys() <= NEEDED


@pytest.mark.parametrize("rides", [1, MAX_ENTRIES, MAX_ENTRIES + 1, 3 * MAX_ENTRIES])
def test_a_batch_is_one_call_of_the_model_and_a_request_for_each_500_rides(
    rides: int,
    cold_start: Callable[..., ModuleType],
    chaos: Chaos,
    stream: str,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing else: no ride has a request of its own, and S3 none at all."""
    nothing_listens = "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", nothing_listens)
    calls = []
    with chaos(lambda call: None) as watched:
        function = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}")
        predict = function.MODEL._call

        def counting(features: list[dict[str, Any]]) -> Any:
            calls.append(len(features))
            return predict(features)

        monkeypatch.setattr(function.MODEL, "_call", counting)
        answer = function.lambda_handler(kinesis_event(*(ride_event(number) for number in range(rides))))
    assert answer == {"batchItemFailures": []}
    assert calls == [rides]
    full, rest = divmod(rides, MAX_ENTRIES)
    assert watched.entry_counts == [MAX_ENTRIES] * full + [rest] * bool(rest)


def test_s3_is_not_even_connected_to_before_there_is_a_rejection(
    cold_start: Callable[..., ModuleType], stream: str, bucket: str, s3: "S3Client"
) -> None:
    """Making its client takes longer than all the rest of the function's own."""
    function = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}")
    assert function.lambda_handler(kinesis_event(ride_event())) == {"batchItemFailures": []}
    assert "_client" not in vars(function.FAILURES)
    assert function.lambda_handler(kinesis_event(b"no ride")) == {"batchItemFailures": []}
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
