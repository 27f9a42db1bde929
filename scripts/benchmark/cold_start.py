"""A process's first prediction: load a consumer, handle one event, and say what that took.

It imports as little as it can, for all that it imports is counted.
"""

import json
import os
import sys

from scripts.benchmark.consumers import prepared


def main() -> None:
    """Handle the event in the file, and write a line with the number of modules and the bytes of memory at the peak."""
    _, consumer, event, descriptor = sys.argv
    with open(event, "rb") as file:  # noqa: PTH123 - pathlib is one of those that not every consumer imports
        handle = prepared(consumer, json.load(file))
    handle()
    line = f"{len(sys.modules)} {peak_memory()}\n"
    os.write(int(descriptor), line.encode())


def peak_memory() -> int:
    """Return the most bytes that the process has had in memory at once.

    On Linux ``getrusage`` will not do: there a process inherits the peak of the one that started it.
    """
    if sys.platform == "linux":
        with open("/proc/self/status") as file:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
