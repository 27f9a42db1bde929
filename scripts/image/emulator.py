"""AWS's Lambda runtime interface emulator: downloads it, and sends events to a function that runs behind it."""

import contextlib
import json
import platform
import socket
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from scripts.cli import CommandError
from scripts.image import wheels
from scripts.localaws.server import HOST

VERSION = "1.170.0"
WHEEL = f"aws-sam-cli=={VERSION} --hash=sha256:24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf"
"""The SAM CLI's wheel contains AWS's builds of the emulator."""

BUILDS = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}
"""The builds' file names by architecture; all of them are for Linux."""

PATH = "/2015-03-31/functions/function/invocations"

PATIENCE_SECONDS = 60
"""Time that a response may take in addition to the function's timeout: one or two cold starts."""


def installed_emulator() -> Path:
    """Return the emulator's path in this environment; download it the first time. Raises CommandError."""
    emulator = Path(sys.prefix) / "bin" / f"aws-lambda-rie-of-sam-cli-{VERSION}"
    if not emulator.exists():
        fetch(emulator)
    return emulator


def fetch(path: Path) -> None:
    """Download the emulator for this machine to an executable file of that path. Raises CommandError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        wheels.fetch([WHEEL], platform.machine(), Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            build = Path(archive.extract(f"samcli/local/rapid/{BUILDS[platform.machine()]}", folder))
        build.chmod(0o755)
        # Renaming is atomic: an interruption leaves no half of an emulator under the path.
        build.replace(path)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The loopback ports on which an emulator listens for events and for the function's runtime client."""

    events: int
    runtime: int

    @classmethod
    def free(cls) -> "Addresses":
        """Return two free ports."""
        with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as other:
            return cls(one.getsockname()[1], other.getsockname()[1])

    def options(self) -> tuple[str, str]:
        """Return the emulator's options for these ports."""
        return (
            f"--runtime-interface-emulator-address={HOST}:{self.events}",
            f"--runtime-api-address={HOST}:{self.runtime}",
        )

    def wait(self) -> None:
        """Return as soon as the emulator listens. Raises CommandError if it does not start."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.events), timeout=1):
                return
            time.sleep(0.02)
        raise CommandError(f"the emulator does not listen on port {self.events}")

    def invoke(self, event: object, timeout: float) -> Any:
        """Return the emulator's answer: the function's response or error from JSON, any other answer as text.

        ``timeout`` is the function's, in seconds. The emulator takes one event at a time: concurrent events crash it.
        """
        with contextlib.closing(HTTPConnection(HOST, self.events, timeout=timeout + PATIENCE_SECONDS)) as connection:
            connection.request("POST", PATH, json.dumps(event))
            body = connection.getresponse().read().decode()
        try:
            return json.loads(body)
        except ValueError:
            return body
