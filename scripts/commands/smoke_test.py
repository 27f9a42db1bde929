"""Put one ride on a deployed consumer's stream, wait for its prediction, and check who made it.

The ride is a real one to every reader of the output stream: its ride_id begins with smoke-test.
"""

import argparse
import contextlib
import json
import sys
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3

from rides import Prediction
from scripts import cli
from scripts.aws.predictions import NotAPredictionError, read_prediction
from scripts.aws.shards import follow
from scripts.aws.stack import find_stack
from scripts.cli import CONSOLE, CommandError, printable
from scripts.localaws.setup import INPUT_STREAM, OUTPUT_STREAM

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

PROGRAM = "smoke-test"

EXAMPLES = """\
examples:
  smoke-test --stack ride-predictions
  smoke-test --stack ride-predictions-staging --profile staging --timeout 300
  smoke-test --input ride_events --output ride_predictions --version e1efc53e9bd149078b0c12aeaa6365df
"""

RIDE = {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}

UNKNOWN_VERSION = "-"
"""What a stack has as ModelVersion where only the model's own files say it."""


@dataclass(frozen=True)
class Consumer:
    """The streams of a consumer, and what it tags predictions with; None where any tag will do."""

    input: str
    output: str
    model: str | None
    version: str | None


def main() -> int:
    """Test the consumer that the command line names; return the exit code."""
    options = parse_arguments()
    cli.use_profile(options.profile)
    consumer = consumer_of(options.stack) if options.stack else named_consumer(options)
    client = boto3.client("kinesis")
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
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--stack", type=name, metavar="NAME", help="the CloudFormation stack that says all the rest but the timeout"
    )
    parser.add_argument("--input", type=name, metavar="STREAM", help=f"default: {INPUT_STREAM}")
    parser.add_argument("--output", type=name, metavar="STREAM", help=f"default: {OUTPUT_STREAM}")
    parser.add_argument("--model", type=name, metavar="NAME", help="the model's name that the prediction must have")
    parser.add_argument("--version", type=name, metavar="ID", help="the version that the prediction must have")
    parser.add_argument(
        "--timeout",
        type=cli.seconds,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait, for a new mapping and a cold start too (default: %(default)s)",
    )
    cli.add_profile(parser)
    options = parser.parse_args()
    for option in ("input", "output", "model", "version"):
        if options.stack and getattr(options, option):
            parser.error(f"--stack says what --{option} would: give one of them")
    return options


def name(text: str) -> str:
    """Return what an option was given; an empty variable of the shell's is no name. Raises ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: leave the option out, or say which")
    return text


def named_consumer(options: argparse.Namespace) -> Consumer:
    """Return the consumer that the options name, on the README's streams where they do not say."""
    return Consumer(options.input or INPUT_STREAM, options.output or OUTPUT_STREAM, options.model, options.version)


def consumer_of(stack: str) -> Consumer:
    """Return the consumer that a stack of template.yaml made, by the stack's outputs. Raises CommandError."""
    found = find_stack(stack)
    if found is None:
        raise CommandError(f"there is no stack {stack} in this account and region: deploy it, or name another one")
    outputs = found.outputs
    try:
        version = outputs["ModelVersion"]
        return Consumer(
            input=outputs["InputStreamName"],
            output=outputs["PredictionsStreamName"],
            model=outputs["ModelName"],
            version=None if version == UNKNOWN_VERSION else version,
        )
    except KeyError as error:
        raise CommandError(f"the stack {stack} has no output {error}: is it one of template.yaml?") from error


def predict(client: "KinesisClient", consumer: Consumer, timeout: float) -> tuple[Prediction, float]:
    """Put a ride and return its prediction, with the seconds from before the put until the prediction was read.

    Raises:
        CommandError: where none comes within so many seconds.
    """
    rounds = follow(client, consumer.output, "LATEST")
    next(rounds)  # from here on nothing is missed
    ride_id = f"smoke-test-{uuid.uuid4()}"
    began = time.monotonic()
    data = json.dumps({"ride": RIDE, "ride_id": ride_id}).encode()
    put = client.put_record(StreamName=consumer.input, PartitionKey=ride_id, Data=data)
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
    """Raise CommandError where another model made the prediction than the consumer is to have."""
    for what, expected in (("model", consumer.model), ("version", consumer.version)):
        found = getattr(prediction, what)
        if expected not in (None, found):
            raise CommandError(f"the prediction is of the {what} {printable(found)}, not {expected}")


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main))
