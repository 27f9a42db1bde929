"""The fuzzer: that it finds nothing in the decoder, that it would, and what the largest inputs cost."""

import base64
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest

import rides
from rides import ReceivedRide, Rejection
from scripts.commands import fuzz, fuzz_inputs
from tests.builders import encoded, kinesis_event
from tests.tools import PATIENCE, ROOT, failed, finish

Decoded = tuple[list[ReceivedRide], list[Rejection]]

MEBIBYTE = 2**20
"""What Kinesis takes in a record."""


def data_of(event: Mapping[str, Any]) -> bytes:
    """Return what the only record of an event holds; nothing, where that is no base64."""
    (only,) = event["Records"]
    return base64.b64decode(only["kinesis"]["data"])


def raising(event: Mapping[str, Any]) -> Decoded:
    """Decode, but not what has more than 30 brackets in a row."""
    received, rejections = rides.decode(event)
    for rejection in rejections:
        if rejection.kind == "json" and b"[" * 30 in base64.b64decode(rejection.record.kinesis.data):
            raise ZeroDivisionError("too deep")
    return received, rejections


def forgetting(event: Mapping[str, Any]) -> Decoded:
    """Decode, but leave out what is no UTF-8."""
    received, rejections = rides.decode(event)
    return received, [rejection for rejection in rejections if rejection.kind != "utf-8"]


def doubling(event: Mapping[str, Any]) -> Decoded:
    """Decode, but give the first ride of an event twice."""
    received, rejections = rides.decode(event)
    return received[:1] + received, rejections


def wordless(event: Mapping[str, Any]) -> Decoded:
    """Decode, but say nothing of what is wrong with an aggregated record."""
    received, rejections = rides.decode(event)
    return received, [Rejection(one.record, one.kind, " ") if one.kind == "aggregate" else one for one in rejections]


