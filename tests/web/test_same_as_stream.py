"""The web service and the stream predict the same durations, to the last bit."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts.sources.chosen import read_tlc_rides
from scripts.sources.events import kinesis_event
from scripts.sources.records import RideRecord
from scripts.sources.synthetic import generate_rides
from tests.web.conftest import WebService

RIDES, LISTED = 10_000, 1_000


@pytest.fixture(scope="module")
def records() -> list[RideRecord]:
    """Give rides of a TLC file, if TLC_DATA names the folder that has one, else synthetic ones."""
    paths = sorted(Path(os.environ["TLC_DATA"]).glob("green_tripdata_*.parquet")) if "TLC_DATA" in os.environ else []
    found = read_tlc_rides(str(paths[-1])).records if paths else generate_rides(RIDES, seed=12)
    return found[:RIDES]


@pytest.mark.slow
def test_10000_rides_have_the_same_durations(
    records: list[RideRecord], web_service: WebService, cold_start: Callable[..., ModuleType]
) -> None:
    """The size of a list or a batch does not change a bit of a duration."""
    client: Any = web_service(LOG_LEVEL="WARNING").app.test_client()
    handler = cold_start(TEST_RUN="True").lambda_handler
    response = handler(kinesis_event(records))
    expected = [found["prediction"]["ride_duration"] for found in response["predictions"]]
    ids = [found["prediction"]["ride_id"] for found in response["predictions"]]
    assert len(expected) == len(records) == RIDES

    def ask(body: bytes) -> Any:
        return client.post("/predict", data=body, content_type="application/json").json

    lists = [records[start : start + LISTED] for start in range(0, RIDES, LISTED)]
    answers = [answer for part in lists for answer in ask(b"[%b]" % b",".join(record.data for record in part))]
    assert [(answer["ride_id"], answer["duration"]) for answer in answers] == list(zip(ids, expected, strict=True))
    alone = [ask(record.data) for record in records[::37]]
    assert [answer["duration"] for answer in alone] == expected[::37]
