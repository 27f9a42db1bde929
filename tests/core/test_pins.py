"""``MODEL_SHA256`` as the digest of a whole folder: a change anywhere in the folder is refused by each entry point."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from artifacts import FolderArtifact, ModelError
from batch_job import identify_model
from digests import MANIFEST, digest_of, digest_of_files
from model import describe_model, load_model
from rides import Ride
from settings import ModelSettings
from tests.conftest import SAMPLE_MODEL
from tests.tools import PATIENCE, ROOT
from tests.trip_records import linear_trips, write

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FORM = "served_form.safetensors"
FILES = ("MLmodel", FORM, "baseline.json", MANIFEST)
"""The files of a published model."""
RIDE = Ride(130, 205, 3.66)
PLACES = {"first": lambda size: 0, "middle": lambda size: size // 2, "last": lambda size: size - 1}

Change = Callable[[Path], Any]


def digest_of_folder(folder: str | Path) -> str:
    """Return the digest of a folder's files."""
    artifact = FolderArtifact(str(folder))
    return digest_of_files({name: artifact.read(name) for name in artifact.names()})


def flip(path: Path, place: Callable[[int], int] = PLACES["middle"]) -> None:
    """Flip the lowest bit of a byte."""
    content = bytearray(path.read_bytes())
    content[place(len(content))] ^= 1
    path.write_bytes(content)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Give a folder with the files of a published model."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("MLmodel", FORM, "baseline.json"):
        shutil.copyfile(Path(SAMPLE_MODEL, name), folder / name)
    sizes = {path.name: (path.stat().st_size, digest_of(path.read_bytes())) for path in folder.iterdir()}
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sizes.items()}
    (folder / MANIFEST).write_text(json.dumps({"files": files, "format": 1}))
    return folder


@pytest.fixture(params=["folder", "S3"])
def place(request: pytest.FixtureRequest, published: Path, s3: "S3Client", bucket: str) -> Callable[[], str]:
    """Give a function that puts the folder's files into a place, and returns the location."""
    if request.param == "folder":
        return lambda: str(published)

    def put() -> str:
        for path in published.iterdir():
            s3.put_object(Bucket=bucket, Key=f"models/{path.name}", Body=path.read_bytes())
        return f"s3://{bucket}/models"

    return put


