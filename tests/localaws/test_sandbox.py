"""Sandboxes: how an invocation can end, and that a new process follows one that ended."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.localaws.sandbox import EXITED, TIMED_OUT, FunctionError, Sandbox, Sandboxes
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, ROOT, wait_for

FUNCTION = """
import os
import signal
import time


def handler(event, context):
    if "print" in event:
        print(event["print"])
    if "raise" in event:
        raise ValueError(event["raise"])
    if "respond" in event:
        return object()
    if "die" in event:
        os.kill(os.getpid(), signal.SIGKILL)
    if "started" in event:
        open(event["started"], "w").close()
        time.sleep(600)
    return {"pid": os.getpid(), "left": context.get_remaining_time_in_millis()}
"""
PARENT = """
import os
import sys
from scripts.localaws.sandbox import Sandbox
sandbox = Sandbox(os.environ, 60, "soaked.handler")
print(sandbox.invoke({})["pid"], flush=True)
sandbox.invoke({"started": sys.argv[1]})
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give an environment in which there is a module with a small function."""
    (tmp_path / "soaked.py").write_text(FUNCTION)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.fixture
def sandbox(environment: dict[str, str]) -> Iterator[Sandbox]:
    """Give a sandbox for the small function."""
    sandbox = Sandbox(environment, PATIENCE, "soaked.handler")
    yield sandbox
    sandbox.close()


def test_a_sandbox_runs_the_lambda_function() -> None:
    """The function has the variables of its environment."""
    variables = {"MODEL_LOCATION": SAMPLE_MODEL, "TEST_RUN": "True"}
    sandbox = Sandbox({**os.environ, **variables}, PATIENCE)
    response = sandbox.invoke(kinesis_event(ride_event(ride_id=7)))
    sandbox.close()
    assert response["batchItemFailures"] == []
    assert response["predictions"][0]["prediction"]["ride_id"] == 7


def test_an_exception_of_the_function_is_a_function_error(sandbox: Sandbox) -> None:
    """The process lives on, also after a response that is not JSON; it may print anything."""
    pid = sandbox.invoke({"print": "hello"})["pid"]
    with pytest.raises(FunctionError, match="ValueError: no such ride"):
        sandbox.invoke({"raise": "no such ride"})
    with pytest.raises(FunctionError, match="object"):
        sandbox.invoke({"respond": "an object"})
    assert sandbox.invoke({})["pid"] == pid


def test_a_process_that_dies_is_started_again(sandbox: Sandbox) -> None:
    """Only if it dies in an invocation, the invocation has an error, as on Lambda."""
    with pytest.raises(FunctionError, match=f"{EXITED}: .* exit code -9"):
        sandbox.invoke({"die": True})
    sandbox.invoke({})
    assert sandbox.kill()
    wait_for(lambda: not sandbox.is_running)
    assert not sandbox.kill()
    sandbox.invoke({})
    assert sandbox.cold_starts == 3


def test_a_function_that_takes_too_long_is_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    """The next invocation is a cold start."""
    sandbox.timeout = 0.5
    with pytest.raises(FunctionError, match=rf"{TIMED_OUT}: .* 0\.5 seconds"):
        sandbox.invoke({"started": str(tmp_path / "started")})
    assert not sandbox.is_running
    sandbox.timeout = PATIENCE
    sandbox.invoke({})
    assert sandbox.cold_starts == 2


def test_a_function_that_cannot_be_loaded_is_a_function_error(sandbox: Sandbox) -> None:
    """Each invocation gives the reason."""
    sandbox.handler = "nowhere.handler"
    for _ in range(2):
        with pytest.raises(FunctionError, match="No module named 'nowhere'"):
            sandbox.invoke({})
        wait_for(lambda: not sandbox.is_running)


def test_one_of_several_is_killed_in_its_invocation(environment: dict[str, str], tmp_path: Path) -> None:
    """The error is counted, and the other sandboxes go on."""
    with Sandboxes(2, environment, PATIENCE, "soaked.handler") as pool, ThreadPoolExecutor() as threads:
        hanging = threads.submit(pool.invoke, {"started": str(tmp_path / "started")})
        wait_for((tmp_path / "started").exists)
        pool.kill_one(random.Random(1))  # noqa: S311
        assert EXITED in str(hanging.exception(PATIENCE))
        assert (pool.kills, pool.errors) == (1, {EXITED: 1})
        assert pool.invoke({})["pid"] != pool.invoke({})["pid"]
        assert pool.cold_starts == 3


def test_a_sandbox_ends_with_a_parent_that_is_killed(environment: dict[str, str], tmp_path: Path) -> None:
    """It ends in the middle of an invocation."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "started")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        wait_for((tmp_path / "started").exists)
        assert lives(pid)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not lives(pid))


def lives(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
