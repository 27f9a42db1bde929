"""Lambda's runtime client, which starts the function in the image, loads on this Python as well."""

import importlib
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="Lambda's runtime client is made for Linux alone")
def test_the_runtime_client_and_its_native_part_load() -> None:
    """The emulator's tests would otherwise report this as a function that never answers."""
    assert importlib.import_module("awslambdaric.bootstrap").run
    assert importlib.import_module("runtime_client")
