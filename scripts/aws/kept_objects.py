"""The objects of the failures bucket: finding and reading them, and moving what was replayed out of the way."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from scripts.aws.kept_records import Content, KeptRecord, UnreadableError, discarded, rejections

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ON_FAILURE_PREFIX = "aws/lambda/"
"""Where mappings leave what they discard: AWS fixes it, from the bucket's root (``localaws.mapping``)."""

REPLAYED = "replayed/"

REJECTIONS_KEY = re.compile(r"[^/]+/[^/]+/[^/]+\.jsonl")
"""Stream, shard and sequence numbers, below the prefix. What was replayed lies a level deeper, and does not match."""

CHANGED_CODES = {"ConditionalRequestConflict", "NoSuchKey", "PreconditionFailed"}
"""What S3 answers where an object is not, or no longer, the one that a condition names (conditional requests)."""

ARCHIVED_CODE = "InvalidObjectState"
"""What S3 answers for an object that a lifecycle rule has moved to Glacier (API reference, GetObject)."""


class ChangedError(Exception):
    """An object is not the one any more that it was when it was found or read: somebody else wrote or removed it."""


@dataclass(frozen=True)
class KeptObject:
    """An object as it was when it was read."""

    key: str
    etag: str
    content: Content


class KeptObjects:
    """What is kept under a failures location: its rejections, and its bucket's on-failure objects."""

    def __init__(self, client: "S3Client", location: str) -> None:
        """Take an ``s3://bucket/prefix`` URI, as FAILURES_LOCATION has it; the prefix may be empty."""
        self._client = client
        self._bucket, _, prefix = location.removeprefix("s3://").rstrip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def find(self, page_size: int = 1000) -> Iterator[str]:
        """Yield the keys of all the objects, rejections first, asking for so many at a time."""
        for key in self._listed(self._prefix, page_size):
            if REJECTIONS_KEY.fullmatch(key.removeprefix(self._prefix)):
                yield key
        yield from self._listed(ON_FAILURE_PREFIX, page_size)

    def uri(self, key: str) -> str:
        """Return the URI of an object."""
        return f"s3://{self._bucket}/{key}"

    def read(self, key: str) -> KeptObject:
        """Return the object.

        Raises:
            ChangedError: where it is gone.
            UnreadableError: where it is not what the function or a mapping writes.
        """
        answer = self._unless_changed(key, self._client.get_object)
        body, written = answer["Body"].read(), answer["LastModified"]
        if key.removeprefix(REPLAYED).startswith(ON_FAILURE_PREFIX):
            return KeptObject(key, answer["ETag"], discarded(body, written))
        *_, stream, _, _ = key.split("/")
        return KeptObject(key, answer["ETag"], rejections(body, stream, written))

    def move(self, kept: KeptObject, records: Sequence[KeptRecord]) -> None:
        """Move records to where nothing is replayed from: write them there, then take them out of the object.

        Ended at any point, this leaves each record in at least one place. An object that loses its last record is
        deleted.

        Raises:
            ChangedError: where the object is no longer the one that was read; it is left alone.
            UnreadableError: where what was moved there before is not what it should be; the object is left alone.
        """
        self._add(self._replayed_key(kept.key), kept.content, records)
        moved = set(records)
        rest = [record for record in kept.content.records if record not in moved]
        if rest:
            body = kept.content.body_of(rest)
            self._unless_changed(kept.key, self._client.put_object, Body=body, IfMatch=kept.etag)
        else:
            self._unless_changed(kept.key, self._client.delete_object, IfMatch=kept.etag)

    def _add(self, key: str, content: Content, records: Sequence[KeptRecord]) -> None:
        """Write the records to an object, beside those that are there from a replay of others or an interrupted one."""
        try:
            there = self.read(key)
        except UnreadableError as error:
            raise UnreadableError(f"what was moved to {self.uri(key)} cannot be read: {error}") from error
        except ChangedError:
            self._unless_changed(key, self._client.put_object, Body=content.body_of(records), IfNoneMatch="*")
            return
        all_of_them = {record.source: record for record in (*there.content.records, *records)}
        body = content.body_of(all_of_them.values())
        self._unless_changed(key, self._client.put_object, Body=body, IfMatch=there.etag)

    def _replayed_key(self, key: str) -> str:
        if key.startswith(ON_FAILURE_PREFIX):
            return f"{REPLAYED}{key}"
        return f"{self._prefix}{REPLAYED}{key.removeprefix(self._prefix)}"

    def _listed(self, prefix: str, page_size: int) -> Iterator[str]:
        pages: Any = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": page_size}
        )
        for page in pages:
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):  # S3's console makes such objects, to show folders
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
