"""Namespaces of sandboxes on the tests' own cluster."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from deploy.cluster.cluster import Cluster
from sandbox.config import KubernetesSettings
from tests.conformance.sandbox import pods

MakeNamespace = Callable[..., KubernetesSettings]


@pytest.fixture(scope="module")
def make_namespace(cluster: Cluster) -> Iterator[MakeNamespace]:
    """Set up a namespace with these settings; all are deleted afterwards."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(pods.namespace(cluster, **settings))


@pytest.fixture(scope="module")
def fenced(make_namespace: MakeNamespace) -> KubernetesSettings:
    return make_namespace(network="fence")


@pytest.fixture(scope="module")
def sealed(make_namespace: MakeNamespace) -> KubernetesSettings:
    """As the settings are by themselves."""
    return make_namespace()
