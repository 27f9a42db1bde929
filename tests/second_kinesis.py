"""A second, independent Kinesis to test against: the npm package kinesis-local, on a free loopback port."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

HOME = Path(__file__).parent / "kinesis_local"


class NotInstallableError(Exception):
    """Node.js is missing or npm cannot install the package; the message says which."""


def install() -> None:
    """Install what the lock file names, where it is not there already.

    Raises:
        NotInstallableError: where that is impossible.
    """
    for program in ("node", "npm"):
        if not shutil.which(program):
            raise NotInstallableError(f"there is no {program} on PATH")
    installed = HOME / "node_modules" / ".package-lock.json"
    if installed.exists() and _digest(installed) == _digest(HOME / "package-lock.json"):
        return
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=HOME,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotInstallableError(f"npm ci in {HOME}: {' '.join(done.stderr.split())}")


def _digest(lock: Path) -> str:
    """Return the digest of the package that a lock file, or npm's note of what it installed, names."""
    digest: str = json.loads(lock.read_text())["packages"]["node_modules/kinesis-local"]["integrity"]
    return digest


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run kinesis-local, which is installed, for the length of the block and yield its endpoint URL.

    Raises:
        RuntimeError: where it ends before it listens; what it said stands on stderr.
    """
    process = subprocess.Popen(
        ["node", "serve.js"],
        cwd=HOME,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C goes to the whole group: the server must outlive the tests that still talk to it.
        start_new_session=True,
    )
    # Leaving closes the pipes and waits; that its stdin ends is what ends the server.
    with process:
        port = process.stdout.readline().strip() if process.stdout else ""
        if not port:
            raise RuntimeError(f"kinesis-local did not start (exit code {process.wait()})")
        yield f"http://127.0.0.1:{port}"
