"""Running the project's tools as people do: their launchers, in a process of their own, in another folder."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[1]
PATIENCE = 120
"""Seconds after which a tool counts as hanging: far more than any of them takes."""


# A shell starts what it puts in the background with SIGINT ignored, and so would every tool be started by these tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Tool(subprocess.Popen[str]):
    """A tool that is running, and that does not outlive a test which fails."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for its end; after a failure, make it end."""
        if error:
            self.kill()
        super().__exit__(kind, error, traceback)


def start(name: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> Tool:
    """Start a tool in the folder, with these environment variables beside the test's own."""
    return Tool(
        [str(ROOT / "scripts" / name), *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    name: str, *arguments: str, cwd: Path = ROOT, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, and return its exit code and what it printed."""
    command = [str(ROOT / "scripts" / name), *arguments]
    env = {**os.environ, **variables}
    done = subprocess.run(command, cwd=cwd, env=env, input=stdin, capture_output=True, timeout=PATIENCE)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def failed(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with which a tool failed; it printed nothing else."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def wait_for(happened: Callable[[], object]) -> None:
    """Wait until something has happened; fail if it takes too long."""
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.02)
