"""Running the project's tools as people do: their launchers, in a process of their own, in another folder."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 120
"""Seconds after which a tool counts as hanging: far more than any of them takes."""


def start(name: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """Start a tool in the folder, with these environment variables beside the test's own."""
    return subprocess.Popen(
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
