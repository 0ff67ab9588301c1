"""What every test shares: one event loop, a bound in time, and property tests that give the same answer twice."""

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
