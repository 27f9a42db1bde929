"""The objects of the failures bucket: finding and reading them, and moving replayed records out of the way."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from scripts.aws.kept_records import (
    Envelope,
    KeptRecord,
    UnreadableError,
    decode_discarded,
    decode_rejections,
    encode_records,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ON_FAILURE_PREFIX = "aws/lambda/"
"""Where mappings write what they discard. AWS fixes this prefix, which is relative to the bucket's root."""

REPLAYED = "replayed/"

REJECTIONS_KEY = re.compile(r"[^/]+/[^/]+/[^/]+\.jsonl")
"""Stream, shard and sequence numbers, relative to the prefix. The keys of replayed rejections have one level more."""

CHANGED_CODES = {"ConditionalRequestConflict", "NoSuchKey", "PreconditionFailed"}
"""S3's error codes if an object is not, or no longer, the one that a condition names (conditional requests)."""

ARCHIVED_CODE = "InvalidObjectState"
"""S3's error code for an object that a lifecycle rule has moved to Glacier (API reference, GetObject)."""


class ChangedError(Exception):
    """Somebody else has written or removed an object since it was found or read."""


@dataclass(frozen=True)
class KeptObject:
    """An object as it was when it was read."""

    key: str
    etag: str
    records: Sequence[KeptRecord]
    envelope: Envelope = field(default_factory=dict)


class KeptObjects:
    """The objects of a failures location: its rejections, and the on-failure objects of its bucket."""

    def __init__(self, client: "S3Client", location: str) -> None:
        """Take an ``s3://bucket/prefix`` URI, as FAILURES_LOCATION has it; the prefix may be empty."""
        self._client = client
        self._bucket, _, prefix = location.removeprefix("s3://").rstrip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def find(self, page_size: int = 1000) -> Iterator[str]:
        """Yield the keys of all objects, rejections first; each request lists at most ``page_size`` objects."""
        for key in self._list(self._prefix, page_size):
            if REJECTIONS_KEY.fullmatch(key.removeprefix(self._prefix)):
                yield key
        yield from self._list(ON_FAILURE_PREFIX, page_size)

    def uri(self, key: str) -> str:
        """Return the URI of an object."""
        return f"s3://{self._bucket}/{key}"

    def read(self, key: str) -> KeptObject:
        """Return an object.

        Raises:
            ChangedError: if it does not exist any more.
            UnreadableError: if it is not what the function or a mapping writes.
        """
        response = self._unless_changed(key, self._client.get_object)
        body, etag, written = response["Body"].read(), response["ETag"], response["LastModified"]
        if key.removeprefix(REPLAYED).startswith(ON_FAILURE_PREFIX):
            return KeptObject(key, etag, *decode_discarded(body, written))
        *_, stream, _, _ = key.split("/")
        return KeptObject(key, etag, decode_rejections(body, stream, written))

    def move(self, kept: KeptObject, records: Sequence[KeptRecord]) -> None:
        """Move records of an object to the replayed ones: write them there, then remove them from the object.

        An interruption leaves each record in at least one place. An object that loses its last record is deleted.

        Raises:
            ChangedError: if the object is no longer the one that was read; it is left alone.
            UnreadableError: if the object of replayed records cannot be read; the object is left alone.
        """
        self._add(self._replayed_key(kept.key), kept.envelope, records)
        moved = set(records)
        rest = [record for record in kept.records if record not in moved]
        if rest:
            body = encode_records(rest, kept.envelope)
            self._unless_changed(kept.key, self._client.put_object, Body=body, IfMatch=kept.etag)
        else:
            self._unless_changed(kept.key, self._client.delete_object, IfMatch=kept.etag)

    def _add(self, key: str, envelope: Envelope, records: Sequence[KeptRecord]) -> None:
        """Add records to the object of replayed ones, which exists if others were replayed or after an interruption."""
        try:
            there = self.read(key)
        except UnreadableError as error:
            raise UnreadableError(f"what was moved to {self.uri(key)} cannot be read: {error}") from error
        except ChangedError:
            body = encode_records(records, envelope)
            self._unless_changed(key, self._client.put_object, Body=body, IfNoneMatch="*")
            return
        # A record that is there already, because a replay was interrupted, is not added twice.
        every = {record.source: record for record in (*there.records, *records)}
        body = encode_records(every.values(), envelope)
        self._unless_changed(key, self._client.put_object, Body=body, IfMatch=there.etag)

    def _replayed_key(self, key: str) -> str:
        if key.startswith(ON_FAILURE_PREFIX):
            return f"{REPLAYED}{key}"
        return f"{self._prefix}{REPLAYED}{key.removeprefix(self._prefix)}"

    def _list(self, prefix: str, page_size: int) -> Iterator[str]:
        pages: Any = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": page_size}
        )
        for page in pages:
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):  # S3's console creates such objects to show folders
                    yield found["Key"]

    def _unless_changed(self, key: str, call: Callable[..., Any], **arguments: object) -> Any:
        try:
            return call(Bucket=self._bucket, Key=key, **arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in CHANGED_CODES:
                raise ChangedError("it was changed or removed meanwhile") from error
            if code == ARCHIVED_CODE:
                raise UnreadableError("it is archived: restore it first") from error
            raise
