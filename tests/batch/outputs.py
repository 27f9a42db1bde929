"""Outputs of the batch job as other programs see them: a folder, or a bucket of moto's server."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

import batch_job
from batch import objects
from batch.manifests import MANIFEST, Manifest, decode_manifest
from batch.months import Month
from batch_job import Job
from digests import digest_of
from scripts.localaws import chaos
from scripts.localaws.chaos import ChaosEndpoint
from scripts.localaws.faults import Decide
from settings import ModelSettings
from tests.conftest import SAMPLE_MODEL
from tests.trip_records import linear_trips, trip, write

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MONTH = Month("green", 2023, 2)
VERSION = "a-run"


@dataclass(frozen=True)
class Output:
    """An output, and the files in it."""

    location: str
    s3: "S3Client | None" = None

    @property
    def month(self) -> str:
        """The location of the month's folder."""
        return f"{self.location}/{MONTH.place(VERSION)}"

    def below(self, name: str) -> "Output":
        """Return an output of its own inside this one."""
        return Output(f"{self.location}/{name}", self.s3)

    def read(self) -> dict[str, bytes]:
        """Return the content of all files of the month, by their names. There are no others in the output."""
        prefix, found = MONTH.place(VERSION), {}
        for name, content in self._read_all().items():
            assert name.startswith(f"{prefix}/"), name
            found[name.removeprefix(f"{prefix}/")] = content
        return found

    def _read_all(self) -> dict[str, bytes]:
        if self.s3:
            bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
            bodies = {key: self.s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
            return {key.removeprefix(prefix).removeprefix("/"): body for key, body in bodies.items()}
        folder = Path(self.location)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the month, as another program would."""
        if self.s3:
            bucket, _, key = f"{self.month}/{name}".removeprefix("s3://").partition("/")
            self.s3.put_object(Bucket=bucket, Key=key, Body=content)
        else:
            (Path(self.month) / name).write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file of the month, as another program would."""
        if self.s3:
            bucket, _, key = f"{self.month}/{name}".removeprefix("s3://").partition("/")
            self.s3.delete_object(Bucket=bucket, Key=key)
        else:
            (Path(self.month) / name).unlink()

    def fingerprints(self) -> dict[str, object]:
        """Return what changes with every write of a file, by the files' names."""
        if self.s3:
            bucket, _, prefix = f"{self.month}/".removeprefix("s3://").partition("/")
            found = self.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
            return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in found}
        paths = [Path(self.month), *Path(self.month).iterdir()]
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def check_nothing_half(files: dict[str, bytes]) -> Manifest | None:
    """Check that visible files are complete and the manifest's files are exact; return the manifest if there is any.

    Readers ignore names that begin with a dot.
    """
    for name, content in files.items():
        if name.startswith("part-"):
            assert sha256(content).hexdigest()[:16] == name[5:21]
            pq.read_table(io.BytesIO(content)).validate(full=True)
    if MANIFEST not in files:
        return None
    manifest = decode_manifest(files[MANIFEST])
    for file in manifest.files:
        content = files[file.name]
        assert (sha256(content).hexdigest(), len(content)) == (file.sha256, file.bytes)
    return manifest


def check_done(files: dict[str, bytes]) -> Manifest:
    """Check that the manifest's files are there, exact, and without any other file; return the manifest."""
    manifest = check_nothing_half(files)
    assert manifest
    assert set(files) == {MANIFEST, *manifest.names}
    return manifest


def digests(manifest: Manifest | None) -> tuple[str, ...]:
    """Return the digests of the input, the model and the output."""
    assert manifest
    return (manifest.input.sha256, manifest.model.sha256, *(file.sha256 for file in manifest.files))


def write_month(folder: Path, rows: int) -> Path:
    """Write a month of this many good rows and a bad one."""
    folder.mkdir(exist_ok=True)
    return write(folder / f"{rows}.parquet", [*linear_trips(rows), trip(trip_distance=1000.0)])


def copy_model(folder: Path) -> Path:
    """Copy the sample model so that its file has other bytes, and the same content."""
    shutil.copytree(SAMPLE_MODEL, folder)
    file = folder / "served_form.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    # Spaces may follow the header.
    changed = (length + 8).to_bytes(8, "little") + content[8 : 8 + length] + b" " * 8 + content[8 + length :]
    file.write_bytes(changed)
    mlmodel = folder / "MLmodel"
    mlmodel.write_text(mlmodel.read_text().replace(digest_of(content), digest_of(changed)))
    return folder


def score(
    source: Path, output: Output | str, model: str | Path = SAMPLE_MODEL, force: bool = False
) -> batch_job.ScoredMonth:
    """Score the month in this process."""
    location = output.location if isinstance(output, Output) else output
    settings = ModelSettings.from_environment({"MODEL_LOCATION": str(model), "RUN_ID": VERSION})
    return batch_job.score_month(Job(MONTH, str(source), location, force), settings)


@contextlib.contextmanager
def behind(endpoint: str, decide: Decide) -> Iterator[ChaosEndpoint]:
    """Put an endpoint that makes requests fail between the job and S3."""
    with (
        chaos.serve(endpoint, decide, keeps_requests=True, decides_all=True) as server,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("AWS_ENDPOINT_URL_S3", server.url)
        objects.client.cache_clear()
        yield server
    objects.client.cache_clear()
