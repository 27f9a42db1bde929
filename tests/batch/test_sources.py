"""Where the input comes from: a folder, a web server, or S3."""

import functools
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from batch import sources
from batch.manifests import decode_manifest
from batch.months import TRIP_DATA
from batch.sources import FetchError, NoInputError, Source
from batch_job import Job, Watcher, score_month
from tests.batch.conftest import serve
from tests.batch.jobs import FEBRUARY, read, score, settings
from tests.trip_records import linear_trips, trip, write
from trip_cells import TripRecordError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NAME = FEBRUARY.file_name
SECRET = "s3cr3t"


class Answers(http.server.BaseHTTPRequestHandler):
    """A web server that answers in the way that the first part of a path names."""

    content = b""

    def do_GET(self) -> None:
        """Answer with the file, or with what is wrong."""
        way = urllib.parse.urlsplit(self.path).path.split("/")[1]
        if way.isdecimal():
            self.send_error(int(way))
        elif way.startswith("to-"):
            self.send_response(302)
            places = {"to-file": f"/file/{NAME}?{SECRET}", "to-disk": f"file:///{SECRET}"}
            self.send_header("Location", places.get(way, f"http://user:{SECRET}@127.0.0.1/"))
            self.end_headers()
        else:
            self.send_response(200)
            if way in ("file", "drop"):
                self.send_header("ETag", '"a-tag"')
            if way == "dated":
                self.send_header("Last-Modified", "Sat, 01 Apr 2023 00:00:00 GMT")
            if way != "endless":
                self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()
            if way == "slow":
                threading.Event().wait(5)
            self.wfile.write(self.content[: len(self.content) // (2 if way == "drop" else 1)])

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def website(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a month's file and give the server's URL."""
    Answers.content = write(tmp_path_factory.mktemp("trips") / NAME, [trip(), trip(trip_distance=101.0)]).read_bytes()
    with serve(Answers) as url:
        yield url.rstrip("/")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (None, f"{TRIP_DATA}{NAME}"),
        ("https://host/trips/", f"https://host/trips/{NAME}"),
        ("https://host/any.parquet?signature=1", "https://host/any.parquet?signature=1"),
        ("HTTP://host/", f"HTTP://host/{NAME}"),
        ("s3://bucket/trips/", f"s3://bucket/trips/{NAME}"),
        ("s3://bucket/a file?.parquet", "s3://bucket/a file?.parquet"),
        ("no-such-folder/any.parquet", "no-such-folder/any.parquet"),
    ],
)
def test_a_folder_has_the_month_under_tlcs_name(location: str | None, expected: str) -> None:
    """Another location names the file itself. By default, the input is TLC's own file."""
    assert Source.of(location, FEBRUARY).location == expected


def test_a_folder_of_this_machine_needs_no_slash(tmp_path: Path) -> None:
    """It is looked at, in contrast to a URL."""
    assert Source.of(str(tmp_path), FEBRUARY).location == str(tmp_path / NAME)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("ftp://host/file", "ftp://host/file: neither a file, an http(s) URL nor an s3:// URI"),
        ("file:///etc/passwd", "file:///etc/passwd: neither a file"),
        ("S3://bucket/key", "S3://bucket/key: neither a file"),
        ("https:///file", "https:///file: neither a file"),
        ("s3://bucket", "s3://bucket: a bucket and no object: add its key, or a slash if the bucket is the folder"),
        (f"https://user:{SECRET}@host/file", "https://host/file: a URL needs % in place of spaces"),
        (f"https://host/a file?{SECRET}", "https://host/a file: a URL needs %"),
        (f"https://host/é#{SECRET}", "https://host/é: a URL needs %"),
        (f"https://host/a\nb?{SECRET}", "https://host/a\nb: a URL needs %"),
    ],
)
def test_a_location_of_another_kind_is_refused(location: str, message: str) -> None:
    """The error says what a location is, and has no secret in it."""
    with pytest.raises(TripRecordError) as found:
        Source.of(location, FEBRUARY)
    assert str(found.value).startswith(message)
    assert SECRET not in str(found.value)


@pytest.mark.parametrize("way", ["file", "dated", "endless", "to-file"])
def test_a_url_is_downloaded(tmp_path: Path, website: str, way: str) -> None:
    """The manifest has the URL without its secrets, and the tag by which the plan sees a change."""
    url = f"{website}/{way}/{NAME}"
    written, manifest = read(score(f"{url}?X-Amz-Signature={SECRET}", tmp_path))
    assert (len(written.predictions), len(written.rejections)) == (1, 1)
    assert manifest.input.location == url
    assert manifest.input.bytes == len(Answers.content)
    tags = {"file": '"a-tag"', "to-file": '"a-tag"', "dated": "Sat, 01 Apr 2023 00:00:00 GMT", "endless": ""}
    assert manifest.input.tag == tags[way] == Source(url).fingerprint()
    assert SECRET not in "".join(path.read_text() for path in tmp_path.rglob("_manifest.json"))


@pytest.mark.parametrize(
    ("way", "kind", "message"),
    [
        ("404", NoInputError, "the server responds 404 Not Found"),
        ("403", NoInputError, "the server responds 403 Forbidden"),
        ("500", FetchError, "the server responds 500 Internal Server Error"),
        ("503", FetchError, "the server responds 503 Service Unavailable"),
        ("to-disk", FetchError, "the server responds 302 Found"),
        ("to-secret", TripRecordError, "not a URL that can be downloaded"),
        ("drop", FetchError, "the download broke off after"),
        ("slow", FetchError, "cannot be downloaded: timed out"),
    ],
)
def test_a_url_without_a_file_is_one_line(
    tmp_path: Path, website: str, way: str, kind: type, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLC's server says 403 for a month that it does not have yet. Nothing is written."""
    if way == "slow":
        monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.2)
    with pytest.raises(TripRecordError) as found:
        score(f"{website}/{way}/?{SECRET}", tmp_path)
    assert type(found.value) is kind
    assert str(found.value).startswith(f"{website}/{way}/")
    assert message in str(found.value)
    assert SECRET not in str(found.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"http://127.0.0.1:1/{NAME}?{SECRET}", "cannot be downloaded: <urlopen error .*refused"),
        (f"http://127.0.0.1:port/{NAME}?{SECRET}", "not a URL that can be downloaded"),
        (f"http://[::1/{NAME}?{SECRET}", "not a URL that can be downloaded"),
        (f"http://a..b/{NAME}?{SECRET}", "not a URL that can be downloaded"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(url: str, message: str) -> None:
    """The plan and the job say the same."""
    source = Source.of(url, FEBRUARY)
    with pytest.raises(TripRecordError, match=f"{message}") as opened, source.open():
        pass
    with pytest.raises(TripRecordError) as asked:
        source.fingerprint()
    assert str(asked.value) == str(opened.value)
    assert SECRET not in str(opened.value)


@pytest.mark.parametrize("reason", ["No space left on device", "No such file or directory"])
def test_a_copy_that_cannot_be_written_is_one_line(website: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the variable for another disk."""
    if reason.startswith("No space"):
        if not Path("/dev/full").exists():
            pytest.skip("this system has no full device")
        monkeypatch.setattr("batch.sources.temporary_file", functools.partial(open, "/dev/full", "r+b", 0))
    else:
        monkeypatch.setenv("TMPDIR", "/nothing")
    source = Source(f"{website}/file/{NAME}")
    expected = rf"\A{source.location}: cannot be read: {reason}: set TMPDIR to a folder that has space for a copy\Z"
    with pytest.raises(TripRecordError, match=expected), source.open():
        pass


def test_a_file_that_is_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Otherwise the predictions would be of other rows than those of the digest."""
    file = write(tmp_path / NAME, linear_trips(100))

    def change(*_: int) -> None:
        write(file, linear_trips(200))

    with pytest.raises(FetchError, match=rf"\A{file}: was changed while it was read: try again"):
        score_month(Job(FEBRUARY, str(file), str(tmp_path / "output")), settings(), Watcher(scored=change))
    assert [path for path in (tmp_path / "output").rglob("*") if path.is_file()] == []


def test_paths_may_have_any_bytes(tmp_path: Path) -> None:
    """Text in a manifest is UTF-8, and names of files need not be."""
    try:
        folder = tmp_path / "\udcff"
        folder.mkdir()
    except OSError:
        pytest.skip("this file system refuses such names")
    write(tmp_path / NAME, [trip()]).rename(folder / NAME)
    done = score(folder, folder / "output")
    assert json.loads(msgspec.json.encode(done))["location"].startswith(f"{tmp_path}/?/output/")
    (manifest,) = folder.rglob("_manifest.json")
    assert decode_manifest(manifest.read_bytes()).input.location == f"{tmp_path}/?/{NAME}"


def test_an_object_is_read(tmp_path: Path, s3: "S3Client", bucket: str) -> None:
    """A prefix is a folder. The object's ETag is the tag by which the plan sees a change."""
    file = write(tmp_path / NAME, [trip()])
    s3.put_object(Bucket=bucket, Key=f"trips/{NAME}", Body=file.read_bytes())
    _, manifest = read(score(f"s3://{bucket}/trips/", tmp_path / "output"))
    assert manifest.input.location == f"s3://{bucket}/trips/{NAME}"
    tag = s3.head_object(Bucket=bucket, Key=f"trips/{NAME}")["ETag"]
    assert manifest.input.tag == tag == Source(manifest.input.location).fingerprint()


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        ("/nothing.parquet", NoInputError, "there is no such object"),
        ("-2/nothing.parquet", FetchError, ".* does not exist: create the bucket, or check the URI"),
    ],
    ids=["object", "bucket"],
)
def test_an_object_that_is_not_there_is_one_line(bucket: str, key: str, kind: type, message: str) -> None:
    """The plan and the job say the same kind of error."""
    source = Source(f"s3://{bucket}{key}")
    with pytest.raises(kind, match=f"^{source.location}: {message}"), source.open():
        pass
    with pytest.raises(kind, match=f"^{source.location}: {message}"):
        source.fingerprint()


def test_an_object_that_must_not_be_read_is_one_line(website: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the permissions."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", website)
    source = Source("s3://403/key")
    for read_it in (source.fingerprint, source.open().__enter__):
        with pytest.raises(TripRecordError, match="^s3://403/key: .*Forbidden: the role needs s3:GetObject"):
            read_it()


def test_an_object_that_breaks_off_is_not_taken_for_the_file(website: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK repeats requests, and not the rest of a response."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", website)
    with (
        pytest.raises(TripRecordError, match=r"^s3://drop/key: .* bytes expected is .*"),
        Source("s3://drop/key").open(),
    ):
        pass
