"""The consumers of the local stack: a live one, and shadows that predict the same rides to streams of their own."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.file_proxy import FileProxy

from artifacts import ModelError
from scripts.cli import CONSOLE, INPUT_STREAM
from scripts.localaws import rules, setup
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import EventRecord, MappingSettings
from scripts.localaws.sandbox import FunctionError, LambdaContext, Sandboxes
from scripts.localaws.setup import LocalStack, ModelCopy, Outputs
from streaming.records import decode_event

MAPPING = MappingSettings(
    batch_size=500, bisect_on_error=True, maximum_retry_attempts=3, report_batch_item_failures=True
)
TIMEOUT_SECONDS = 10
"""The function's timeout."""
SHA256 = "MODEL_SHA256"


@dataclass(frozen=True)
class LocalConsumer:
    """A consumer of the input stream: its model, and where it writes. The first consumer of a run is the live one."""

    model: ModelCopy
    outputs: Outputs


class DeliveredRides:
    """Counts the rides that were predicted or rejected. An aggregated record has many of them."""

    def __init__(self) -> None:
        """Start at zero."""
        self.count = 0
        self._lock = threading.Lock()

    def add(self, records: Sequence[EventRecord]) -> None:
        """Count the rides in records that the function has finished. Any thread may call this."""
        received, rejections = decode_event(rules.event_of(records))
        with self._lock:
            self.count += len(received) + len(rejections)


def choose_consumers(model: str | None, shadow: str | None) -> list[LocalConsumer]:
    """Copy the models of the live consumer and of the shadow, if there is one."""
    consumers = [LocalConsumer(setup.copy_chosen_model(os.environ, model), setup.LIVE)]
    if shadow:
        consumers.append(LocalConsumer(setup.copy_shadow(os.environ, shadow), setup.SHADOW))
    return consumers


def announce(consumers: Sequence[LocalConsumer]) -> None:
    """Say which models run."""
    for name, one in zip(("Model", "Shadow"), consumers, strict=False):
        line = f"{name}: {one.model.location}, run {one.model.run_id}"
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def start(
    consumers: Sequence[LocalConsumer], local: LocalStack, endpoint: str, shards: int, delivered: DeliveredRides
) -> Iterator[list[EventSourceMapping]]:
    """Run the consumers, whose functions have AWS at the endpoint, for the length of the block; give their mappings.

    Only the rides of the live consumer, the first one, are counted. Raises ModelError if a model cannot be loaded.
    """
    live, *shadows = consumers
    with contextlib.ExitStack() as stack:
        functions = [_load_function(live, endpoint)]
        functions += [stack.enter_context(_start_sandboxes(shadow, endpoint, shards)) for shadow in shadows]
        yield [
            stack.enter_context(_make_mapping(local, function, one.outputs, delivered))
            for function, one in zip(functions, consumers, strict=True)
        ]


def _load_function(consumer: LocalConsumer, endpoint: str) -> Callable[[dict[str, Any]], object]:
    """Return the Lambda function, cold-started, with AWS at the endpoint; it logs to stderr from now on."""
    model = consumer.model
    setup.configure_function(os.environ, model, consumer.outputs)
    usual, os.environ["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"], endpoint
    try:
        # Its logger keeps the stdout of the import. On a terminal, log lines must not break the progress bars.
        with contextlib.redirect_stdout(FileProxy(CONSOLE, sys.stderr) if CONSOLE.is_terminal else sys.stderr):
            import lambda_function
    except ModelError as error:
        raise ModelError(str(error).replace(model.uri, model.location)) from error
    os.environ["AWS_ENDPOINT_URL"] = usual
    return lambda event: lambda_function.lambda_handler(event, LambdaContext(TIMEOUT_SECONDS))


@contextlib.contextmanager
def _start_sandboxes(
    consumer: LocalConsumer, endpoint: str, number: int
) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Give a shadow's function, with AWS at the endpoint, for the length of the block.

    It runs in processes of its own, so that the live consumer goes on if it is slow, hangs, or is out of memory.
    """
    variables, model = dict(os.environ), consumer.model
    setup.configure_function(variables, model, consumer.outputs)
    with Sandboxes(number, variables | {"AWS_ENDPOINT_URL": endpoint}, TIMEOUT_SECONDS) as sandboxes:
        try:
            # The model is loaded now. Otherwise a model that cannot be loaded would make each batch fail.
            sandboxes.invoke({"Records": []})
        except FunctionError as error:
            message = str(error).replace(model.uri, model.location).replace(SHA256, f"{setup.SHADOW_PREFIX}{SHA256}")
            raise ModelError(f"the shadow does not start: {message}") from error
        yield sandboxes.invoke


def _make_mapping(
    local: LocalStack, function: Callable[[dict[str, Any]], object], outputs: Outputs, delivered: DeliveredRides
) -> EventSourceMapping:
    """Return a mapping from the input stream to a consumer's function."""
    settings = replace(MAPPING, on_failure=f"s3://{outputs.failures_bucket}")
    mapping = EventSourceMapping(local.kinesis, local.s3, INPUT_STREAM, function, settings)
    if outputs is setup.LIVE:
        mapping.on_delivered = delivered.add
    return mapping
