"""Trip record files by their path or URL: a URL is downloaded first, with a progress bar."""

import contextlib
import http.client
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from batch.sources import TIMEOUT_SECONDS, download
from scripts.cli import CONSOLE
from trip_cells import TripRecordError


@contextlib.contextmanager
def open_trips(source: str) -> Iterator[Path]:
    """Give the path of a trip record file: ``source`` itself, or a copy of the URL that exists until the block ends.

    The copy has the name of the URL's file, because ``trips.ride_events`` takes the month from it. Raises
    TripRecordError if the URL cannot be downloaded, or if the block raises it; the message names ``source``.
    """
    if "://" not in source:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (PurePosixPath(urllib.parse.urlsplit(source).path).name or "download.parquet")
        _download(source, path)
        try:
            yield path
        except TripRecordError as error:
            raise TripRecordError(str(error).replace(str(path), source)) from error


def _download(url: str, path: Path) -> None:
    if not url.lower().startswith(("https://", "http://")):
        raise TripRecordError(f"{url}: neither a file nor an http(s) URL; download it and give the file")
    bar = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,  # noqa: S310  checked above
            Progress(*bar, console=CONSOLE) as progress,
            path.open("wb") as file,
        ):
            task = progress.add_task(f"Downloading {path.name}", total=None)

            def advance(copied: int, total: int | None) -> None:
                progress.update(task, advance=copied, total=total)

            download(response, file, url, advance)
    except (OSError, http.client.HTTPException) as error:
        raise TripRecordError(f"{url}: cannot be downloaded: {error}") from error
