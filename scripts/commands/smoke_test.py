"""Put one ride on a deployed consumer's stream, wait for its prediction, and check which model made it.

Readers of the output stream cannot tell it from other rides but by its ride_id, which begins with smoke-test.
"""

import argparse
import contextlib
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arns import stream_parameter
from features import SAMPLE_RIDE
from rides import Prediction, RideEvent
from scripts import cli
from scripts.aws.predictions import NotAPredictionError, read_prediction
from scripts.aws.shards import follow
from scripts.aws.stack import find_stack
from scripts.cli import CONSOLE, INPUT_STREAM, OUTPUT_STREAM, CommandError, printable
from scripts.sources.records import encode_ride

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

EXAMPLES = f"""\
examples:
  smoke-test --stack ride-predictions
  smoke-test --stack ride-predictions-staging --profile staging --timeout 300
  smoke-test --input {INPUT_STREAM} --output {OUTPUT_STREAM} --version e1efc53e9bd149078b0c12aeaa6365df
"""
UNKNOWN_VERSION = "-"
"""The ModelVersion of a stack whose version is known from the model's own files alone."""


@dataclass(frozen=True)
class Consumer:
    """A consumer's streams, and the tags of its predictions; a tag that is None is not checked."""

    input: str
    output: str
    model: str | None
    version: str | None


def main() -> int:
    """Test the consumer that the command line names; return the exit code."""
    options = parse_arguments()
    cli.use_profile(options.profile)
    consumer = find_consumer(options)
    client = cli.kinesis_client(consumer.input)
    try:
        with CONSOLE.status(f"Waiting for a prediction on {consumer.output}"):
            prediction, seconds = predict(client, consumer, options.timeout)
    except client.exceptions.ResourceNotFoundException as error:
        where = f"{consumer.input} or {consumer.output} in {client.meta.region_name}"
        raise CommandError(f"there is no stream {where}: name both with --input and --output, or --stack") from error
    check(prediction, consumer)
    predicted = f"{printable(prediction.field)} {prediction.value} of {prediction.ride_id}"
    print(f"{predicted} by {printable(prediction.model)} {printable(prediction.version)} after {seconds:.2f} s")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = cli.parser(__doc__, EXAMPLES)
    text = "the CloudFormation stack, instead of all other options but --timeout and --profile"
    parser.add_argument("--stack", type=name, metavar="NAME", help=text)
    parser.add_argument("--input", type=cli.stream, metavar="STREAM", help=f"name or ARN; default: {INPUT_STREAM}")
    parser.add_argument("--output", type=cli.stream, metavar="STREAM", help=f"name or ARN; default: {OUTPUT_STREAM}")
    parser.add_argument("--model", type=name, metavar="NAME", help="the expected name of the model")
    parser.add_argument("--version", type=name, metavar="ID", help="the expected version of the model")
    text = "how long to wait, including a new mapping's start and a cold start (default: %(default)s)"
    parser.add_argument("--timeout", type=cli.seconds, default=120.0, metavar="SECONDS", help=text)
    cli.add_profile(parser)
    options = parser.parse_args()
    for option in ("input", "output", "model", "version"):
        if options.stack and getattr(options, option):
            parser.error(f"--stack says what --{option} would: give one of them")
    return options


def name(text: str) -> str:
    """Return an option's value; it is empty if a variable of the shell was. Raises ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: leave the option out, or say which")
    return text


def find_consumer(options: argparse.Namespace) -> Consumer:
    """Return the consumer of a stack, by the stack's outputs, or with the options' names. Raises CommandError."""
    stack = options.stack
    if not stack:
        return Consumer(options.input or INPUT_STREAM, options.output or OUTPUT_STREAM, options.model, options.version)
    found = find_stack(stack)
    if found is None:
        raise CommandError(f"there is no stack {stack} in this account and region: deploy it, or name another one")
    outputs = ("InputStreamName", "PredictionsStreamName", "ModelName", "ModelVersion")
    try:
        source, destination, model, version = (found.outputs[output] for output in outputs)
    except KeyError as error:
        raise CommandError(f"the stack {stack} has no output {error}: is it one of template.yaml?") from error
    return Consumer(source, destination, model, None if version == UNKNOWN_VERSION else version)


def predict(client: "KinesisClient", consumer: Consumer, timeout: float) -> tuple[Prediction, float]:
    """Put a ride and return its prediction, with the seconds from before the put until the prediction was read.

    Raises CommandError if no prediction comes within ``timeout`` seconds.
    """
    rounds = follow(client, consumer.output, "LATEST")
    next(rounds)  # opens the iterators: they see every record that is put from now on
    ride_id = f"smoke-test-{uuid.uuid4()}"
    began = time.monotonic()
    data = encode_ride(RideEvent(SAMPLE_RIDE, ride_id)).data
    put = client.put_record(**stream_parameter(consumer.input), PartitionKey=ride_id, Data=data)
    event_id = f"{put['ShardId']}:{put['SequenceNumber']}"
    for found in rounds:
        for _, record in found:
            with contextlib.suppress(NotAPredictionError):
                prediction = read_prediction(record["Data"])
                if prediction.event_id == event_id:
                    return prediction, time.monotonic() - began
        if time.monotonic() - began > timeout:
            break
    raise CommandError(
        f"no prediction of {ride_id} ({event_id}) came to {consumer.output} in {timeout:g} seconds:"
        " look at the function's log, and at the mapping's state"
    )


def check(prediction: Prediction, consumer: Consumer) -> None:
    """Raise CommandError if another model than the consumer's made the prediction."""
    for what, expected in (("model", consumer.model), ("version", consumer.version)):
        found = getattr(prediction, what)
        if expected not in (None, found):
            raise CommandError(f"the prediction is of the {what} {printable(found)}, not {expected}")