def test_the_folder_and_the_file_have_digests_for_the_same_model(published: Path, place: Callable[[], str]) -> None:
    """The model predicts the same with both pins and without a pin, and the batch job gives it the same identity."""
    location = place()
    file = describe_model(location).sha256
    pins = [None, file, file.upper(), digest_of_folder(published)]
    models = [load_model(location, sha256=pin) for pin in pins]
    assert len({model.predict([RIDE])[0] for model in models}) == 1
    variables = [{"MODEL_LOCATION": location, "MODEL_SHA256": pin or ""} for pin in pins]
    (identity,) = {identify_model(ModelSettings.from_environment(one)) for one in variables}
    assert identity.sha256 == file


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_refused(published: Path, place: Callable[[], str], name: str, where: str) -> None:
    """The error has the digest that was found, and names the file."""
    pin = digest_of_folder(published)
    assert load_model(place(), sha256=pin).version
    flip(published / name, PLACES[where])
    with pytest.raises(ModelError) as caught:
        load_model(place(), sha256=pin)
    message = str(caught.value)
    assert f"is not what MODEL_SHA256 names, {pin}: the digest of the whole folder is" in message
    assert digest_of_folder(published) in message
    assert name in message.partition("whole folder")[2]
    assert message.isprintable()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: (folder / "baseline.json").unlink(), "baseline.json is missing, according to"),
        (lambda folder: (folder / "MLmodel").unlink(), "MLmodel is missing, according to"),
        (lambda folder: (folder / FORM).unlink(), f"{FORM} is missing, according to"),
        (lambda folder: (folder / "more").write_text(""), "more is not in the manifest, according to"),
        (lambda folder: (folder / ".hidden").write_text(""), ".hidden is not in the manifest, according to"),
        (
            lambda folder: (folder / "baseline.json").rename(folder / "other.json"),
            "baseline.json is missing, other.json is not in the manifest",
        ),
        (lambda folder: (folder / MANIFEST).unlink(), "the digest of the whole folder is"),
        (lambda folder: (folder / MANIFEST).write_text("{"), f"its {MANIFEST} cannot be read"),
        (
            lambda folder: (folder / MANIFEST).write_text('{"files": {"\\u001b[2J": {"bytes": 1, "sha256": ""}}}'),
            r"\x1b[2J is missing, MLmodel is not in the manifest",
        ),
        (
            lambda folder: (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes() + b" "),
            f"only its {MANIFEST} can have changed",
        ),
    ],
    ids=["missing", "no MLmodel", "no form", "added", "hidden", "renamed", "no manifest", "broken", "odd", "space"],
)
def test_another_set_of_files_is_refused(published: Path, change: Change, text: str) -> None:
    """A file that is missing, added or renamed changes the folder's digest too."""
    pin = digest_of_folder(published)
    change(published)
    with pytest.raises(ModelError) as caught:
        load_model(str(published), sha256=pin)
    assert text in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_was_verified_is_what_is_used(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is read once, so a file that changes after it was read changes nothing."""
    pin, expected = digest_of_folder(published), load_model(str(published)).predict([RIDE])
    read, reads = FolderArtifact._read, list[str]()

    def read_and_spoil(self: FolderArtifact, name: str, at_most: int) -> bytes:
        content = read(self, name, at_most)
        reads.append(name)
        (published / name).write_bytes(b"spoiled")
        return content

    monkeypatch.setattr(FolderArtifact, "_read", read_and_spoil)
    assert load_model(str(published), sha256=pin).predict([RIDE]) == expected
    assert sorted(reads) == sorted(FILES)


def test_if_a_file_is_pinned_alone_only_the_baseline_is_read_beside_it(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a pin costs no more than before, however many files the folder has."""
    read, reads = FolderArtifact._read, list[str]()

    def note(self: FolderArtifact, name: str, at_most: int) -> bytes:
        reads.append(name)
        return read(self, name, at_most)

    monkeypatch.setattr(FolderArtifact, "_read", note)
    load_model(str(published), sha256=digest_of((published / FORM).read_bytes()))
    assert reads == ["MLmodel", FORM, "baseline.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("entry_point", ["stream", "web service", "batch job"])
def test_each_entry_point_refuses_a_changed_byte(published: Path, tmp_path: Path, entry_point: str, name: str) -> None:
    """Each entry point loads the pinned folder, and ends with one line that names the file if a byte was changed."""
    month = write(tmp_path / "green_tripdata_2023-02.parquet", linear_trips(20))
    gunicorn = [str(Path(sys.executable).with_name("gunicorn")), "--check-config", "--preload", "web_service:app"]
    commands = {
        "stream": [sys.executable, "-c", "import lambda_function"],
        "web service": gunicorn,
        "batch job": [sys.executable, "batch_job.py", "green", "2023", "2", "--input", str(month), "--output"],
    }

    def run(output: str) -> subprocess.CompletedProcess[str]:
        variables = {"MODEL_LOCATION": str(published), "MODEL_SHA256": pin, "TEST_RUN": "True"}
        command = [*commands[entry_point], *([str(tmp_path / output)] if entry_point == "batch job" else [])]
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE
        )

    pin = digest_of_folder(published)
    if name == FILES[0]:
        assert run("before").returncode == 0
    flip(published / name)
    done = run("after")
    assert done.returncode != 0
    # Python 3.13 shows the source of the raise statement too, before the error.
    *_, line = (line for line in done.stderr.splitlines() if "is not what MODEL_SHA256 names" in line)
    assert name in line.partition("whole folder")[2]
    assert not (tmp_path / "after").exists()