class TestFuzzing:
    """Generated inputs."""

    def test_the_decoder_stands_them_all(self, tmp_path: Path) -> None:
        """And some of them become each of what there is; nothing is written but the table."""
        done = finish("fuzz", "--inputs", "20000", "--seed", "1", cwd=tmp_path)
        assert done.returncode == 0
        assert "20,000 inputs" in done.stdout
        kinds = ("rides", *(f"rejected: {kind}" for kind in ("base64", "aggregate", "utf-8", "json", "ride")))
        assert [kind for kind in kinds if kind not in done.stdout] == []
        assert list(tmp_path.iterdir()) == []

    def test_a_seed_gives_the_same_inputs(self) -> None:
        """And another seed gives others."""
        assert fuzz.chunk("1", 500) == fuzz.chunk("1", 500)
        assert fuzz.chunk("1", 500) != fuzz.chunk("2", 500)

    def test_the_rides_that_it_begins_with_are_good(self) -> None:
        """Or what is done to them would not matter."""
        event = fuzz.event_of([encoded(data) for data in (fuzz_inputs.GOOD, fuzz_inputs.NAMED, fuzz_inputs.ESCAPED)])
        assert fuzz.outcomes(event, rides.decode) == {"rides": 3}

    @pytest.mark.parametrize(
        ("decode", "problem"),
        [
            (raising, "ZeroDivisionError: too deep"),
            (forgetting, "BrokenPromiseError: shardId-000000000000:0 became []"),
            (doubling, "BrokenPromiseError: shardId-000000000000:0 became ['shardId-000000000000:0', "),
            (wordless, "BrokenPromiseError: a rejection of the kind 'aggregate' for the reason ' '"),
        ],
    )
    def test_a_broken_decoder_is_found_and_the_input_is_pinned(
        self, decode: Callable[[Mapping[str, Any]], Decoded], problem: str
    ) -> None:
        """The finding is an event of that one record."""
        finding = fuzz.chunk("1", 5000, decode).finding
        assert finding is not None
        assert finding.problem.startswith(problem)
        assert len(finding.event["Records"]) == 1
        with pytest.raises((ZeroDivisionError, fuzz.BrokenPromiseError)):
            fuzz.outcomes(finding.event, decode)
        assert fuzz.outcomes(finding.event, rides.decode).total() >= 1

    def test_what_only_many_records_show_is_found_with_all_of_them(self) -> None:
        """No input can be pinned then."""

        def losing(event: Mapping[str, Any]) -> Decoded:
            received, rejections = rides.decode(event)
            return received[:1], rejections

        finding = fuzz.chunk("1", 500, losing).finding
        assert finding is not None
        assert len(finding.event["Records"]) == 500

    def test_a_finding_ends_the_run_and_is_written(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """With exit code 1, and one line that names the file."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["fuzz", "--inputs", "20000", "--seed", "1"])
        monkeypatch.setattr(fuzz, "Pool", lambda initializer: ThreadPool(2))
        monkeypatch.setattr(fuzz, "chunk", functools.partial(fuzz.chunk, decode=raising))
        assert fuzz.main() == 1
        (path,) = tmp_path.iterdir()
        assert f"fuzz: ZeroDivisionError: too deep; {path.name} has the event" in capsys.readouterr().err
        assert b"[" * 30 in data_of(json.loads(path.read_text()))

    def test_a_missing_atheris_is_said_with_what_to_do(self, tmp_path: Path) -> None:
        """It is not among the locked packages."""
        if importlib.util.find_spec("atheris"):
            pytest.skip("atheris is installed")
        assert "pip install atheris" in failed(finish("fuzz", "--engine", "atheris", cwd=tmp_path))


RIDE = b'{"ride":{"PULocationID":1,"DOLocationID":2,"trip_distance":%b},"ride_id":%b}'

LARGEST = {
    "a million brackets": b"[" * 1_000_000,
    "a million brackets as a ride": b'{"ride":' + b"[" * 1_000_000 + b"]" * 40_000 + b"}",
    "objects in objects": b'{"ride":' * 131_000,
    "an unknown field that is nested": b'{"more":%b}' % (b"[" * 500_000 + b"]" * 500_000),
    "one number": b"9" * MEBIBYTE,
    "one string": b'"' + b"x" * (MEBIBYTE - 2) + b'"',
    "a distance of a million digits": RIDE % (b"0." + b"1" * 1_000_000, b"1"),
    "a huge exponent": RIDE % (b"1e" + b"9" * 1_000_000, b"1"),
    "a ride_id of a million digits": RIDE % (b"1", b"1" * 1_000_000),
    "a ride_id of a million characters": RIDE % (b"1", b'"%b"' % (b"x" * 1_000_000)),
    "many keys": b"{%b}" % b",".join(b'"%d":0' % number for number in range(95_000)),
    "many values that are no JSON": b'{"more":[%b]}' % b",".join([b"NaN"] * 260_000),
    "brackets behind what is no JSON": b'{"more":NaN,"deep":%b' % (b"[" * 1_000_000),
}

MEASURE = """
import json, sys, time, tracemalloc
import rides

event = json.load(sys.stdin)
tracemalloc.start()
began = time.monotonic()
received, rejections = rides.decode(event)
if rejections:
    rides.rejections_object(rejections)
seconds = time.monotonic() - began
_, peak = tracemalloc.get_traced_memory()
reasons = [rejection.reason for rejection in rejections]
print(json.dumps({"rides": len(received), "reasons": reasons, "seconds": seconds, "peak": peak}))
"""


@pytest.mark.parametrize("data", LARGEST.values(), ids=LARGEST)
def test_the_largest_records_are_decoded_in_bounded_memory_and_time(data: bytes) -> None:
    """In a process of its own, which a stack that overflows would end."""
    assert len(data) <= MEBIBYTE
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=json.dumps(kinesis_event(data)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["rides"] + len(measured["reasons"]) == 1
    assert all(0 < len(reason) < 1000 for reason in measured["reasons"])
    assert measured["seconds"] < 10
    assert measured["peak"] < 100 * MEBIBYTE
