"""The function behind AWS's Lambda emulator, without a container."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from downloads import installed_emulator

from scripts.image.emulator import Addresses
from scripts.localaws.setup import FUNCTION_VARIABLES, isolate
from tests.tools import ROOT

NOWHERE = "http://127.0.0.1:1"


@dataclass(frozen=True, slots=True)
class EmulatedFunction:
    """A function whose process starts with the first event, and again with the next event after it has ended."""

    addresses: Addresses
    timeout: int

    def invoke(self, event: object) -> Any:
        """Return the response or the error, as Lambda does; if the function timed out, return plain text."""
        return self.addresses.invoke(event, self.timeout)


@contextlib.contextmanager
def emulated(
    handler: str = "lambda_function.lambda_handler", *, timeout: int = 60, **variables: str
) -> Iterator[EmulatedFunction]:
    """Run a handler for the length of the block, with these variables. It can reach only the AWS that they name.

    ``timeout`` is the function's, in seconds. Unlike Lambda, the emulator counts a cold start as part of it.

    Raises:
        CommandError: if the emulator cannot be downloaded.
    """
    addresses = Addresses.free()
    command = [str(installed_emulator()), *addresses.options(), sys.executable, "-m", "awslambdaric", handler]
    with subprocess.Popen(command, cwd=ROOT, env=_environment(timeout, variables)) as process:
        try:
            addresses.wait()
            yield EmulatedFunction(addresses, timeout)
        finally:
            process.terminate()  # The emulator kills the function's process before it ends.


def _environment(timeout: int, variables: dict[str, str]) -> dict[str, str]:
    # Launchers set the last one, with which Python would not look for modules in the working folder, as on Lambda.
    others = (*FUNCTION_VARIABLES, "LOG_LEVEL", "PYTHONSAFEPATH")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    isolate(environment, NOWHERE)
    lambdas = {"LAMBDA_TASK_ROOT": str(ROOT), "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout)}
    return {**environment, **lambdas, **variables}
