"""A process in a serving environment: it loads a model as the entry points do, predicts rides, and measures itself.

``python -m scripts.models.serving_check LOCATION BEGAN`` takes a list of rides in JSON on stdin, and the pinned digest
in MODEL_SHA256. BEGAN is the time of ``time.monotonic``, which all processes share, when the process was started. Here
only the product's own modules are imported, because an image has no others.
"""

import os
import resource
import sys
import time
from pathlib import Path

import msgspec

from artifacts import ModelError
from model import load_model
from rides import Ride
from settings import read_time_zone


class ServedResult(msgspec.Struct, frozen=True):
    """What the process found out."""

    predictions: list[float | str]
    """A value for each ride, or the reason why it has none."""
    seconds: float
    """The time from the start of the process until the model was loaded."""
    peak_bytes: int
    """The largest memory of the process until the model was loaded."""
    python: str


def main() -> int:
    """Load the model, predict, print the result as JSON, and return the exit code: 1 if the model is refused."""
    rides = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Ride])
    try:
        zone = read_time_zone(os.environ)
        model = load_model(sys.argv[1], sha256=os.environ.get("MODEL_SHA256") or None, time_zone=zone)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.monotonic() - float(sys.argv[2])
    peak = find_peak_memory()
    predictions = [value if isinstance(value, float) else str(value) for value in model.predict(rides)]
    version = sys.version.partition(" ")[0]
    sys.stdout.buffer.write(msgspec.json.encode(ServedResult(predictions, seconds, peak, version)))
    return 0


def find_peak_memory() -> int:
    """Return the largest memory of this process so far, in bytes."""
    try:
        # On Linux, getrusage counts the parent too, whose copy the process was before it became Python.
        with Path("/proc/self/status").open() as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
