"""Runs a command on one core, and prints its exit code, times and peak memory: ``one_core PROGRAM ARGUMENT...``.

It is a small process of its own because a process on Linux inherits the peak memory of the process that starts it. What
the command prints to stdout is lost.
"""

import json
import os
import sys
import time


def main() -> None:
    """Run the command, and print a list in JSON: exit code, wall seconds, CPU seconds, and getrusage's peak memory."""
    if hasattr(os, "sched_setaffinity"):  # on Linux alone
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    began = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
    _, status, usage = os.wait4(process, 0)
    wall, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    print(json.dumps([os.waitstatus_to_exitcode(status), wall, cpu, usage.ru_maxrss]))


if __name__ == "__main__":
    main()
