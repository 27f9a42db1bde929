"""AWS clients: the SDK's own settings, and the line that names a wrong one."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import clients
from clients import SDKSettingsError
from scripts.localaws.chaos import serve
from streaming.delivery import SDK_CONFIG
from streaming.wire import speed_up_put_records
from tests.tools import failed, finish


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the machine's own configuration away, and what a session remembers of an earlier one."""
    monkeypatch.setattr(clients, "_session", None)
    for name in clients.FILES:
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")


WRONG = [
    ("AWS_ENDPOINT_URL", "localhost:4566"),
    ("AWS_ENDPOINT_URL", '"http://localhost:4566"'),
    ("AWS_ENDPOINT_URL_KINESIS", "ftp://localhost:4566"),
    ("AWS_ENDPOINT_URL_S3", "http://localhost:port"),
    ("AWS_DEFAULT_REGION", "us east 1"),
    ("AWS_DEFAULT_REGION", "us-east-1\n"),
    ("AWS_MAX_ATTEMPTS", "many"),
    ("AWS_MAX_ATTEMPTS", "0"),
    ("AWS_RETRY_MODE", "x"),
    ("AWS_STS_REGIONAL_ENDPOINTS", "x"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "x"),
    ("AWS_REQUEST_CHECKSUM_CALCULATION", "x"),
    ("AWS_CA_BUNDLE", "/nowhere"),
    ("AWS_PROFILE", "nobody"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_variable_is_named_in_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own error rarely has the variable. A wrong S3 endpoint is found with the client for Kinesis."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SDKSettingsError, match=f"^the SDK cannot use {name}: ") as caught:
        clients.kinesis("stream")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        "no section",
        "[default]\nmax_attempts = many",
        "[default]\nca_bundle = /nowhere",
        "[default]\nendpoint_url = a:1",
    ],
)
def test_a_wrong_file_is_named(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all variables are right, the line names the file."""
    (tmp_path / "config").write_text(content)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert (clients.wrong_setting("kinesis") or "").startswith("the SDK cannot use AWS_CONFIG_FILE: ")


def test_one_of_several_wrong_variables_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line does not name the region, which is right."""
    monkeypatch.setenv("AWS_RETRY_MODE", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    assert "AWS_MAX_ATTEMPTS" in str(clients.wrong_setting("s3"))


@pytest.mark.parametrize("region", [True, False])
def test_nothing_is_wrong_with_good_settings(region: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that is not set is missing, not wrong."""
    if not region:
        monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert clients.wrong_setting("kinesis", "s3") is None


def test_a_cold_start_names_the_variable(cold_start: Callable[..., ModuleType]) -> None:
    """The stream's client is made at the cold start, not with the first batch."""
    with pytest.raises(SDKSettingsError, match="AWS_ENDPOINT_URL_KINESIS: Invalid endpoint: localhost:4566"):
        cold_start(PREDICTIONS_STREAM_NAME="stream", AWS_ENDPOINT_URL_KINESIS="localhost:4566")


@pytest.mark.parametrize(
    ("name", "value", "header", "content"),
    [
        ("AWS_SDK_UA_APP_ID", "my-app", "User-Agent", "^Botocore/.* app/my-app$"),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_python3.13", "User-Agent", "^Botocore/.* exec-env/AWS_Lambda_python3.13"),
        ("AWS_SESSION_TOKEN", "token", "X-Amz-Security-Token", "^token$"),
        ("AWS_DEFAULT_REGION", "eu-west-1", "Authorization", "/eu-west-1/kinesis/aws4_request, SignedHeaders=.*host"),
        ("_X_AMZN_TRACE_ID", "Root=1-5759e988", "X-Amzn-Trace-Id", "^Root=1-5759e988$"),
    ],
)
def test_put_records_has_the_headers_that_the_sdks_settings_ask_for(
    name: str, value: str, header: str, content: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headers are complete although the project itself sends the request."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv(name, value)
    with serve(endpoint, keeps_requests=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        client = speed_up_put_records(clients.kinesis("no-stream", SDK_CONFIG))
        with pytest.raises(client.exceptions.ResourceNotFoundException, match="no-stream"):
            client.put_records(StreamName="no-stream", Records=[{"Data": b"data", "PartitionKey": "key"}])
    (request,) = proxy.requests
    assert re.search(content, request.headers[header])


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["put-rides", "read-predictions", "replay", "smoke-test"])
def test_a_command_names_the_variable(tool: str) -> None:
    """The error is one line that names the variable, whichever client the command makes first."""
    line = failed(finish(tool, AWS_MAX_ATTEMPTS="many", FAILURES_LOCATION="s3://failures"))
    assert line.startswith(f"{tool}: the SDK cannot use AWS_MAX_ATTEMPTS: ")
