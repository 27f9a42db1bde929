"""The rides of the input stream, and the outcome of each with each consumer. Each ride counts once, in a few bytes."""

from array import array
from collections import defaultdict
from typing import NamedTuple

PREDICTED, REJECTED, GIVEN_UP = 1, 2, 4
"""The bits of a consumer's mark for a ride."""


class RidePlace(NamedTuple):
    """A ride's place: its shard, and how many rides came before it on this shard."""

    shard_id: str
    ride: int


class InputRides:
    """The rides of the input stream.

    A ride takes four bytes for its arrival, and a record eight for its first ride. This relies on sequence numbers that
    count a shard's records from 1 on without a gap, as moto's do.
    """

    def __init__(self, began: float) -> None:
        """Begin without rides. Arrivals are kept as seconds since ``began``, which is in seconds since the epoch."""
        self.count = 0
        self._began = began
        self._arrivals: defaultdict[str, array[float]] = defaultdict(lambda: array("f"))
        # A shard's list has the index of the first ride of each record; the number of all its rides is the last entry.
        self._firsts: defaultdict[str, array[int]] = defaultdict(lambda: array("Q", [0, 0]))

    def add(self, shard_id: str, number: int, arrived: float, rides: int) -> None:
        """Add the next record of a shard, which has this many rides."""
        firsts, arrivals = self._firsts[shard_id], self._arrivals[shard_id]
        if number != len(firsts) - 1:
            last = len(firsts) - 2
            raise ValueError(f"{shard_id} has record {number} after record {last}: the page needs moto's numbers")
        arrivals.extend([arrived - self._began] * rides)
        firsts.append(len(arrivals))
        self.count += rides

    def arrival(self, place: RidePlace) -> float:
        """Return when the ride arrived, in seconds since the epoch."""
        return self._arrivals[place.shard_id][place.ride] + self._began

    def find(self, event_id: str) -> RidePlace | None:
        """Return a ride's place; None if it was not read yet, or if no ride has this event id."""
        shard_id, rides = self._find_rides(event_id)
        index = event_id.split(":")[2:]
        offset = int(index[0]) if index and index[0].isdecimal() else 0
        return RidePlace(shard_id, rides[offset]) if offset < len(rides) else None

    def find_record(self, event_id: str) -> list[RidePlace]:
        """Return the places of all rides in a record: an empty list if it was not read yet, or does not exist."""
        shard_id, rides = self._find_rides(event_id)
        return [RidePlace(shard_id, index) for index in rides]

    def _find_rides(self, event_id: str) -> tuple[str, range]:
        shard_id, _, rest = event_id.partition(":")
        number = rest.partition(":")[0]
        firsts = self._firsts.get(shard_id)
        if firsts is None or not number.isdecimal() or not 0 < int(number) < len(firsts) - 1:
            return shard_id, range(0)
        return shard_id, range(firsts[int(number)], firsts[int(number) + 1])


class Outcomes:
    """The outcome of each ride with one consumer: a byte for each ride."""

    def __init__(self) -> None:
        """Begin without outcomes."""
        self.predicted = self.rejected = self.given_up = self.settled = 0
        self._marks: defaultdict[str, bytearray] = defaultdict(bytearray)

    def mark(self, place: RidePlace, outcome: int) -> bool:
        """Note that a ride has this outcome, and return whether that is new.

        A ride that was given up counts as such only as long as it is neither predicted nor rejected.
        """
        marks = self._marks[place.shard_id]
        if place.ride >= len(marks):
            marks.extend(bytes(place.ride + 1 - len(marks)))
        before = marks[place.ride]
        if before & outcome:
            return False
        marks[place.ride] = after = before | outcome
        self.predicted += outcome == PREDICTED
        self.rejected += outcome == REJECTED
        was_settled, is_settled = before & ~GIVEN_UP, after & ~GIVEN_UP
        self.settled += bool(is_settled) - bool(was_settled)
        self.given_up += (after == GIVEN_UP) - (before == GIVEN_UP)
        return True
