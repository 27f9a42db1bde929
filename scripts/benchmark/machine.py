"""The machine that a benchmark ran on: what its times depend on."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmark.processes import THREADS


def describe_machine(packages: Sequence[str]) -> dict[str, object]:
    """Return the properties of the machine, and the versions of the packages, that times depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": next(names, platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        **{package: importlib.metadata.version(package) for package in packages},
        **{name: os.environ.get(name, "not set") for name in THREADS},
    }
