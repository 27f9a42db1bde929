"""Servers in processes of their own: each prints the loopback port that it listens on, and ends with its stdin."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HOST = "127.0.0.1"


@contextlib.contextmanager
def serve(
    name: str, command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run the server for the length of the block and yield its URL.

    ``name`` is for messages. ``folder`` and ``environment`` default to those of this process. Raises RuntimeError if
    the server ends before it listens; its own message is on stderr.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C in a terminal goes to the whole group: the server must outlive whoever still talks to it.
        start_new_session=True,
    )
    # Leaving closes the pipes, which ends the server, and waits.
    with process:
        port = process.stdout.readline().strip() if process.stdout else ""
        if not port:
            raise RuntimeError(f"{name} did not start (exit code {process.wait()})")
        yield f"http://{HOST}:{port}"


def end_with_parent() -> None:
    """End this process when its stdin ends, as it does with the parent, whatever this process is doing then."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def announce(port: int) -> None:
    """Print the port for ``serve``."""
    # Not print: if the parent has gone, Python would complain about the buffered text at exit.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{port}\n".encode())
