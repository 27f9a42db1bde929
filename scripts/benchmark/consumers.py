"""The measured process: it loads one consumer and times batches on request.

Everything that this module imports is part of a cold start, so it imports only modules that every consumer needs too.
"""

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

COMMON, OURS_SKLEARN, OURS, FLOOR = CONSUMERS = ("common practice", "ours, sklearn", "ours", "floor")
"""``OURS`` predicts with the model's served form. ``OURS_SKLEARN`` is the same function and model, without the form."""
EMPTY = "empty floor"
"""The floor without a model, only for cold starts."""
HANDLERS = {COMMON: "scripts.benchmark.common_practice", OURS_SKLEARN: "lambda_function", OURS: "lambda_function"}
"""The modules of the consumers that are Lambda functions."""


class AmpleTimeContext:
    """A Lambda context whose deadline never comes near."""

    aws_request_id = "5d0f4f8a-3a53-4d1c-9b1f-6b8b0f3e7c11"

    def get_remaining_time_in_millis(self) -> int:
        """Return 15 minutes, the longest timeout that Lambda allows."""
        return 900_000


def main() -> None:
    """Answer each line on stdin, the size of a batch and the seconds to repeat it, with a line of measurements."""
    _, consumer, events, descriptor = sys.argv
    handle, loaded_rides = None, None
    for line in sys.stdin:
        rides, seconds = line.split()
        if handle is None or rides != loaded_rides:
            # Only one event is in memory at a time, as in Lambda, because the garbage collector scans all of them.
            handle = None
            with open(f"{events}/{rides}.json", "rb") as file:  # noqa: PTH123 - not every consumer imports pathlib
                handle = prepare(consumer, json.load(file))
            loaded_rides = rides
        measurements = [*time_batches(handle, float(seconds)), time.process_time(), peak_memory()]
        # Not print: stdout belongs to the consumer, which logs there.
        os.write(int(descriptor), f"{json.dumps(measurements)}\n".encode())


def prepare(consumer: str, event: Any) -> Callable[[], object]:
    """Load the consumer unless it is loaded, and return a function that handles the event at each call.

    The consumer reads MODEL_LOCATION (a folder), RUN_ID, PREDICTIONS_STREAM_NAME and the SDK's own variables.
    """
    if consumer not in HANDLERS:
        # Our function treats the garbage collector in this way itself, and the floor must have the same advantage.
        gc.disable()
        from scripts.benchmark import floor

        gc.freeze()
        gc.enable()
        return floor.prepare(event)
    handler = importlib.import_module(HANDLERS[consumer]).lambda_handler
    context = AmpleTimeContext()
    return lambda: handler(event, context)


def time_batches(handle: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Repeat a batch until the seconds are over, at least once; return the wall and CPU seconds of one batch."""
    batches, began, cpu_began = 0, time.perf_counter(), time.process_time()
    while batches == 0 or time.perf_counter() - began < seconds:
        handle()
        batches += 1
    return (time.perf_counter() - began) / batches, (time.process_time() - cpu_began) / batches


def peak_memory() -> int:
    """Return the largest number of bytes that the process has had in memory so far."""
    if sys.platform == "linux":
        # Not getrusage: on Linux a process inherits the peak of the process that started it.
        with open("/proc/self/status") as file:  # noqa: PTH123 - not every consumer imports pathlib
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
