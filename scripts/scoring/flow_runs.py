"""A run of the flow in a process of its own, with a temporary Prefect server unless PREFECT_API_URL names one.

The process leads a group, with the server and the Dask workers in it. Its stdin is a pipe from the command: when the
pipe closes, because the command ended or was killed, the process kills the group. Nothing is left running, and the
months that it was writing are safe.
"""

import atexit
import contextlib
import http.client
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


def run_flow(parameters: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Run the flow. Return the rows of its table and the error with which it failed, in one line, or an empty text."""
    command = [sys.executable, "-m", __name__, json.dumps(parameters)]
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
        return [], f"the flow's process ended with exit code {process.returncode}; its messages are above"
    rows, error = json.loads(answer)
    return rows, error


def main() -> None:
    """Run the flow with the parameters on the command line, and print what ``run_flow`` returns as JSON."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    rows, error = [], ""
    try:
        if not os.environ.get("PREFECT_API_URL"):
            start_temporary_server()
        # Imported here, after the variable is set, because Prefect reads it once.
        import batch_flow

        rows = batch_flow.score_months(**json.loads(sys.argv[1]))
    except Exception as failure:
        # Prefect has logged the traceback of an error that nobody expects.
        rows, error = getattr(failure, "rows", []), " ".join(str(failure).split()) or type(failure).__name__
    print(json.dumps([rows, error]), flush=True)


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
    """Let a process end."""
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
