"""Counts that keep the function fast, whatever the machine does: imports, model calls, requests, calls of the SDK."""

import gc
import importlib.metadata
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from scripts.environment import locked_packages
from scripts.localaws.chaos import serve
from scripts.localaws.setup import FUNCTION_VARIABLES
from streaming.delivery import OutputStream
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.tools import ROOT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

IMPORTED = {
    *("aws-lambda-powertools", "botocore", "jmespath", "python-dateutil", "six", "urllib3"),
    *("msgspec", "numpy", "pyyaml", "safetensors", "typing-extensions"),
}
"""The packages that a cold start and a good batch may import. Another package has to be worth its time."""
NAME_IMPORTS = """
import sys

class NotInTheImage:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInTheImage())
import lambda_function
assert lambda_function.lambda_handler({event!r}) == {{"batchItemFailures": []}}
print(*{{name.partition(".")[0] for name in sys.modules}})
"""


def test_a_good_batch_imports_no_package_that_it_does_not_use(stream: str) -> None:
    """Only packages of the image can be imported here. It has others, for aggregated records and for tables."""
    in_image = locked_packages(["packages"]).keys()
    packages = {
        module: {name.lower().replace("_", "-") for name in names}
        for module, names in importlib.metadata.packages_distributions().items()
    }
    absent = {module for module, names in packages.items() if not names & in_image}
    others = {name: value for name, value in os.environ.items() if name not in FUNCTION_VARIABLES}
    variables = {"MODEL_LOCATION": SAMPLE_MODEL, "PREDICTIONS_STREAM_NAME": stream, "FAILURES_LOCATION": "s3://a/b"}
    code = NAME_IMPORTS.format(event=kinesis_event(ride_event()), absent=absent)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**others, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported = set().union(*(packages.get(module, set()) for module in done.stdout.splitlines()[-1].split()))
    assert imported & in_image <= IMPORTED


@pytest.mark.parametrize(
    ("rides", "entries"), [(1, [1]), (500, [500]), (501, [500, 1]), (1_500, [500, 500, 500])], ids=str
)
def test_a_batch_is_one_call_of_the_model_and_a_request_for_each_500_rides(
    rides: int,
    entries: Sequence[int],
    cold_start: Callable[..., ModuleType],
    endpoint: str,
    stream: str,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the cold start on, there is no other request to AWS."""
    calls = []
    with serve(endpoint, keeps_requests=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", proxy.url)
        function = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}")
        predict = function.MODEL._call

        def counting(features: list[dict[str, Any]]) -> Any:
            calls.append(len(features))
            return predict(features)

        monkeypatch.setattr(function.MODEL, "_call", counting)
        answer = function.lambda_handler(kinesis_event(*(ride_event(number) for number in range(rides))))
    assert answer == {"batchItemFailures": []}
    assert calls == [rides]
    assert {request.headers["X-Amz-Target"] for request in proxy.requests} == {"Kinesis_20131202.PutRecords"}
    assert sorted((len(json.loads(request.body)["Records"]) for request in proxy.requests), reverse=True) == entries


def test_a_request_does_not_take_the_detours_of_the_sdk(stream: str) -> None:
    """The SDK calls as many functions for 400 entries as for one entry, and builds its user agent only once."""
    put_records: Any = OutputStream.connect(stream)._client.put_records

    def calls(entries: int) -> Counter[str]:
        modules: Counter[str] = Counter()

        def count(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and "botocore" in frame.f_code.co_filename:
                modules[Path(frame.f_code.co_filename).stem] += 1

        records = [{"Data": b"data", "PartitionKey": str(place)} for place in range(entries)]
        sys.setprofile(count)
        try:
            answer = put_records(StreamName=stream, Records=records)
        finally:
            sys.setprofile(None)
        assert len(answer["Records"]) == entries
        return modules

    calls(1)  # opens the connection
    one, many = calls(1), calls(400)
    assert abs(many.total() - one.total()) < 100
    assert one["auth"] > 0
    assert not one.keys() & {"parsers", "validate"}
    assert one["useragent"] < 10


def test_gc_does_not_scan_objects_of_the_cold_start(cold_start: Callable[..., ModuleType]) -> None:
    """GC works again afterwards, and frees what a batch leaves behind."""
    cold_start(TEST_RUN="True")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 100_000


def test_s3_client_is_created_with_the_first_rejection(
    cold_start: Callable[..., ModuleType], stream: str, bucket: str, s3: "S3Client"
) -> None:
    """Most sandboxes never need the client."""
    function = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}")
    assert function.lambda_handler(kinesis_event(ride_event())) == {"batchItemFailures": []}
    assert "_client" not in vars(function.FAILURES)
    assert function.lambda_handler(kinesis_event(b"no ride")) == {"batchItemFailures": []}
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
