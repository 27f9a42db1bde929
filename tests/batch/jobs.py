"""Scoring months in tests, and reading what the job has written."""

import gzip
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import batch_job
from batch.manifests import MANIFEST, Manifest, ModelIdentity, decode_manifest
from batch.months import Month
from batch.scoring import score_file
from batch_job import Job, ScoredMonth
from features import Features
from model import Model
from settings import ModelSettings
from tests.conftest import SAMPLE_MODEL
from trips import TripFile

FEBRUARY = Month("green", 2023, 2)
DIGEST = "0123456789abcdef" * 4
IDENTITY = ModelIdentity("a-model", "a-run", "0" * 64, "predicted_duration")


@dataclass(frozen=True)
class Written:
    """The two files of a month."""

    predictions: Any
    """A pyarrow table."""
    rejections: list[dict[str, Any]]

    @property
    def ids(self) -> list[str]:
        """The ids of the predicted rows."""
        ids: list[str] = self.predictions["ride_id"].to_pylist()
        return ids

    @property
    def values(self) -> list[float]:
        """The predicted values."""
        values: list[float] = self.predictions["predicted_duration"].to_pylist()
        return values


def settings(model: str | Path = SAMPLE_MODEL, **variables: str) -> ModelSettings:
    """Build the settings of a model in a folder."""
    return ModelSettings.from_environment({"MODEL_LOCATION": str(model), **variables})


def score(
    source: str | Path, output: str | Path, using: ModelSettings | None = None, month: Month = FEBRUARY
) -> ScoredMonth:
    """Score a month."""
    return batch_job.score_month(Job(month, str(source), str(output)), using or settings())


def read(month: ScoredMonth) -> tuple[Written, Manifest]:
    """Read the folder of a month, in which there are the three files of its manifest and no others."""
    folder = Path(month.location)
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    assert {path.name for path in folder.iterdir()} == manifest.names | {MANIFEST}
    predictions, rejections = (folder / file.name for file in manifest.files)
    return read_files(predictions.read_bytes(), rejections.read_bytes()), manifest


def read_files(predictions: bytes, rejections: bytes) -> Written:
    """Read the two files of a month."""
    lines = gzip.decompress(rejections).splitlines()
    return Written(pq.read_table(io.BytesIO(predictions)), [json.loads(line) for line in lines])


def score_table(table: pa.Table, call: Any = None, digest: str = DIGEST, **options: Any) -> Written:
    """Score a table by a model that predicts a minute for each mile, or by ``call``; every row is in one file."""
    source, predictions, rejections = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, source, **options)
    source.seek(0)
    model = Model(call or predict_miles, "a-run")
    trips, outputs = TripFile(source, "trips.parquet"), (predictions, rejections)
    counts, *_ = score_file(trips, digest, model, IDENTITY, outputs, lambda *_: None)
    written = read_files(predictions.getvalue(), rejections.getvalue())
    assert (counts.predicted, counts.rejected) == (len(written.predictions), len(written.rejections))
    assert counts.rows == len(table) == counts.predicted + counts.rejected
    assert sum(counts.reasons.values()) == counts.rejected
    return written


def predict_miles(features: list[Features]) -> list[float]:
    """Predict a minute for each mile."""
    return [ride["trip_distance"] for ride in features]
