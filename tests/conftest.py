"""What every test shares: one event loop, a bound in time, a lane, and property tests that say the same twice."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import settings

from tests.cluster.fixtures import cluster as cluster
from tests.cluster.fixtures import namespace as namespace

settings.register_profile("house", deadline=None, derandomize=True, database=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(tryfirst=True)  # xdist reads the lanes in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End a coroutine test that hangs from within its event loop, a little before pytest-timeout.

    The signal of pytest-timeout fails such a test but leaves its coroutine running, and the teardown of its fixtures
    waits in the same loop until that ends, perhaps forever.
    """
    limit_s = float(config.getini("timeout")) - 10
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_lane(item)))
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj, limit_s)


def _lane(item: pytest.Item) -> str:
    """Tests of one lane follow one another when several processes share the tests (``make test``).

    One cluster is enough for a machine, and the tests of sandboxes beside it bind the same addresses.
    """
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    if backend == "kubernetes" or "cluster" in getattr(item, "fixturenames", ()):
        return "cluster"
    return "sandbox" if backend else str(item.path)


def _bounded(test: Callable[..., Awaitable[None]], limit_s: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(limit_s):
            await test(*args, **kwargs)

    return bounded
