"""The rides that a model is trained on, and the later ones that it is measured on."""

import datetime
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts import cli
from scripts.commands import train
from scripts.models.months import read_months, read_newest_month
from targets import DURATION
from tests.trip_records import trip, write

JANUARY, FEBRUARY = datetime.datetime(2023, 1, 30, 9), datetime.datetime(2023, 2, 1, 9)
NEVER_SET = datetime.datetime(2008, 12, 31, 23)
IN_THE_FUTURE = datetime.datetime(2090, 1, 1)


def trips(first: datetime.datetime, number: int = 40, *odd: datetime.datetime) -> list[dict[str, Any]]:
    """Build trips that begin a minute after each other, each with a distance of its own, and trips of odd clocks."""
    begins = [*odd, *(first + datetime.timedelta(minutes=minute) for minute in range(number))]
    lasts = datetime.timedelta(minutes=20)
    return [
        trip(pickup=pickup, dropoff=pickup + lasts, trip_distance=1 + place / 1000)
        for place, pickup in enumerate(begins)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with the files of two months, in which some clocks are wrong."""
    write(tmp_path / "green-1", trips(JANUARY, 40, NEVER_SET, IN_THE_FUTURE))
    write(tmp_path / "green-2", trips(FEBRUARY, 40, NEVER_SET))
    write(tmp_path / "yellow-1", trips(JANUARY), "yellow")
    write(tmp_path / "yellow-2", trips(FEBRUARY), "yellow")
    return tmp_path


@pytest.mark.parametrize(
    ("files", "validate", "expected"),
    [
        (["green-2", "green-1"], [], (["green-1"], ["green-2"])),
        (["yellow-2", "green-1", "green-2", "yellow-1"], [], (["green-1", "yellow-1"], ["yellow-2", "green-2"])),
        (["green-2"], ["green-1", "yellow-1"], (["green-2"], ["green-1", "yellow-1"])),
    ],
    ids=["the order of the files does not matter", "two colours", "files to measure on"],
)
def test_the_last_month_is_held_out(
    folder: Path, files: list[str], validate: list[str], expected: tuple[list[str], list[str]]
) -> None:
    """Clocks of 2008 and of the future do not change which month it is."""
    paths, others = ([str(folder / name) for name in names] for names in (files, validate))
    parts = read_months(paths, others, DURATION)
    assert [list(part.files) for part in parts] == list(expected)
    sizes = {"green-1": 42, "green-2": 41, "yellow-1": 40, "yellow-2": 40}
    for part in parts:
        assert len(part.rides) == len(part.values) == sum(sizes[name] for name in part.files)


def test_the_last_fifth_of_one_month_is_held_out(tmp_path: Path) -> None:
    """The rides of all files are in the order of their pickups, and each is on one side."""
    files = [str(write(tmp_path / name, trips(JANUARY, 50))) for name in ("a", "b")]
    earlier, later = read_months(files, [], DURATION)
    assert (len(earlier.rides), len(later.rides)) == (80, 20)
    assert earlier.pickups.max() < later.pickups.min()
    both = [*earlier.rides, *later.rides]
    every = read_months(files[:1], files[1:], DURATION)
    assert Counter(both) == Counter([*every[0].rides, *every[1].rides])


def test_retraining_learns_from_the_newest_month_too(folder: Path) -> None:
    """Of the newest month, only the last fifth is held out."""
    paths = [str(folder / name) for name in ("green-2", "yellow-1", "yellow-2")]
    training, validation, newest = read_newest_month(paths, DURATION)
    assert (training.files, validation.files) == (("yellow-1", "green-2", "yellow-2"), ("green-2", "yellow-2"))
    assert (len(training.rides), len(validation.rides), len(newest.rides)) == (40 + 65, 16, 81)
    assert training.pickups.max() <= validation.pickups.min()


@pytest.mark.parametrize(
    ("odd", "usual"),
    [((), 2000), ((NEVER_SET, IN_THE_FUTURE), 2000), ((NEVER_SET,) * 3, 2003)],
    ids=["none", "two in a thousand clocks", "three in a month"],
)
def test_a_pickup_is_usual_if_its_month_has_a_thousandth_of_the_rides(
    tmp_path: Path, odd: Sequence[datetime.datetime], usual: int
) -> None:
    """The range of a file's rides is that of the usual pickups."""
    file = write(tmp_path / "a", trips(JANUARY, 2000, *odd))
    part, _ = read_months([str(file)], [str(write(tmp_path / "b", trips(FEBRUARY)))], DURATION)
    assert (int(part.is_usual.sum()), len(part.rides)) == (usual, 2000 + len(odd))
    last = JANUARY + datetime.timedelta(minutes=1999)
    first = JANUARY if usual == 2000 else NEVER_SET
    assert (part.first, part.last) == (first.isoformat(), last.isoformat())


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        pytest.param(None, ["a.parquet"], "a.parquet: there is no such file", id="no file"),
        pytest.param(
            [*trips(JANUARY, 9), trip(600)],
            ["a.parquet"],
            "a.parquet: of its rides fewer than 10 have a duration of 1 to 60 minutes, and go at most 100 miles",
            id="too few rides",
        ),
        pytest.param(
            trips(JANUARY),
            ["a.parquet", "--validate", "a.parquet"],
            "a.parquet is named twice: a model is measured on other rides than it is trained on",
            id="twice",
        ),
        pytest.param(
            trips(JANUARY),
            ["a.parquet", "--validate", "link.parquet"],
            "link.parquet is named twice: a model is measured on other rides than it is trained on",
            id="twice, by a link",
        ),
    ],
)
def test_files_that_cannot_be_used_are_one_line(
    tmp_path: Path,
    content: list[dict[str, object]] | None,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command fails before anything is logged."""
    if content is not None:
        write(tmp_path / "a.parquet", content)
    (tmp_path / "link.parquet").symlink_to("a.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    assert cli.run(train.main, explained=train.EXPLAINED) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"train: {message}"
    assert not (tmp_path / "mlflow.db").exists()


def test_the_name_of_a_file_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are no markup, and control characters do not reach the terminal."""
    file = write(tmp_path / "[@click=f(] \x1b[31m.parquet", trips(JANUARY))
    read_months([str(file)], [], DURATION)
    assert capsys.readouterr().err.startswith("[@click=f(] \\x1b[31m.parquet: 40 rides")
