"""Ctrl-C, SIGTERM and SIGHUP end each command with one line and exit code 130, whenever they come."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import PATIENCE, ROOT, Tool, start, wait_for
from tests.trip_records import trip, write

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
COMMANDS = sorted(path.stem.replace("_", "-") for path in ROOT.glob("scripts/commands/[!_]*.py"))
INTERRUPTED = 130
INVOKE = "invoke events/kinesis-one.json"
SWALLOWED = """
import os, signal, sys, weakref
from scripts import interrupts
sys.argv[0] = "command"
interrupts.handle_with(interrupts.raise_interrupt)
class Anything: pass
anything = Anything()
weakref.finalize(anything, print)
watched = weakref.ref(anything, lambda _: os.kill(os.getpid(), signal.SIGINT))
del anything
print("The interrupt was lost.")
"""
"""Python only prints an exception that is raised in a callback of a weak reference, and goes on."""


def descendants(pid: int) -> set[int]:
    """Return the processes that a process has started, and those that they have started."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found, more = set[int](), {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in found} - found
    return found - {pid}


def is_running(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def read_until(tool: Tool, text: str) -> str:
    """Return what a tool writes on stderr up to the end of the first line with the text."""
    assert tool.stderr
    lines = [b""]
    # Byte by byte, because ``communicate`` would lose what a buffer has read ahead.
    while byte := os.read(tool.stderr.fileno(), 1):
        lines[-1] += byte
        if byte == b"\n":
            if text.encode() in lines[-1]:
                return b"".join(lines).decode()
            lines.append(b"")
    raise AssertionError(f"no {text} in {lines}")


@pytest.mark.parametrize(
    ("name", "number"), [(name, SIGNALS[place % 3]) for place, name in enumerate(COMMANDS)], ids=COMMANDS
)
def test_a_signal_while_a_command_is_imported_is_one_line(name: str, number: signal.Signals) -> None:
    """Python reports each import, so the signal comes in the middle of them."""
    with start(name, "--no-such-option", PYTHONPROFILEIMPORTTIME="1") as tool:
        read_until(tool, "botocore.compat")
        tool.send_signal(number)
        stdout, stderr = tool.communicate(timeout=PATIENCE)
    assert [line for line in stderr.splitlines() if not line.startswith("import time:")] == [f"{name}: interrupted"]
    assert (tool.returncode, stdout) == (INTERRUPTED, "")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("command", "state"),
    [
        (["run", "--rides", "20000"], "Starting moto"),
        (["soak", "--rides", "20000"], "Soaking the consumer"),
        (["train", "trips.parquet", "--model", "forest"], "trips.parquet: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_signal_while_a_command_works_is_one_line(
    tmp_path: Path, command: list[str], state: str, number: signal.Signals
) -> None:
    """The servers that it has started end too, also if the signal comes while they start."""
    write(tmp_path / "trips.parquet", [trip(PULocationID=1 + place % 200) for place in range(20_000)])
    with start(*command, cwd=tmp_path) as tool:
        read_until(tool, state)
        if command[0] != "train":
            wait_for(lambda: descendants(tool.pid))
        started = descendants(tool.pid)
        tool.send_signal(number)
        stdout, stderr = tool.communicate(timeout=PATIENCE)
    assert [line for line in stderr.splitlines() if "━" not in line] == [f"{command[0]}: interrupted"]
    assert (tool.returncode, stdout) == (INTERRUPTED, "")
    wait_for(lambda: not any(map(is_running, started)))


def test_a_second_signal_does_not_wait_for_what_the_first_one_ends(tmp_path: Path) -> None:
    """A terminal gets its cursor back."""
    ours, theirs = pty.openpty()
    command = [str(ROOT / "scripts" / "soak"), "--rides", "20000"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, process_group=0) as soak:
        os.close(theirs)
        shown = ""

        def shows(text: str) -> bool:
            nonlocal shown
            shown += os.read(ours, 65536).decode()
            return text in shown

        wait_for(lambda: shows("Ctrl-C ends it"))
        started = descendants(soak.pid)
        assert started
        # Two signals of the same number could count as one.
        soak.send_signal(signal.SIGINT)
        soak.send_signal(signal.SIGTERM)
        assert soak.wait(PATIENCE) == INTERRUPTED
        wait_for(lambda: shows("soak: interrupted"))
    assert shown.rindex("\x1b[?25h") > shown.rfind("\x1b[?25l")
    assert "Traceback" not in shown
    wait_for(lambda: not any(map(is_running, started)))
    os.close(ours)


def test_an_interrupt_that_python_would_lose_ends_the_command() -> None:
    """The interrupt may be raised in a callback of the garbage collector, whose exceptions Python only prints."""
    done = subprocess.run([sys.executable, "-c", SWALLOWED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "command: interrupted\n")


def test_a_signal_that_comes_while_python_starts_is_one_line() -> None:
    """The launcher postpones the signal. Here it arrives before the launcher has become the command."""
    code = (
        "import os, signal, sys; from scripts import interrupts; interrupts.postpone();"
        "os.kill(os.getpid(), signal.SIGINT); os.execv(sys.executable, ['python', '-m', 'scripts.start', 'run'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "run: interrupted\n")


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """Nohup and a shell's ``&`` start a command like that."""
    ignoring = f"trap '' HUP INT; exec {ROOT}/scripts/run --rides 5"
    with Tool(
        ["bash", "-c", ignoring], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tool:
        read_until(tool, "Starting moto")
        tool.send_signal(signal.SIGHUP)
        tool.send_signal(signal.SIGINT)
        stdout, _ = tool.communicate(timeout=PATIENCE)
    assert tool.returncode == 0
    assert "Summary" in stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *(
            (f"{command} {output}", "")
            for command in ("run", INVOKE, "put-rides --help")
            for output in ("| true", ">&-")
        ),
        *((f"{command} > /dev/full", "No space left on device") for command in ("run", INVOKE)),
    ],
)
def test_an_output_that_cannot_be_written_is_no_traceback(command: str, message: str) -> None:
    """A reader such as ``head`` goes before the command ends. A full disk is an error of one line."""
    if "/dev/full" in command and not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
    shell = f"set -o pipefail; {ROOT}/scripts/{command}"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert not re.search("Traceback|Exception|Error", done.stderr)
    assert message in done.stderr
    assert done.returncode in (0, 1)
