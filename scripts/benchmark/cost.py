"""What the consumer costs on Lambda, by measured times and the list price."""

import math
from dataclasses import dataclass

MEGABYTES_A_GIGABYTE = 1024


@dataclass(frozen=True)
class Price:
    """Lambda's list price in dollars, and the memory that is paid for."""

    per_gb_second: float
    per_million_requests: float
    memory_mb: int
    """1,769 MB is one vCPU."""
    date: str
    """When the price was looked up."""


def dollars_per_million_rides(batch_seconds: float, rides: int, price: Price) -> float:
    """Return what a million rides cost in batches of so many that take so long.

    Lambda bills the duration of an invocation in milliseconds, rounded up (AWS Lambda pricing).
    """
    billed_seconds = math.ceil(round(batch_seconds * 1000, 6)) / 1000
    invocation = billed_seconds * price.memory_mb / MEGABYTES_A_GIGABYTE * price.per_gb_second
    return (invocation + price.per_million_requests / 1e6) / rides * 1e6
