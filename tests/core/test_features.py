"""The features of a ride: their names, and the hour and the weekday in every time zone and on days of clock changes."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from features import DEFAULT_FEATURES, KNOWN, SAMPLE_RIDE, NoTimeError, prepare_features, wants_time
from rides import Ride
from scripts.models.boosting import WITH_TIME, WITHOUT_TIME
from settings import DEFAULT_TIME_ZONE

NEW_YORK = DEFAULT_TIME_ZONE
SUNDAY, SATURDAY, MONDAY, WEDNESDAY = 6.0, 5.0, 0.0, 2.0


def time_of(pickup: str, zone: str) -> tuple[float | None, float | None]:
    """Return the hour and the weekday of a ride with this pickup, as JSON has it."""
    ride = Ride(130, 205, 3.66, msgspec.convert(pickup, datetime))
    features = prepare_features(ride, KNOWN, ZoneInfo(zone))
    return features.get("hour"), features.get("weekday")


@pytest.mark.parametrize(
    ("pickup", "zone", "hour", "weekday"),
    [
        # Without an offset, the time is what a clock shows, in every zone.
        *(("2023-02-01T08:30:00", zone, 8.5, WEDNESDAY) for zone in (NEW_YORK, "Asia/Kolkata", "UTC", "Europe/London")),
        ("2023-01-01T23:59:59.999999", NEW_YORK, 23 + 59 / 60 + 59 / 3600, SUNDAY),
        ("2023-01-02T00:00:00", NEW_YORK, 0.0, MONDAY),
        # 2023-03-12: clocks go from 2:00 to 3:00, and so never show 2:30.
        ("2023-03-12T02:30:00", NEW_YORK, 2.5, SUNDAY),
        ("2023-03-12T06:59:59Z", NEW_YORK, 1 + 59 / 60 + 59 / 3600, SUNDAY),
        ("2023-03-12T07:00:00Z", NEW_YORK, 3.0, SUNDAY),
        ("2023-03-12T01:59:00-05:00", NEW_YORK, 1 + 59 / 60, SUNDAY),
        ("2023-03-12T02:30:00-05:00", NEW_YORK, 3.5, SUNDAY),
        ("2023-03-12T04:30:00Z", NEW_YORK, 23.5, SATURDAY),
        ("2023-03-13T03:30:00Z", NEW_YORK, 23.5, SUNDAY),
        # 2023-11-05: clocks go from 2:00 back to 1:00, and so show 1:30 twice.
        ("2023-11-05T01:30:00", NEW_YORK, 1.5, SUNDAY),
        ("2023-11-05T05:30:00Z", NEW_YORK, 1.5, SUNDAY),
        ("2023-11-05T06:30:00Z", NEW_YORK, 1.5, SUNDAY),
        ("2023-11-05T07:00:00Z", NEW_YORK, 2.0, SUNDAY),
        ("2023-11-05T03:59:59Z", NEW_YORK, 23 + 59 / 60 + 59 / 3600, SATURDAY),
        ("2023-11-06T04:30:00Z", NEW_YORK, 23.5, SUNDAY),
        ("2023-02-01T20:00:00Z", "Asia/Kolkata", 1.5, 3.0),
        ("2023-02-01T20:00:00Z", "UTC", 20.0, WEDNESDAY),
        ("2023-03-26T00:59:00Z", "Europe/London", 59 / 60, SUNDAY),
        ("2023-03-26T01:00:00Z", "Europe/London", 2.0, SUNDAY),
        ("2023-10-29T00:30:00Z", "Europe/London", 1.5, SUNDAY),
        ("2023-10-29T01:30:00Z", "Europe/London", 1.5, SUNDAY),
    ],
)
def test_hour_and_weekday_are_those_of_the_place(pickup: str, zone: str, hour: float, weekday: float) -> None:
    """The hour and the weekday are those that a clock in the time zone shows."""
    assert time_of(pickup, zone) == (hour, weekday)


@pytest.mark.parametrize("zone", [NEW_YORK, "Asia/Kolkata", "UTC", "Europe/London"])
def test_a_moment_is_the_same_however_it_is_written(zone: str) -> None:
    """Each quarter of an hour of both clock changes has the same hour with Z, with an offset, and as local time."""
    for day in (datetime(2023, 3, 12, tzinfo=UTC), datetime(2023, 11, 5, tzinfo=UTC)):
        for quarter in range(4 * 48):
            moment = datetime.fromtimestamp(day.timestamp() + 900 * quarter, UTC)
            offsets = [moment.astimezone(ZoneInfo(other)).isoformat() for other in ("Asia/Kathmandu", NEW_YORK)]
            clock = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None).isoformat()
            found = {time_of(text, zone) for text in (moment.isoformat(), *offsets, clock)}
            assert len(found) == 1, (moment, found)


@pytest.mark.parametrize("pickup", ["1970-01-01T00:00:00+23:59", "2099-12-31T23:59:59.999999-23:59"])
@pytest.mark.parametrize("zone", ["Etc/GMT+12", "Pacific/Kiritimati", NEW_YORK])
def test_the_first_and_the_last_pickup_have_a_time(pickup: str, zone: str) -> None:
    """No sum of an offset and a zone leaves the range of Python's dates."""
    hour, weekday = time_of(pickup, zone)
    assert hour is not None
    assert 0 <= hour < 24
    assert weekday in range(7)


@pytest.mark.parametrize("names", [DEFAULT_FEATURES, WITHOUT_TIME, WITH_TIME, KNOWN, ("hour",), ("weekday",)])
def test_a_ride_has_all_features_that_a_model_wants(names: tuple[str, ...]) -> None:
    """Each ride has its pair and its distance, and no other features unless the model wants them."""
    features = prepare_features(SAMPLE_RIDE, names)
    assert features.keys() >= {*names, *DEFAULT_FEATURES}
    assert (names is DEFAULT_FEATURES) == (list(features) == ["PU_DO", "trip_distance"])
    assert ("hour" in features) == ("weekday" in features) == wants_time(names)


def test_a_ride_without_a_time_has_features_for_a_model_that_does_not_want_it() -> None:
    """A model that wants the time gets an error instead of a guess."""
    ride = Ride(130, 205, 3.66)
    expected = {"PU_DO": "130_205", "trip_distance": 3.66, "PULocationID": "130", "DOLocationID": "205"}
    assert prepare_features(ride, WITHOUT_TIME) == expected
    with pytest.raises(NoTimeError, match="has no pickup_datetime"):
        prepare_features(ride, WITH_TIME, ZoneInfo(NEW_YORK))


def test_the_zone_of_the_machine_is_never_taken() -> None:
    """A pickup with an offset needs a zone, because the machine's zone would change predictions between machines."""
    with pytest.raises(ValueError, match="needs the time zone"):
        prepare_features(Ride(130, 205, 3.66, datetime(2023, 2, 1, tzinfo=UTC)), WITH_TIME)
