"""The flow on a Dask cluster whose worker is killed in mid-month."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.batch.flow_tools import environment, expected_files, find_files, write_months
from tests.commands.test_interrupts import descendants, is_running
from tests.tools import PATIENCE, start, wait_for

MONTHS = ["2022-11", "2022-12", "2023-01"]
COPIES = 500
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")]


def find_writers(pid: int) -> set[int]:
    """Return the processes that a process has started and that are writing a month: they hold its lock and files."""
    return {child for child in descendants(pid) if any(".unfinished-" in name for name in open_files(child))}


def open_files(pid: int) -> list[str]:
    """Return the files that a process has open."""
    try:
        return [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]  # noqa: PTH115, PTH208
    except OSError:
        return []


def test_a_month_of_a_killed_worker_is_done_again_exactly_once(tmp_path: Path) -> None:
    """One of two workers is killed in mid-month. The output is what the batch job itself writes, and nothing else."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_months(folder, MONTHS, COPIES)
    expected = expected_files(folder, MONTHS, tmp_path / "expected")
    command = ["green", "--from=2022-11", "--to=2023-01", f"--input={folder}", f"--output={output}", "--dask"]
    killed = 0
    with start("score", *command, **environment(tmp_path / "home")) as tool:

        def kill_a_writer() -> bool:
            nonlocal killed
            for pid in find_writers(tool.pid):
                # Stopped first, so that it is certainly in the middle of a month when it is killed.
                os.kill(pid, signal.SIGSTOP)
                in_the_middle = any(".unfinished-" in name for name in open_files(pid))
                os.kill(pid, signal.SIGKILL if in_the_middle else signal.SIGCONT)
                if in_the_middle:
                    killed = pid
                    return True
            return False

        wait_for(kill_a_writer)
        started = descendants(tool.pid)
        _, stderr = tool.communicate(timeout=PATIENCE)
    assert (tool.returncode, killed > 0) == (0, True), stderr
    assert find_files(output) == expected
    wait_for(lambda: not any(map(is_running, started)))
