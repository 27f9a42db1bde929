"""Trip record files by URL."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.sources.chosen import read_tlc_rides
from scripts.sources.download import open_trips
from tests.trip_records import trip, write
from trip_cells import TripRecordError


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    """Serve the test's folder over HTTP and give its URL."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_is_downloaded(tmp_path: Path, website: str) -> None:
    """The URL's own name gives the month. If there is no such file, the error has the URL and the server's answer."""
    write(tmp_path / "green_tripdata_2023-02.parquet", [trip()])
    source = read_tlc_rides(f"{website}/green_tripdata_2023-02.parquet")
    assert [record.partition_key for record in source.records] == ["2023/02_0"]
    with pytest.raises(TripRecordError, match=rf"^{website}/nothing\.parquet: .*404.*$"):
        read_tlc_rides(f"{website}/nothing.parquet")


def test_a_download_that_breaks_off_is_not_taken_for_the_file() -> None:
    """A server that closes the connection early is told from one that sent everything."""

    class HalfAnswer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"PAR1")

    with http.server.HTTPServer(("127.0.0.1", 0), HalfAnswer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(TripRecordError, match="broke off after 4 of 1000 bytes"):
            read_tlc_rides(f"http://127.0.0.1:{server.server_port}/2023-02.parquet")
        thread.join()


@pytest.mark.parametrize("url", ["s3://bucket/2023-02.parquet", "file:///etc/passwd", "ftp://host/2023-02.parquet"])
def test_only_http_is_downloaded(url: str) -> None:
    """Another scheme is refused with what to do instead."""
    with pytest.raises(TripRecordError, match=r"neither a file nor an http\(s\) URL"):
        read_tlc_rides(url)


def test_an_error_about_a_downloaded_file_names_its_url(tmp_path: Path, website: str) -> None:
    """The copy's own path would help nobody, and it is removed."""
    (tmp_path / "trips.parquet").write_text("no parquet")
    url = f"{website}/trips.parquet?version=1"
    with pytest.raises(TripRecordError, match=rf"^{website}/trips\.parquet\?version=1: cannot be read as parquet"):
        read_tlc_rides(url)
    with open_trips(url) as path:
        assert path.name == "trips.parquet"
    assert not path.exists()
