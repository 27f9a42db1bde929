"""Crafted and damaged files of served forms: each is refused with FormError, or has an answer to each ride.

The files are tried in a process of its own, so that a crash would be seen. With ``HYPOTHESIS_PROFILE=thorough`` they
are 100,000, all of which can be made again from their numbers.
"""

import json
import os
import random
import resource
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from model import Model, PredictionError
from rides import Ride
from served.arrays import FormError
from served.forms import read_form
from tests.core.served_files import FILES, pack, split, unpack, with_header
from tests.tools import ROOT

FILES_TRIED = 100_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 20_000
PROCESSES = 2
RIDES = [Ride(zone, 1, miles) for zone in (0, 1, 2, 7) for miles in (0.0, 0.5, 1.9, 2.0, 2.1, 100.0)]
MOST_GROWTH = 64 * 1024
"""Kilobytes by which all files together may make the process grow. The files have about one kilobyte."""
NUMBERS = [np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 0.5, 1e308, -1e308, 5e-324, 2.0**31, 2.0**53, 3.0, 4.0]
INTEGERS = [-(2**31), 2**31 - 1, -1, *range(8)]
TEXTS = ["", "\n\x1b[31m", "ü" * 50, "PU_DO", "trip_distance", "trees", "table", "linear", "names 0", "values 1"]

Change = Callable[[random.Random, bytes], bytes]


def change_bytes(draw: random.Random, content: bytes) -> bytes:
    """Flip bits, replace bytes, cut the file off, or join parts of two files."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed)) if len(changed) > 1 else 0
        match draw.randrange(4):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at] = draw.choice([0, 255, ord("9"), ord("{"), ord('"'), draw.randrange(256)])
            case 2:
                del changed[max(1, at) :]
            case _:
                other = draw.choice(list(FILES.values()))
                changed[at:] = other[draw.randrange(len(other)) :] or b"\0"
    return bytes(changed)


def change_header(draw: random.Random, content: bytes) -> bytes:
    """Change the header's JSON: the arrays' names, types, shapes and places, or a text in the description."""
    header, data = split(content)
    names = [name for name in header if name != "__metadata__"]
    for _ in range(draw.randint(1, 2)):
        entry = header[draw.choice(names)]
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        match draw.randrange(6):
            case 0:
                entry["dtype"] = draw.choice(
                    ["F64", "I64", "U64", "I32", "F32", "BF16", "F8_E4M3", "U8", "BOOL", "C64"]
                )
            case 1:
                entry["shape"] = draw.choice([[], [0], [size], [size // 8], [1, size // 8], [size // 8, 1], [0, 2**62]])
            case 2:
                one, other = draw.choice(names), draw.choice(names)
                header[one], header[other] = header[other], header[one]
            case 3:
                entry["data_offsets"][draw.randrange(2)] += draw.choice([-8, -1, 1, 8, 2**40])
            case 4:
                header |= {draw.choice(TEXTS): {"dtype": "F64", "shape": [0], "data_offsets": [len(data)] * 2}}
            case _:
                text = header["__metadata__"]["served_form"]
                at = draw.randrange(len(text))
                header["__metadata__"]["served_form"] = text[:at] + draw.choice('0159{}[]",:aé\n') + text[at + 1 :]
    return with_header(header, data)


def change_description(draw: random.Random, content: bytes) -> bytes:
    """Change a value of the description, in a file of a valid layout."""
    description, arrays = unpack(content)
    column = draw.choice(description["columns"])
    match draw.randrange(4):
        case 0:
            column["feature"] = draw.choice(TEXTS)
        case 1:
            column[draw.choice(["single", "is_category"])] = draw.choice([True, False, 1, None])
        case 2:
            description["columns"] = draw.choices(description["columns"], k=draw.choice([0, 1, 2, 3, 101]))
        case _:
            description[draw.choice(["kind", "format"])] = draw.choice([*TEXTS, 0, 1, 2, -1, 2**70, None, []])
    return pack(description, arrays)


def change_values(draw: random.Random, content: bytes) -> bytes:
    """Change the values, the length or the shape of arrays, in a file of a valid layout."""
    description, arrays = unpack(content)
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(list(arrays))
        array = arrays[name]
        at = draw.randrange(array.size) if array.size else 0
        choices = {"f": NUMBERS, "i": INTEGERS, "u": [0, 1, 255, ord("_"), ord("1")]}[array.dtype.kind]
        match draw.randrange(8):
            case 0:
                arrays[name] = array.ravel()[: max(0, array.size - draw.randint(1, 3))]
            case 1:
                arrays[name] = np.append(array, draw.choices(choices, k=draw.randint(1, 3))).astype(array.dtype)
            case 2:
                arrays[name] = array[::-1]
            case _ if array.size:
                array.flat[at] = draw.choice([*choices, array.flat[draw.randrange(array.size)]])
    return pack(description, arrays)


CHANGES: list[Change] = [change_bytes, change_header, change_description, change_values, change_values]


def make_file(number: int) -> tuple[str, bytes]:
    """Return the file with this number, and the name of the change that made it."""
    draw = random.Random(number)  # noqa: S311
    change = CHANGES[number % len(CHANGES)]
    return change.__name__, change(draw, draw.choice(list(FILES.values())))


def try_file(content: bytes) -> str:
    """Return what became of a file: refused, or how it predicts the rides."""
    try:
        form = read_form(content)
    except FormError:
        return "refused"
    answers = Model(form, "v").predict(RIDES)
    assert len(answers) == len(RIDES)
    failed = [answer for answer in answers if isinstance(answer, PredictionError)]
    assert all(np.isfinite(answer) for answer in answers if not isinstance(answer, PredictionError))
    return "predicts no ride" if len(failed) == len(RIDES) else "predicts"


def main(numbers: range) -> None:
    """Try the files with these numbers; print as JSON how many had which outcome, and the kilobytes of growth."""
    # Sums of the largest numbers are infinite, and so errors of their rides.
    warnings.simplefilter("ignore", RuntimeWarning)
    for content in FILES.values():
        assert try_file(content) == "predicts"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    for number in numbers:
        change, content = make_file(number)
        try:
            outcomes[f"{change} {try_file(content)}"] += 1
        except BaseException:
            print(f"the file {number} fails", file=sys.stderr)
            raise
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"outcomes": outcomes, "growth": growth // (1024 if sys.platform == "darwin" else 1)}))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PROCESSES))
def test_each_file_is_refused_or_predicts(part: int) -> None:
    """No file ends the process, raises another exception, loops, or takes much memory."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", __name__, str(part), str(FILES_TRIED), str(PROCESSES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(report)
    assert sum(report["outcomes"].values()) == FILES_TRIED // PROCESSES
    # Each kind of change is refused often, and often goes unseen, so that predictions are tried.
    refused, predicting = ({f"{change.__name__} {end}" for change in CHANGES} for end in ("refused", "predicts"))
    assert refused | predicting <= report["outcomes"].keys()
    assert report["growth"] < MOST_GROWTH


if __name__ == "__main__":
    main(range(*map(int, sys.argv[1:])))
