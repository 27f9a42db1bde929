"""The web service in this process, imported anew for each test."""

import importlib
import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from features import Features
from model import Model
from scripts.localaws.setup import FUNCTION_VARIABLES
from tests.conftest import SAMPLE_MODEL

WebService = Callable[..., ModuleType]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def web_service(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> WebService:
    """Give a function that imports the web service anew, with just these variables set and the sample model."""

    def start(**environment: str) -> ModuleType:
        for name in (*FUNCTION_VARIABLES, "LOG_LEVEL", "METRICS_PORT", "DRAIN_SECONDS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"MODEL_LOCATION": SAMPLE_MODEL, "RUN_ID": "a-run", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delitem(sys.modules, "web_service", raising=False)
        return importlib.import_module("web_service")

    return start


@pytest.fixture
def service(web_service: WebService) -> ModuleType:
    """Give the web service with its default settings."""
    return web_service()


@pytest.fixture
def client(service: ModuleType) -> Any:
    """Give a client that calls the app as a server does, without a server."""
    return service.app.test_client()


@pytest.fixture
def serve_model(
    service: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[list[Features]], Any]], None]:
    """Give a function that puts another model in the place of the sample model."""
    return lambda call: monkeypatch.setattr(service, "MODEL", Model(call, "a-run"))


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Give a function that returns the log lines since its last call. Nothing else was printed."""

    def read() -> list[dict[str, Any]]:
        printed = capsys.readouterr()
        assert printed.err == ""
        return [json.loads(line) for line in printed.out.splitlines()]

    return read
