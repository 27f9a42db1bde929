"""The targets: what a model can be trained to predict about a ride, with its unit and its names in predictions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A value of a trip that a model predicts."""

    name: str
    """The name on the command line, and of the value in the web service's answers."""
    field: str
    """The name of the value in the stream's predictions."""
    unit: str
    column: str | None
    """TLC's column that has the value. The duration has none, because it is the time from pickup to dropoff."""
    least: float
    most: float
    """The range of the values, both included, that models are trained on and measured on."""
    by_card: bool = False
    """Whether TLC's column has the value only if the passenger paid by card."""


DURATION = Target("duration", "ride_duration", "minutes", None, 1, 60)
"""A shorter ride was cancelled; a longer one is a meter left on, or a taxi hired for a day."""
TARGETS = {
    target.name: target
    for target in (
        DURATION,
        # TLC's files do not have the tips that were paid in cash, and say 0 for them.
        Target("tip", "tip_amount", "dollars", "tip_amount", 0, 100, by_card=True),
        # The initial charge is 3 dollars. Refunds are negative.
        Target("fare", "fare_amount", "dollars", "fare_amount", 3, 300),
        Target("total", "total_amount", "dollars", "total_amount", 3, 400),
    )
}
"""The targets by their names."""


def find_target(name: str, unit: str) -> Target | None:
    """Return the target; None if it is the user's own, whose actual values no column of a trip record file has."""
    target = TARGETS.get(name)
    return target if target and target.unit == unit else None
