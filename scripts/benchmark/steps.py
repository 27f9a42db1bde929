"""How a batch's time divides into the steps of ``lambda_function``, taken from outside: nothing in it is changed.

The stopwatches cost some microseconds a step, so the times of a batch as a whole are never taken with them.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

PREDICT, MODEL = "predict", "model"
STEPS = ("decode", PREDICT, "deliver", "store", "answer")
"""The functions that ``lambda_handler`` calls. The model is called within predict."""

SHARES = ("decode", MODEL, "encode", "put", "rest")
"""What a batch's time is shown to go into.

Encoding is what predict does beside the model; the rest is the log line, the metrics and the handler itself.
"""


class Stopwatches:
    """The seconds spent in each step since they were last read."""

    def __init__(self) -> None:
        """Time the function's steps from now on."""
        import lambda_function

        self._seconds: defaultdict[str, float] = defaultdict(float)
        for name in STEPS:
            setattr(lambda_function, name, self._timed(name, getattr(lambda_function, name)))
        model: Any = lambda_function.MODEL
        model.predict = self._timed(MODEL, model.predict)

    def read(self) -> Mapping[str, float]:
        """Return the seconds of each step, and begin anew."""
        seconds, self._seconds = self._seconds, defaultdict(float)
        return seconds

    def _timed(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return step(*arguments, **named)
            finally:
                self._seconds[name] += time.perf_counter() - began

        return timed


def shares(steps: Mapping[str, float], whole: float) -> dict[str, float]:
    """Return which share of the whole each of ``SHARES`` took, given the seconds of the steps; together 1."""
    decode, model, encode, put = steps["decode"], steps[MODEL], steps[PREDICT] - steps[MODEL], steps["deliver"]
    seconds = (decode, model, encode, put, whole - decode - model - encode - put)
    return {name: part / whole for name, part in zip(SHARES, seconds, strict=True)}
