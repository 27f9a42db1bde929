"""Months of trips: their names on the command line, in TLC's files and in the output."""

import re
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

from trips import COLOURS

FIRST_YEAR, LAST_YEAR = 2009, 2099
"""TLC's files begin in 2009."""
TRIP_DATA = "https://d37ci6vzurychx.cloudfront.net/trip-data/"
"""Where TLC publishes its files (TLC's page "TLC Trip Record Data")."""


class Month(NamedTuple):
    """A month of the trips of one colour of taxis. Months of one colour are in order of time."""

    colour: str
    year: int
    month: int

    @classmethod
    def of(cls, colour: str, year: int, month: int) -> "Month":
        """Return the month. Raises ValueError if there is no such month or colour."""
        if colour not in COLOURS:
            raise ValueError(f"the colour is {' or '.join(COLOURS)}, not {colour!r}")
        if not FIRST_YEAR <= year <= LAST_YEAR or not 1 <= month <= 12:
            raise ValueError(f"a month has a year from {FIRST_YEAR} and a number from 1 to 12, not {year}-{month:02}")
        return cls(colour, year, month)

    @classmethod
    def parse(cls, colour: str, text: str) -> "Month":
        """Return the month in a text such as "2023-02". Raises ValueError."""
        found = re.fullmatch("([0-9]{4})-([0-9]{2})", text)
        if not found:
            raise ValueError(f"a month is written as 2023-02, not {text!r}")
        return cls.of(colour, int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """Return the month as TLC and ISO 8601 write it, such as "2023-02"."""
        return f"{self.year:04}-{self.month:02}"

    @property
    def file_name(self) -> str:
        """The name of TLC's file."""
        return f"{self.colour}_tripdata_{self}.parquet"

    def place(self, version: str) -> str:
        """Return the folder of the month's predictions by a model, as Hive names partitions.

        Characters that a path cannot have are escaped as in a URL, and readers of such tables undo it.
        """
        model = urllib.parse.quote(version, safe="")
        return f"colour={self.colour}/year={self.year:04}/month={self.month:02}/model={model}"

    def next(self) -> "Month":
        """Return the month after this one."""
        return Month(self.colour, self.year + self.month // 12, self.month % 12 + 1)

    def before(self, months: int) -> "Month":
        """Return the month that is this many months earlier."""
        years, month = divmod(self.year * 12 + self.month - 1 - months, 12)
        return Month(self.colour, years, month + 1)


def months_between(first: Month, last: Month) -> Iterator[Month]:
    """Yield the months from the first to the last, both included. Raises ValueError if the last is before the first."""
    if last < first:
        raise ValueError(f"the last month, {last}, is before the first, {first}")
    while first <= last:
        yield first
        first = first.next()
