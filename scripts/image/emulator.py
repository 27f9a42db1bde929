"""AWS's Lambda runtime interface emulator: its addresses, and events for a function that runs behind it."""

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from scripts.cli import CommandError
from scripts.localaws.server import HOST

PATH = "/2015-03-31/functions/function/invocations"
PATIENCE_SECONDS = 60
"""Time that a response may take in addition to the function's timeout: one or two cold starts."""


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
