"""What tests of sandboxes with real machines share."""

from collections.abc import Iterator

import pytest

from tests.conformance.sandbox import dockerd


@pytest.fixture(scope="session")
def docker_address() -> Iterator[str | None]:
    """A Docker daemon that is there for these tests; None where none can be started."""
    if dockerd.missing():
        yield None
        return
    with dockerd.running() as address:
        yield address
