"""The consumers of the local stack: each predicts the same rides with its own model, to a stream of its own."""

import argparse
import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from rich.file_proxy import FileProxy

from artifacts import ModelError
from scripts.cli import CONSOLE, INPUT_STREAM, SAMPLE_MODELS
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
LIVE = "live"
"""The name of the consumer of ``--model``."""
NAME = re.compile("[a-z](?:[a-z0-9-]{0,28}[a-z0-9])?")
"""A consumer's name. The names of its stream and of its bucket end with it."""
SHA256 = "MODEL_SHA256"


@dataclass(frozen=True)
class LocalConsumer:
    """A consumer of the input stream: its name, its model, and where it writes."""

    name: str
    model: ModelCopy
    outputs: Outputs
    is_isolated: bool = True
    """Whether its function runs in processes of its own, and not in this one."""


@dataclass(frozen=True)
class RunningConsumer:
    """A consumer whose function is loaded and whose mapping polls the input stream."""

    name: str
    model: ModelCopy
    """The copy of the model that the function loads, with its run and its metadata."""
    outputs: Outputs
    mapping: EventSourceMapping
    delivered: "DeliveredRides"

    @property
    def is_paused(self) -> bool:
        """Whether the consumer is stopped. A batch may still be in flight."""
        return self.mapping.state != "Enabled"

    def pause(self) -> None:
        """Stop the consumer: its function gets no further batch, and the other consumers go on."""
        self.mapping.pause()

    def resume(self) -> None:
        """Start the consumer again: it continues at its checkpoint, and catches up."""
        self.mapping.resume()


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


def choose_consumers(
    model: str | None, shadow: str | None, named: Mapping[str, str] | None = None
) -> list[LocalConsumer]:
    """Copy the models of the named consumers, or else of the live consumer and of the shadow if one is chosen.

    Raises as ``setup.copy_chosen_model`` does.
    """
    if named:
        outputs = [setup.LIVE, *map(setup.outputs_of, list(named)[1:])]
        copies = [setup.copy_named(os.environ, name, location) for name, location in named.items()]
        return [LocalConsumer(*one) for one in zip(named, copies, outputs, strict=True)]
    consumers = [LocalConsumer(LIVE, setup.copy_chosen_model(os.environ, model), setup.LIVE, is_isolated=False)]
    if shadow:
        copied = setup.copy_named(os.environ, setup.SHADOW, shadow)
        consumers.append(LocalConsumer(setup.SHADOW, copied, setup.outputs_of(setup.SHADOW)))
    return consumers


def locations(text: str) -> dict[str, str]:
    """Convert an option's value, such as ``duration,tip=s3://my-models/tip``, to locations of models by name.

    Raises ArgumentTypeError.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, has_location, location = part.strip().partition("=")
        if not NAME.fullmatch(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a name of a consumer: take up to 30 lower-case letters, digits and hyphens, and begin"
                " with a letter"
            )
        if name in found:
            raise argparse.ArgumentTypeError(f"{name} is named twice: give each consumer a name of its own")
        if has_location and not location:
            raise argparse.ArgumentTypeError(f"{name}= has no location: give a folder or an s3:// URI after it")
        if not has_location and name not in SAMPLE_MODELS:
            raise argparse.ArgumentTypeError(
                f"there is no sample model {name}, only {', '.join(SAMPLE_MODELS)}: give another as {name}=LOCATION"
            )
        found[name] = location or str(SAMPLE_MODELS[name])
    return found


def label(name: str) -> str:
    """Return the name of a consumer in messages."""
    return {LIVE: "the live consumer", setup.SHADOW: "the shadow"}.get(name, f"the consumer {name}")


def announce(consumers: Sequence[LocalConsumer]) -> None:
    """Say which models run."""
    for one in consumers:
        name = {LIVE: "Model", setup.SHADOW: "Shadow"}.get(one.name, one.name)
        line = f"{name}: {one.model.location}, run {one.model.run_id}"
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def start(
    consumers: Sequence[LocalConsumer], local: LocalStack, endpoint: str, shards: int
) -> Iterator[list[RunningConsumer]]:
    """Run the consumers, whose functions have AWS at the endpoint, for the length of the block.

    Raises ModelError if a model cannot be loaded.
    """
    with contextlib.ExitStack() as stack:
        functions = [
            stack.enter_context(_start_sandboxes(one, endpoint, shards))
            if one.is_isolated
            else _load_function(one, endpoint)
            for one in consumers
        ]
        running = [_make_running(local, *pair) for pair in zip(functions, consumers, strict=True)]
        for one in running:
            stack.enter_context(one.mapping)
        yield running


Function: TypeAlias = Callable[[dict[str, Any]], object]
"""The Lambda function: takes an event and returns its response."""


def _load_function(consumer: LocalConsumer, endpoint: str) -> Function:
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
def _start_sandboxes(consumer: LocalConsumer, endpoint: str, number: int) -> Iterator[Function]:
    """Give a consumer's function, with AWS at the endpoint, for the length of the block.

    It runs in processes of its own, so that the other consumers go on if it is slow, hangs, or is out of memory.
    """
    variables, model = dict(os.environ), consumer.model
    setup.configure_function(variables, model, consumer.outputs)
    with Sandboxes(number, variables | {"AWS_ENDPOINT_URL": endpoint}, TIMEOUT_SECONDS) as sandboxes:
        try:
            # The model is loaded now. Otherwise a model that cannot be loaded would make each batch fail.
            sandboxes.invoke({"Records": []})
        except FunctionError as error:
            message = str(error).replace(model.uri, model.location)
            message = message.replace(SHA256, setup.digest_variable(consumer.name))
            raise ModelError(f"{label(consumer.name)} does not start: {message}") from error
        yield sandboxes.invoke


def _make_running(local: LocalStack, function: Function, consumer: LocalConsumer) -> RunningConsumer:
    """Return the consumer with a mapping from the input stream to its function, which does not poll yet."""
    settings, delivered = replace(MAPPING, on_failure=f"s3://{consumer.outputs.failures_bucket}"), DeliveredRides()
    mapping = EventSourceMapping(local.kinesis, local.s3, INPUT_STREAM, function, settings, on_delivered=delivered.add)
    return RunningConsumer(consumer.name, consumer.model, consumer.outputs, mapping, delivered)
