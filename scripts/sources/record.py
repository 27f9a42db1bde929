"""A ride as it is put on a stream."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RideRecord:
    """Data for a stream, which need not be a good ride, and its partition key: the ride_id as text where it has one."""

    partition_key: str
    data: bytes
