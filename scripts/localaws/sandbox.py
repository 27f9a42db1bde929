"""Sandboxes as Lambda keeps them: processes that run the function, one event at a time, and that can be killed."""

import contextlib
import pkgutil
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from scripts.localaws import server

HANDLER = "lambda_function.lambda_handler"
INIT_SECONDS = 60.0
"""The time for a cold start. Lambda gives it ten seconds, but on cores that do less beside it."""
EXITED, TIMED_OUT = "Runtime.ExitError", "Sandbox.Timedout"
"""Lambda's names of the function errors that are not exceptions of the function."""


class LambdaContext:
    """The context of an invocation that begins now and has this many seconds."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self.aws_request_id = str(uuid.uuid4())
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function's timeout."""
        return int((self._end - time.monotonic()) * 1000)


class FunctionError(Exception):
    """An invocation ended without a response: the function raised, timed out, or its process ended."""

    def __init__(self, kind: str, message: str) -> None:
        """Take the error's type, as Lambda names it in its response, and its message."""
        self.kind = kind
        super().__init__(f"{kind}: {message}")


@dataclass(eq=False)
class Sandbox:
    """A process that runs the function. The first invocation starts it, and so does the first after its end."""

    environment: Mapping[str, str]
    """The process's whole environment. Its working folder is the project's."""
    timeout: float
    """The function's timeout in seconds; a cold start does not count."""
    handler: str = HANDLER
    cold_starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _connection: Connection = field(init=False)

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def invoke(self, event: object) -> Any:
        """Invoke the function and return its response. Event and response go through JSON. Raises FunctionError."""
        if not self.is_running:
            self._start()
            self._receive(INIT_SECONDS)
        try:
            self._connection.send_bytes(msgspec.json.encode((event, self.timeout)))
        except OSError as error:
            raise self._exited() from error
        return self._receive(self.timeout)

    def kill(self) -> bool:
        """Kill the process with SIGKILL, from any thread, and return whether there was one."""
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.kill()
        return True

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process:
            self.kill()
            # Leaving the block closes its stdin too.
            with self._process:
                self._connection.close()

    def _start(self) -> None:
        self.close()
        self.cold_starts += 1
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scripts.localaws.sandbox", str(theirs.fileno()), self.handler],
                cwd=Path(__file__).parents[2],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal goes to the whole group, but batches in flight must still be answered.
                start_new_session=True,
            )

    def _receive(self, seconds: float) -> Any:
        try:
            if not self._connection.poll(seconds):
                self.close()
                raise FunctionError(TIMED_OUT, f"no answer after {seconds:g} seconds")
            response, error = msgspec.json.decode(self._connection.recv_bytes())
        except (EOFError, OSError) as broken:
            raise self._exited() from broken
        if error:
            raise FunctionError(*error)
        return response

    def _exited(self) -> FunctionError:
        code = self._process.wait() if self._process else None
        return FunctionError(EXITED, f"the process ended with exit code {code}")


class Sandboxes(contextlib.AbstractContextManager["Sandboxes"]):
    """As many sandboxes as there may be invocations at once; their processes end with a ``with`` block."""

    def __init__(self, number: int, environment: Mapping[str, str], timeout: float, handler: str = HANDLER) -> None:
        """Prepare the sandboxes; see ``Sandbox`` for the other arguments."""
        self.errors: Counter[str] = Counter()
        """How many invocations ended in a function error, by the error's type."""
        self.kills = 0
        self._sandboxes = [Sandbox(environment, timeout, handler) for _ in range(number)]
        self._free: SimpleQueue[Sandbox] = SimpleQueue()
        for sandbox in self._sandboxes:
            self._free.put(sandbox)
        self._counting = threading.Lock()

    def __exit__(self, *_: object) -> None:
        """End their processes."""
        for sandbox in self._sandboxes:
            sandbox.close()

    @property
    def cold_starts(self) -> int:
        """How many processes were started."""
        return sum(sandbox.cold_starts for sandbox in self._sandboxes)

    def invoke(self, event: object) -> Any:
        """Invoke the function in the next free sandbox: see ``Sandbox.invoke``."""
        sandbox = self._free.get()
        try:
            return sandbox.invoke(event)
        except FunctionError as error:
            with self._counting:
                self.errors[error.kind] += 1
            raise
        finally:
            self._free.put(sandbox)

    def kill_one(self, draw: random.Random) -> None:
        """Kill the process of one sandbox, drawn from those that have one."""
        running = [sandbox for sandbox in self._sandboxes if sandbox.is_running]
        if running and draw.choice(running).kill():
            self.kills += 1

    @contextlib.contextmanager
    def killing(self, every: float, draw: random.Random) -> Iterator[None]:
        """Kill processes for the length of the block, one after ``every`` seconds on average; 0 is never."""
        ended = threading.Event()

        def kill() -> None:
            while every and not ended.wait(draw.uniform(0, 2 * every)):
                self.kill_one(draw)

        thread = threading.Thread(target=kill, name="killing")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def main() -> None:
    """Be a sandbox's process: load the function, and answer the events that come over the connection.

    An answer is a pair: the response, and an error's type and message or None. The first one says that loading is done.
    """
    server.end_with_parent()
    _, descriptor, name = sys.argv
    with Connection(int(descriptor)) as connection:
        try:
            handler: Callable[[Any, LambdaContext], Any] = pkgutil.resolve_name(name)
        except Exception as error:
            connection.send_bytes(_encode_error(error))
            return
        connection.send_bytes(msgspec.json.encode((None, None)))
        with contextlib.suppress(EOFError):  # the parent has closed its end
            while True:
                event, seconds = msgspec.json.decode(connection.recv_bytes())
                connection.send_bytes(_answer(handler, event, seconds))


def _answer(handler: Callable[[Any, LambdaContext], Any], event: object, seconds: float) -> bytes:
    try:
        return msgspec.json.encode((handler(event, LambdaContext(seconds)), None))
    except Exception as error:
        return _encode_error(error)


def _encode_error(error: Exception) -> bytes:
    return msgspec.json.encode((None, (type(error).__name__, str(error))))


if __name__ == "__main__":
    main()
