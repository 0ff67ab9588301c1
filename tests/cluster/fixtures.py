"""A real Kubernetes for the tests that ask for one: started by the first, ended with the last."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster.cluster import Cluster, missing, start

_numbers = itertools.count()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="mimo-cluster-") as folder:
        cluster = start(Path(folder, "state"), name="tests", with_us=True)
        yield cluster
        cluster.stop()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The name of one of the test's own, in which pods can be made."""
    name = f"test-{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "--timeout=30s", f"--namespace={name}", "serviceaccount/default")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
