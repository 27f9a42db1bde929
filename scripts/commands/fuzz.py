"""Look for inputs that the decoder cannot stand: random bytes, and good records of every form with something broken.

Whatever it is, each user record has to become a ride of the contract or a rejection with kind and reason, once, and all
rejections have to fit into the failures bucket's JSON lines. The first input of which that is not true ends the run: it
is written into the working folder as an event, which ./scripts/invoke takes, and the exit code is 1.
"""

import argparse
import functools
import hashlib
import importlib.util
import inspect
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pool, Process
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import msgspec
from rich.console import Console

import rides
from rides import MAX_ID_LENGTH, MAX_TRIP_DISTANCE, ReceivedRide, Rejection, RejectionKind
from scripts import cli
from scripts.cli import CommandError
from scripts.commands.fuzz_inputs import inputs_of, of_any_form, starts
from streaming import aggregation

PROGRAM = "fuzz"

EXAMPLES = """\
examples:
  fuzz
  fuzz --inputs 10000000 --seed 7
  fuzz --engine atheris --inputs 500000
"""

CHUNK = 5_000
"""Inputs that are made from one seed, which the run's seed and the chunk's number give."""

BATCH = 500
"""Inputs that are decoded as one event."""

SHARD = "shardId-000000000000"

Decode = Callable[[Mapping[str, Any]], tuple[list[ReceivedRide], list[Rejection]]]


@dataclass(frozen=True)
class Finding:
    """An event that is not decoded as it should be, and what happens instead."""

    event: Mapping[str, Any]
    problem: str


@dataclass
class Report:
    """What became of inputs."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """How many user records became rides, and how many rejections of each kind."""
    finding: Finding | None = None


class BrokenPromiseError(Exception):
    """The decoder returned what it must not return; the message says what."""


def main() -> int:
    """Fuzz as the command line asks for; return the exit code."""
    options = parse_arguments()
    seed = random.SystemRandom().randrange(cli.MAX_SEED) if options.seed is None else options.seed
    if options.engine == "atheris":
        return fuzz_by_coverage(options.inputs, seed)
    began = time.monotonic()
    return show(fuzz(options.inputs, seed), time.monotonic() - began, seed)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--inputs", type=cli.count, default=1_000_000, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=cli.seed, metavar="N", help="try the same inputs again (default: others every time)"
    )
    parser.add_argument(
        "--engine",
        choices=("random", "atheris"),
        default="random",
        help="where inputs come from: a generator, on all cores; or Google's atheris, which looks for those that reach"
        " other lines of code, on one (default: %(default)s)",
    )
    return parser.parse_args()


def show(report: Report, seconds: float, seed: int) -> int:
    """Print what became of the inputs, write the finding where there is one, and return the exit code."""
    Console().print(cli.number_table("User records", dict(report.outcomes.most_common())))
    print(f"{report.inputs:,} inputs, {report.inputs / seconds:,.0f}/s (--seed {seed})")
    if report.finding is None:
        return 0
    problem, path = cli.printable(report.finding.problem), written(report.finding.event)
    print(f"{PROGRAM}: {problem}; {path} has the event", file=sys.stderr)
    return 1


def written(event: Mapping[str, Any]) -> Path:
    """Write an event into the working folder, under a name that is its own, and return the path."""
    content = json.dumps(event, indent=2).encode()
    path = Path(f"fuzz-{hashlib.sha256(content).hexdigest()[:12]}.json")
    path.write_bytes(content)
    return path


def fuzz(inputs: int, seed: int) -> Report:
    """Try so many generated inputs on all cores, with a progress bar, up to the first finding."""
    total = Report()
    sizes = [min(CHUNK, inputs - begun) for begun in range(0, inputs, CHUNK)]
    with cli.progress_bar("inputs") as progress, Pool(initializer=_leave_signals) as pool:
        fuzzing = progress.add_task("Fuzzing", total=inputs)
        # In order, so that a seed has the same first finding however many cores there are.
        for report in pool.imap(functools.partial(_numbered_chunk, seed), enumerate(sizes)):
            progress.advance(fuzzing, report.inputs)
            total.inputs += report.inputs
            total.outcomes += report.outcomes
            total.finding = report.finding
            if total.finding:
                break
    return total


def _leave_signals() -> None:
    """Leave Ctrl-C to the process that ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _numbered_chunk(seed: int, numbered_size: tuple[int, int]) -> Report:
    number, size = numbered_size
    return chunk(f"{seed} {number}", size)


def chunk(seed: str, size: int, decode: Decode = rides.decode) -> Report:
    """Try so many inputs, which are the same for a seed, up to the first batch with a finding."""
    report = Report()
    generated = inputs_of(random.Random(seed))
    while report.inputs < size and report.finding is None:
        try_batch(list(itertools.islice(generated, min(BATCH, size - report.inputs))), report, decode)
    return report


def try_batch(batch: Sequence[str], report: Report, decode: Decode = rides.decode) -> None:
    """Try inputs in one event, and add to the report what becomes of them."""
    report.inputs += len(batch)
    try:
        report.outcomes += outcomes(event_of(batch), decode)
    except Exception:
        report.finding = pinned(batch, decode)


