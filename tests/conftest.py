"""What every test shares: one event loop, a bound in time, a lane, and property tests that say the same twice."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.cluster.fixtures import cluster as cluster
from tests.cluster.fixtures import namespace as namespace

_ON_CLUSTER = (
    "tests/cluster/",
    "tests/integration/kubernetes/",
    *(
        f"tests/helm/test_{name}.py"
        for name in (
            "airgapped",
            "definitions",
            "devices",
            "everything_given",
            "installation",
            "server",
            "several_pods",
        )
    ),
)
_ON_EVERY_BACKEND_ALONE = "tests/conformance/sandbox/test_network.py"
"""Its hosts have the same addresses and ports, whatever the backend."""
_IN_SANDBOXES = ("tests/conformance/sandbox/", "tests/security/")

settings.register_profile("house", deadline=None, derandomize=True, database=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


class Lanes(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """How several processes share the tests (``make test``): those of one lane follow one another in one of them.

    A lane is a file, but for two: one cluster is enough for a machine, and the tests of sandboxes beside it bind the
    same addresses.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, name = nodeid.partition("::")
        if file == _ON_EVERY_BACKEND_ALONE:
            return "cluster"
        if file.startswith(_IN_SANDBOXES):
            return "cluster" if "[kubernetes" in name else "sandboxes"
        return "cluster" if file.startswith(_ON_CLUSTER) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End a coroutine test that hangs from within its event loop, a little before pytest-timeout.

    The signal of pytest-timeout fails such a test but leaves its coroutine running, and the teardown of its fixtures
    waits in the same loop until that ends, perhaps forever.
    """
    limit_s = float(config.getini("timeout")) - 10
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj, limit_s)


def _bounded(test: Callable[..., Awaitable[None]], limit_s: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(limit_s):
            await test(*args, **kwargs)

    return bounded
