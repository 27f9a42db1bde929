"""Builders for ride events, Kinesis records and Lambda events."""

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from model_metadata import KEY
from scripts.cli import SAMPLE_MODEL
from scripts.sources.records import RideRecord, aggregate
from streaming.aggregation import MAGIC

SHARD = "shardId-000000000000"
BAD_TIMES: list[Any] = [
    *(1675240200, 1675240200.5, True, [], {}, "", "now", "2023-02-01", "20230201T083000Z", "08:30:00", "1675240200"),
    *("2023-02-29T00:00:00", "2023-02-01T24:00:00", "2023-02-01T23:59:60Z", "2023-13-01T00:00:00", "x" * 100_000),
    *("2023-02-01T08:30:00+24:00", "2023-02-01T08:30:00-99:99", "2023-02-01T08:30:00 America/New_York"),
    *("0001-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "0000-01-01T00:00:00Z", "1969-12-31T23:59:59"),
    *("2100-01-01T00:00:00", "2099-12-31T23:59:59.9999999", "9999-12-31T23:59:59", "9999-12-31T23:59:59-23:59"),
    *("9999-12-31T23:59:59.9999999Z", "10000-01-01T00:00:00Z", "\uff12023-02-01T08:30:00"),
]
"""Values that are no pickup: other types and forms, days and offsets that do not exist, and years that are not read."""


def ride_event(ride_id: object = 256, **changes: Any) -> dict[str, Any]:
    """Build the JSON of an input record; ``changes`` go into the ride, and None removes a field."""
    ride = {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66} | changes
    return {"ride": {name: value for name, value in ride.items() if value is not None}, "ride_id": ride_id}


def encoded(data: object) -> str:
    """Encode a producer's data, bytes or a value for JSON, as base64, as Lambda hands it over."""
    return base64.b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).decode()


def record(data: str, number: int = 1, shard: str = SHARD) -> dict[str, Any]:
    """Build a record of a Lambda event around base64 data."""
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": f"key-{number}",
            "sequenceNumber": str(number),
            "data": data,
            "approximateArrivalTimestamp": 1545084650.987,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard}:{number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": "arn:aws:iam::000000000000:role/lambda-role",
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/ride_events",
    }


def kinesis_event(*data: object) -> dict[str, Any]:
    """Build a Lambda event of records with sequence numbers from 1; a string is taken as base64 already."""
    return {
        "Records": [
            record(item if isinstance(item, str) else encoded(item), number) for number, item in enumerate(data, 1)
        ]
    }


def packed(*data: bytes) -> bytes:
    """Build the data of an aggregated record, in which the n-th record has the key ``key-n``."""
    (record,) = aggregate([RideRecord(f"key-{index}", item) for index, item in enumerate(data)])
    return record.data


def signed(message: bytes) -> bytes:
    """Build the data of an aggregated record around any bytes, with their digest."""
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def copy_saying(said: object, folder: Path) -> str:
    """Copy the sample model to a folder, with this as what its artifact says about the model; return the folder.

    If it is None, the artifact says nothing.
    """
    shutil.copytree(SAMPLE_MODEL, folder)
    description = yaml.safe_load((folder / "MLmodel").read_text())
    del description["metadata"]
    said_by_mlflow = {} if said is None else {"metadata": {KEY: said}}
    (folder / "MLmodel").write_text(yaml.safe_dump(description | said_by_mlflow))
    return str(folder)
