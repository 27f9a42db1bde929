"""Where trip record files come from: this machine, a web server, or S3.

A remote file is copied into a temporary file that has no name, so that even a killed process leaves nothing behind.
"""

import contextlib
import errno
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from batch.manifests import InputIdentity, find_sha256
from batch.months import TRIP_DATA, Month
from batch.objects import client, explained, split_uri, temporary_file
from rides import encodable
from trip_cells import TripRecordError

TIMEOUT_SECONDS = 60
PIECE_BYTES = 1_048_576
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)

Advance = Callable[[int, int | None], None]
"""Called with the bytes that were copied, and the bytes of the whole file if they are known."""


class NoInputError(TripRecordError):
    """There is no such file, perhaps not yet."""


class FetchError(TripRecordError):
    """The file cannot be fetched now. A later attempt may succeed."""


@dataclass(frozen=True)
class Source:
    """A trip record file by its location: a path, an http(s) URL or an ``s3://`` URI."""

    location: str

    @classmethod
    def of(cls, location: str | None, month: Month) -> "Source":
        """Return the month's file. ``location`` is the file, or a folder in which it has TLC's name.

        By default it is TLC's own file. Raises TripRecordError for a location of another kind.
        """
        location = location or TRIP_DATA
        if "://" not in location:
            return cls(str(Path(location) / month.file_name) if Path(location).is_dir() else location)
        if not re.match("((?i:https?)|s3)://[^/]", location):
            raise TripRecordError(f"{_shown(location)}: neither a file, an http(s) URL nor an s3:// URI")
        if not location.startswith("s3://") and not re.fullmatch("[^/]*//(?![^/?#]*@)[!-~]+", location):
            rule = "a URL needs % in place of spaces and of characters that are not ASCII, and cannot have a password"
            raise TripRecordError(f"{_shown(location)}: {rule}")
        if re.fullmatch("s3://[^/]+", location):
            raise TripRecordError(
                f"{location}: a bucket and no object: add its key, or a slash if the bucket is the folder"
            )
        return cls(location + month.file_name if location.endswith("/") else location)

    @property
    def shown(self) -> str:
        """The location for messages and manifests, without the secrets that a URL may carry."""
        # A path may have bytes that are not UTF-8.
        return encodable(_shown(self.location))

    @contextlib.contextmanager
    def open(self, advance: Advance = lambda *_: None) -> Iterator[tuple[BinaryIO, InputIdentity]]:
        """Give the file, open at its beginning, and its identity. Raises TripRecordError if it cannot be read."""
        with self._open_file() as file:
            with self._explained():
                tag = "" if self._is_local else self._fetch(file, advance)
                file.seek(0)
                digest = find_sha256(file)
                size = file.tell()
                file.seek(0)
            yield file, InputIdentity(self.shown, digest, size, tag)

    def check_unchanged(self, file: BinaryIO, identity: InputIdentity) -> None:
        """Raise FetchError if the content of an open file is not that of the identity any more."""
        if not self._is_local:
            return  # only this process can reach its copy
        with self._explained():
            file.seek(0)
            if find_sha256(file) != identity.sha256:
                raise FetchError(f"{self.shown}: was changed while it was read: try again when it is complete")

    def fingerprint(self) -> str:
        """Return the file's digest, or the ETag of a remote file, so that its content need not be read.

        Raises NoInputError if there is no file, and TripRecordError if it cannot be read.
        """
        if self._is_local:
            with self.open() as (_, identity):
                return identity.sha256
        return self._find_tag()

    @property
    def _is_local(self) -> bool:
        return "://" not in self.location

    def _open_file(self) -> BinaryIO:
        with self._explained():
            return Path(self.location).open("rb") if self._is_local else temporary_file()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._is_local and isinstance(error, FileNotFoundError):
                raise NoInputError(f"{self.shown}: there is no such file") from None
            # A pipe has no beginning to go back to.
            reason = error.strerror or error
            hint = "" if self._is_local else ": set TMPDIR to a folder that has space for a copy"
            raise TripRecordError(f"{self.shown}: cannot be read: {reason}{hint}") from error

    def _find_tag(self) -> str:
        if self.location.startswith("s3://"):
            bucket, key = split_uri(self.location)
            with explained(self.shown, FetchError, NoInputError):
                # Not HEAD, whose error says of a missing bucket that the object is missing.
                found = client().get_object(Bucket=bucket, Key=key)
                found["Body"].close()
                return str(found["ETag"])
        with self._ask() as response:
            return _tag_of(response)

    def _fetch(self, file: BinaryIO, advance: Advance) -> str:
        """Copy the remote file, and return its ETag."""
        if self.location.startswith("s3://"):
            bucket, key = split_uri(self.location)
            with explained(self.shown, FetchError, NoInputError):
                found = client().get_object(Bucket=bucket, Key=key)
                for piece in found["Body"].iter_chunks(PIECE_BYTES):
                    file.write(piece)
                    advance(len(piece), found["ContentLength"])
                return str(found["ETag"])
        with self._ask() as response:
            download(response, file, self.shown, advance)
            return _tag_of(response)

    @contextlib.contextmanager
    def _ask(self) -> Iterator[Any]:
        """Give the response of a web server.

        The request is always a GET, even if only the headers are read, because a presigned URL is for one method.
        """
        try:
            with urllib.request.urlopen(self.location, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310  see Source.of
                yield response
        except urllib.error.HTTPError as error:
            # TLC's server says 403 for a month that is not published yet.
            kind = NoInputError if error.code in (403, 404, 410) else FetchError
            # Not the error's own text, which may have the URL of a redirection.
            answer = f"{error.code} {http.client.responses.get(error.code, '')}".rstrip()
            raise kind(f"{self.shown}: cannot be downloaded: the server responds {answer}") from error
        except (http.client.InvalidURL, ValueError):
            # Without the error's own text, which may have the password of a redirection's URL.
            raise TripRecordError(f"{self.shown}: not a URL that can be downloaded") from None
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK_IS_FULL:
                raise
            raise FetchError(f"{self.shown}: cannot be downloaded: {error}") from error


def download(response: Any, file: BinaryIO, url: str, advance: Advance) -> None:
    """Copy the body of a web server's response. Raises FetchError if it breaks off."""
    size = response.length
    copied = 0
    while piece := response.read(PIECE_BYTES):
        copied += file.write(piece)
        advance(len(piece), size)
    # http.client does not report a connection that closes early if it is read in pieces.
    if size and copied < size:
        raise FetchError(f"{url}: the download broke off after {copied} of {size} bytes; try again")


def _tag_of(response: Any) -> str:
    return str(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")


def _shown(location: str) -> str:
    scheme, separator, rest = location.partition("://")
    if not separator or scheme == "s3":
        return location
    # A presigned URL has its signature behind the question mark, and another URL may have a password.
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