def pinned(batch: Sequence[str], decode: Decode) -> Finding:
    """Return the first input of a batch that is a finding by itself; the whole batch, where none is."""
    for event in (*(event_of([data]) for data in batch), event_of(batch)):
        try:
            outcomes(event, decode)
        except Exception as error:
            return Finding(event, f"{type(error).__name__}: {error}")
    return Finding(event_of(batch), "a batch that failed once, and not again")


def event_of(batch: Sequence[str]) -> dict[str, Any]:
    """Return the event of these records' data, as Lambda hands it to the function."""
    return {
        "Records": [
            {
                "kinesis": {"sequenceNumber": str(number), "partitionKey": "key", "data": data},
                "eventID": f"{SHARD}:{number}",
                "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/ride_events",
            }
            for number, data in enumerate(batch)
        ]
    }


def outcomes(event: Mapping[str, Any], decode: Decode) -> Counter[str]:
    """Decode an event and count what became of its user records.

    Raises:
        BrokenPromiseError: where that is not what the decoder promises. Whatever it raises itself is raised too.
    """
    received, rejections = decode(event)
    _check_each_is_there_once(event, received, rejections)
    for ride in received:
        _check_ride(ride)
    for rejection in rejections:
        _check_rejection(rejection)
    if rejections:
        _check_object(rejections)
    return Counter(["rides"] * len(received) + [f"rejected: {rejection.kind}" for rejection in rejections])


def _check_each_is_there_once(
    event: Mapping[str, Any], received: Sequence[ReceivedRide], rejections: Sequence[Rejection]
) -> None:
    """Want each record's event id once, or else that of each user record in it: the ids from 0 on behind it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    every: list[ReceivedRide | Rejection] = [*received, *rejections]
    for outcome in every:
        found[outcome.record.kinesis.sequence_number].append(outcome.record.event_id)
    for record in event["Records"]:
        ids = found.pop(record["kinesis"]["sequenceNumber"], [])
        packed = {f"{record['eventID']}:{place}" for place in range(len(ids))}
        if ids != [record["eventID"]] and (not ids or set(ids) != packed):
            raise BrokenPromiseError(f"{record['eventID']} became {ids[:10]}")
    if found:
        raise BrokenPromiseError(f"records that the event does not hold: {list(found)[:10]}")


def _check_ride(received: ReceivedRide) -> None:
    ride, ride_id = received.event.ride, received.event.ride_id
    is_in_contract = (
        type(ride.PULocationID) is type(ride.DOLocationID) is int
        and 0 <= ride.trip_distance <= MAX_TRIP_DISTANCE
        and type(ride_id) in (int, str)
        and 1 <= len(str(ride_id)) <= MAX_ID_LENGTH
    )
    data = rides.encode_prediction(received, 1.5, field="ride_duration", model="model", version="version")
    prediction = json.loads(data)
    if not is_in_contract or prediction["prediction"]["ride_id"] != ride_id:
        raise BrokenPromiseError(f"a ride out of the contract: {received.event}")


def _check_rejection(rejection: Rejection) -> None:
    if rejection.kind not in get_args(RejectionKind) or not rejection.reason.strip():
        raise BrokenPromiseError(f"a rejection of the kind {rejection.kind!r} for the reason {rejection.reason!r}")


def _check_object(rejections: Sequence[Rejection]) -> None:
    _, body = rides.rejections_object(rejections)
    ids = sorted(msgspec.json.decode(line)["event_id"] for line in body.splitlines())
    if ids != sorted(rejection.record.event_id for rejection in rejections):
        raise BrokenPromiseError("the failures bucket's lines are not those of the rejections")


def fuzz_by_coverage(inputs: int, seed: int) -> int:
    """Have atheris make so many inputs, up to the first finding, show what became of them; return the exit code.

    Raises:
        CommandError: where atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        raise CommandError(
            "atheris is not installed: .venv/bin/python -m pip install atheris (it is not among the locked packages)"
        )
    with tempfile.TemporaryDirectory() as corpus:
        for place, start in enumerate(starts()):
            Path(corpus, str(place)).write_bytes(start)
        # libFuzzer ends its process without what Python does at its end.
        process = Process(target=_guide, args=(inputs, seed, corpus), daemon=True)
        process.start()
        process.join()
    return 1 if process.exitcode else 0


def _guide(inputs: int, seed: int, corpus: str) -> None:
    """Run libFuzzer, which never returns, until this ends the process."""
    atheris: Any = importlib.import_module("atheris")
    for function in _functions_of(aggregation, rides):
        atheris.instrument_func(function)
    report, began = Report(), time.monotonic()

    def try_one(data: bytes) -> None:
        try_batch([of_any_form(data)], report)
        if report.finding or report.inputs == inputs:
            code = show(report, time.monotonic() - began, seed)
            sys.stdout.flush()
            os._exit(code)

    atheris.Setup([PROGRAM, f"-seed={seed}", corpus], try_one)
    atheris.Fuzz()


def _functions_of(*modules: ModuleType) -> list[Callable[..., Any]]:
    members = [(module.__name__, member) for module in modules for member in vars(module).values()]
    return [member for name, member in members if inspect.isfunction(member) and member.__module__ == name]


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main))
