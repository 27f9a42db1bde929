"""What tests of the batch job share."""

from collections.abc import Iterator

import pytest

from batch import objects


@pytest.fixture(autouse=True)
def own_client(aws_environment: None) -> Iterator[None]:
    """Let each test have a client of its own, because the job keeps one for as long as its process lives.

    The client of another test could be one of another server.
    """
    objects.client.cache_clear()
    yield
    objects.client.cache_clear()
