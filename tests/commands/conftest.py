"""What tests of the commands share."""

from typing import TYPE_CHECKING

import pytest

from tests.commands.kept import Bucket

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def failures(kinesis: "KinesisClient", s3: "S3Client", stream: str, bucket: str) -> Bucket:
    """Give an empty failures bucket and its stream."""
    return Bucket(kinesis, s3, stream, bucket)
