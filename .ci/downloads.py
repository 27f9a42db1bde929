"""Downloads that only tests and the stand-in need: wheels for Lambda's Python, and AWS's emulator of Lambda."""

import platform
import re
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from scripts.environment import ROOT
from scripts.image.wheels import run_pip

LOCKED = (ROOT / ".github" / "requirements.txt").read_text().replace("\\\n", "")
WHEEL = re.findall("^aws-sam-cli==.*", LOCKED, re.MULTILINE)[0]
"""The SAM CLI as it is locked, with its hash: its wheel contains AWS's builds of the emulator."""
VERSION = re.split("[= ]+", WHEEL)[1]

BUILDS = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}
"""The builds' file names by architecture; all of them are for Linux."""


def fetch_wheels(requirements: Sequence[str], architecture: str, folder: Path) -> None:
    """Download the wheels of the requirements into the folder. Raises CommandError."""
    run_pip("download", [f"--dest={folder}"], requirements, architecture)


def install_wheels(requirements: Sequence[str], architecture: str, folder: Path) -> None:
    """Unpack the wheels into the folder, for another interpreter than this one. Raises CommandError."""
    run_pip("install", ["--ignore-installed", "--no-compile", f"--target={folder}"], requirements, architecture)


def installed_emulator() -> Path:
    """Return the emulator's path in this environment; download it the first time. Raises CommandError."""
    emulator = Path(sys.prefix) / "bin" / f"aws-lambda-rie-of-sam-cli-{VERSION}"
    if not emulator.exists():
        fetch_emulator(emulator)
    return emulator


def fetch_emulator(path: Path) -> None:
    """Download the emulator for this machine to an executable file of that path. Raises CommandError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetch_wheels([WHEEL], platform.machine(), Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            build = Path(archive.extract(f"samcli/local/rapid/{BUILDS[platform.machine()]}", folder))
        build.chmod(0o755)
        # Renaming is atomic: an interruption leaves no half of an emulator under the path.
        build.replace(path)
