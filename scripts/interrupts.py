"""Ctrl-C, SIGTERM and SIGHUP: each ends a command with one line and exit code 130, whatever it is doing.

This module imports little, and only from the standard library, because commands import it first.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in a shell."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = "\x1b[?25h"
"""Shows the cursor of a terminal again, which progress bars hide (ECMA-48, DECTCEM)."""


def handle_with(handler: Callable[..., NoReturn]) -> None:
    """Let the function handle all three signals. A signal that was postponed arrives now.

    A signal that is ignored stays ignored, because nohup and a shell's ``&`` start commands with ignored signals.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def postpone() -> None:
    """Let signals wait until this process has become another program, which must call ``handle_with``.

    Otherwise a signal that arrives while Python starts, which takes some hundredths of a second, prints a traceback.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def end_at_once(*_: object) -> NoReturn:
    """End the process, with a line on stderr. Servers and sandboxes that it has started end with their stdin."""
    cursor, program = SHOW_CURSOR if os.isatty(2) else "", sys.argv[0].rpartition("/")[2].removesuffix(".py")
    # print() would fail if the signal came in the middle of another print(). OSError means that stderr has no reader.
    with contextlib.suppress(OSError):
        os.write(2, f"{cursor}{program}: interrupted\n".encode())
    os._exit(INTERRUPTED)


def raise_interrupt(*_: object) -> NoReturn:
    """Raise KeyboardInterrupt, so that the command cleans up. The next signal ends the process at once."""
    handle_with(end_at_once)
    sys.unraisablehook = _end_if_lost
    raise KeyboardInterrupt


def _end_if_lost(lost: "sys.UnraisableHookArgs") -> None:
    """End the process if the interrupt was raised in code whose exceptions Python only prints: a callback of the GC."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        end_at_once()
    sys.__unraisablehook__(lost)
