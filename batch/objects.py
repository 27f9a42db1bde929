"""Objects in S3: the client and the temporary files for them, and the SDK's errors as one line that says what to do."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

import clients

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 10
"""With the SDK's back-off, these attempts take about two minutes if S3 answers 503 to all of them."""
MISSING = ("NoSuchKey", "404")
FORBIDDEN = ("AccessDenied", "403")
OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")


def temporary_file() -> BinaryIO:
    """Return an empty file that has no name, so that even a killed process leaves nothing behind. Raises OSError."""
    # The folder is given, because otherwise Python first tries whether it can write a file with a name.
    return cast(BinaryIO, tempfile.TemporaryFile(dir=os.environ.get("TMPDIR") or "/tmp"))  # noqa: S108


@functools.cache
def client() -> "S3Client":
    """Return the client. Raises SDKSettingsError."""
    from botocore.config import Config

    return clients.s3(Config(retries={"mode": "standard", "total_max_attempts": ATTEMPTS}))


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key, or prefix, of an ``s3://`` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def error_code(error: Exception) -> str:
    """Return the code of an error with which S3 responded; empty for other errors."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def explained(what: str, kind: type[Exception], missing: type[Exception] | None = None) -> Iterator[None]:
    """Turn an error of the SDK in the block into an error of this kind, or into ``missing`` if there is no object."""
    # Imported here: a job that reads and writes files of this machine needs no SDK.
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except clients.SDKSettingsError as error:
        raise kind(str(error)) from error
    except (ClientError, BotoCoreError) as error:
        code = error_code(error)
        if code in MISSING:
            raise (missing or kind)(f"{what}: there is no such object") from error
        raise kind(f"{what}: {error}{_hint(code, error)}") from error


def _hint(code: str, error: Exception) -> str:
    """Return what to do about an error of S3 or of the SDK; empty if its own message says enough."""
    from botocore.exceptions import NoCredentialsError

    response = getattr(error, "response", None) or {}
    if code == "NoSuchBucket":
        return ": create the bucket, or check the URI"
    if code in FORBIDDEN:
        return ": the role needs s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there"
    if code in OTHER_REGION:
        region = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return f": set AWS_DEFAULT_REGION to the bucket's region{f', {region}' if region else ''}"
    if isinstance(error, NoCredentialsError):
        return ": set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"
    return ": try again later" if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500 else ""
