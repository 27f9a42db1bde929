"""A second, independent Kinesis to test against: the npm package kinesis-local, on a free loopback port."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from scripts.localaws import server

HOME = Path(__file__).parent / "kinesis_local"


class NotInstallableError(Exception):
    """Node.js is missing or npm cannot install the package; the message says which."""


def install() -> None:
    """Install the package that the lock file names, unless it is installed already.

    Raises:
        NotInstallableError: if that is impossible.
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
    """Return the digest of the package in a lock file, or in npm's own list of installed packages."""
    digest: str = json.loads(lock.read_text())["packages"]["node_modules/kinesis-local"]["integrity"]
    return digest


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run the installed kinesis-local for the length of the block and yield its endpoint URL.

    Raises:
        RuntimeError: if it ends before it listens; its own message is on stderr.
    """
    with server.serve("kinesis-local", ["node", "serve.js"], folder=HOME) as url:
        yield url
