"""The sample events, and the files with their responses."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streaming.records import decode_event

EVENTS = Path(__file__).parents[2] / "events"
NAMES = sorted(path.stem for path in EVENTS.glob("kinesis-*.json") if ".response" not in path.name)


def load(name: str) -> Any:
    """Read one of the files."""
    return json.loads((EVENTS / f"{name}.json").read_text())


def rounded(response: dict[str, Any]) -> dict[str, Any]:
    """Round the durations, because their last digits depend on the processor."""
    return json.loads(json.dumps(response), parse_float=lambda digits: round(float(digits), 6))  # type: ignore[no-any-return]


def test_there_are_three_sample_events() -> None:
    """Without this test, the other tests would pass if there were no events."""
    assert NAMES == ["kinesis-batch", "kinesis-one", "kinesis-poison"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_gives_the_response_in_the_file(name: str, cold_start: Callable[..., ModuleType]) -> None:
    """If the sample model changes: ``./scripts/invoke events/X.json > events/X.response.json``."""
    response = cold_start(TEST_RUN="True").lambda_handler(load(name), None)
    assert rounded(response) == rounded(load(f"{name}.response"))


def test_the_well_known_event_holds_the_ride_to_put() -> None:
    """It is one ride in two forms: as a backend puts it, and as Lambda hands it over."""
    (record,) = load("kinesis-one")["Records"]
    assert json.loads(base64.b64decode(record["kinesis"]["data"])) == load("ride")


def test_the_poison_event_has_records_that_are_bad_in_different_ways() -> None:
    """Each bad record fails at another step, or because of another field."""
    received, rejections = decode_event(load("kinesis-poison"))
    assert [ride.event.ride_id for ride in received] == [1, 3, 6, 9]
    assert [rejection.kind for rejection in rejections] == ["base64", "json", "ride", "ride", "json"]
    assert ["trip_distance" in rejection.reason for rejection in rejections] == [False, False, True, True, True]


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}.response" for name in NAMES), "ride"])
def test_a_file_is_indented_for_people(name: str) -> None:
    """A change of one field then is a change of one line."""
    text = (EVENTS / f"{name}.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
