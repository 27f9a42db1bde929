"""The consumers that are measured, by name. A process loads one of them, and so imports nothing for the others."""

import importlib
from collections.abc import Callable
from typing import Any

from scripts.localaws.sandbox import LambdaContext

COMMON, OURS, FLOOR = "common practice", "ours", "floor"

HANDLERS = {COMMON: "scripts.benchmark.common_practice", OURS: "lambda_function"}
"""The modules of those that are Lambda functions."""

SECONDS = 900.0
"""What Lambda gives a function at most: none of them is to hurry."""


def prepared(consumer: str, event: Any) -> Callable[[], object]:
    """Load the consumer, if this process has not yet, and return what handles the event at each call.

    What it needs of its environment: MODEL_LOCATION, a folder; RUN_ID; PREDICTIONS_STREAM_NAME; and the SDK's own.
    """
    if consumer == FLOOR:
        from scripts.benchmark import floor

        batch = floor.made_ready(event)
        return lambda: floor.handle(batch)
    handler = importlib.import_module(HANDLERS[consumer]).lambda_handler
    return lambda: handler(event, LambdaContext(SECONDS))
