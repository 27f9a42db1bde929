"""A run of a Prefect flow in a process of its own, with a temporary server unless PREFECT_API_URL names one.

The process leads a group, with the server and the Dask workers in it. Its stdin is a pipe from the command: when the
pipe closes, because the command ended or was killed, the process kills the group. Nothing is left running, and a run
of the same flow completes what this one was writing.
"""

import atexit
import contextlib
import http.client
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from scripts.cli import CommandError, find_free_port

NOT_TRACKED = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
"""Prefect's two switches against telemetry, of the client and of the server."""
HOST = "127.0.0.1"
POLL_SECONDS = 0.1
GRACE_SECONDS = 5
"""How long an interrupted run may take to report this to Prefect, and how long a server may take to end."""


def run_flow(entrypoint: str, parameters: dict[str, Any]) -> tuple[Any, str]:
    """Run a flow, such as "batch_flow:score_months", in a process of its own. Return what ``call_flow`` returns."""
    command = [sys.executable, "-m", __name__, entrypoint, json.dumps(parameters)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, env={**NOT_TRACKED, **os.environ}, text=True, start_new_session=True
    ) as process:
        try:
            answer = process.stdout.readline() if process.stdout else ""
            # The process still sends its last logs.
            wait(process)
        except BaseException:
            process.terminate()
            wait(process)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if not answer:
        return None, f"the flow's process ended with exit code {process.returncode}; its messages are above"
    result, error = json.loads(answer)
    return result, error


def main() -> None:
    """Run the flow with the parameters on the command line, and print what ``call_flow`` returns as JSON."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        if not os.environ.get("PREFECT_API_URL"):
            start_temporary_server()
    except CommandError as error:
        answer: tuple[Any, str] = None, str(error)
    else:
        # stdout is for the answer alone.
        with contextlib.redirect_stdout(sys.stderr):
            answer = call_flow(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps(answer), flush=True)


def call_flow(entrypoint: str, parameters: dict[str, Any]) -> tuple[Any, str]:
    """Run a flow here. Return its result, and the error with which it failed, in one line, or an empty text.

    If it failed, the result is what its error has in ``result``.
    """
    module, _, name = entrypoint.partition(":")
    try:
        # Imported after PREFECT_API_URL is set, because Prefect reads it once.
        return getattr(importlib.import_module(module), name)(**parameters), ""
    except Exception as failure:
        # Prefect has logged the traceback of an error that nobody expects.
        return getattr(failure, "result", None), " ".join(str(failure).split()) or type(failure).__name__


def end_with_parent() -> None:
    """Kill this process and the processes that it has started when its stdin ends."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)


def start_temporary_server() -> None:
    """Start a Prefect server, and let this process and its children use it. Raises CommandError.

    Prefect would start one as well, but each Dask worker would start its own.
    """
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        hint = "set PREFECT_HOME to a folder where Prefect may keep its data"
        raise CommandError(f"{home}: cannot be written: {error.strerror}: {hint}") from error
    port = find_free_port()
    # The server prints on stdout how to use it, and its errors on stderr.
    server = subprocess.Popen(server_command(port), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    # Before Prefect is imported, so that it happens after Prefect has sent its last logs to the server.
    atexit.register(end, server)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    # Prefect would ask the proxy of http_proxy for the server.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), HOST)))
    while not is_up(port):
        if server.poll() is not None:
            raise CommandError("Prefect's temporary server could not start; its messages are above")
        time.sleep(POLL_SECONDS)


def server_command(port: int) -> list[str]:
    """Return the command that runs a Prefect server on this machine."""
    options = [f"--host={HOST}", f"--port={port}", "--no-ui", "--log-level=ERROR"]
    return [sys.executable, "-m", "prefect", "server", "start", *options]


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end."""
    process.terminate()
    wait(process)


def wait(process: subprocess.Popen[Any]) -> None:
    """Wait for the end of a process, but not for long: in the end the whole group is killed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)


def is_up(port: int) -> bool:
    """Return whether a server answers."""
    # Not urllib, which would ask the proxy of http_proxy.
    connection = http.client.HTTPConnection(HOST, port, timeout=GRACE_SECONDS)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
