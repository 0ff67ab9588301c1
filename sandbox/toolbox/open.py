"""Executors, and a toolbox whose only one is in this process, built out of their settings."""

import asyncio
import logging
import os
import platform
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sandbox.config import SandboxSettings
from sandbox.errors import SandboxUnavailable
from sandbox.inventory import LastingBackend
from sandbox.pool.config import PoolSettings
from sandbox.pool.pool import PoolCounts, WarmPool
from sandbox.reaper.reaper import Reaper
from sandbox.registry import RecordedBackend, Registry
from sandbox.toolbox.calls import OnTrace, Trace
from sandbox.toolbox.config import RaySettings, ToolboxSettings
from sandbox.toolbox.executor import Executor
from sandbox.toolbox.keepers import Keepers
from sandbox.toolbox.toolbox import Alone, Executors, Toolbox
from sandbox.types import Backend, Capability, TriedBackend

_WAITED_S = 1.0
"""A call that waited for longer is told of."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_toolbox(
    backend: Backend,
    settings: ToolboxSettings,
    pool: PoolSettings | None = None,
    registry: Registry | None = None,
    on_trace: OnTrace | None = None,
) -> AsyncIterator[Toolbox]:
    """One executor over ``backend``, as :func:`open_executor` makes it; ``on_trace`` hears of every call that ended."""
    owner = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"  # a process of that name may have been before
    async with open_executor(backend, settings, pool, registry, owner=owner) as executor:
        yield toolbox_of(Alone(executor), settings, backend, on_trace, executor.keepers)


@asynccontextmanager
async def open_executor(
    backend: Backend,
    settings: ToolboxSettings,
    pool: PoolSettings | None = None,
    registry: Registry | None = None,
    *,
    owner: str,
) -> AsyncIterator[Executor]:
    """An executor over ``backend``, which is closed at the end.

    Args:
        pool: keeps sandboxes ready for what the executor is told to expect; None: each is made when it is asked for.
        registry: where others find the sandboxes of this one, once it is gone, and it theirs; None: they end with it,
            as do those of a backend whose sandboxes nobody can take over.
        owner: whose they are there.
    """
    tried = backend if isinstance(backend, TriedBackend) else None
    warm = reaper = None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.close)
        if registry is not None and isinstance(backend, LastingBackend) and Capability.REATTACH in backend.capabilities:
            backend, reaper = await stack.enter_async_context(_recorded(backend, registry, owner))
        if pool is not None:
            backend = warm = await stack.enter_async_context(WarmPool.open(backend, pool))
            stack.callback(_tell_counts, warm.counts)
        yield Executor(backend, settings, registry=registry, tried=tried, keepers=Keepers(warm, reaper))


@asynccontextmanager
async def open_on_ray(
    backend: str, settings: SandboxSettings, ray: RaySettings, registry: str | None, on_trace: OnTrace | None = None
) -> AsyncIterator[Toolbox]:
    """See :func:`sandbox.toolbox.ray.open_shared_toolbox`, whose module is imported only now.

    Raises:
        SandboxUnavailable: also where the package is missing.
    """
    try:
        from sandbox.toolbox.ray import open_shared_toolbox
    except ModuleNotFoundError as error:
        raise SandboxUnavailable(
            f"executors in a Ray cluster need the package {error.name}; install mimo-coder[ray]"
        ) from error
    async with open_shared_toolbox(backend, settings, ray, registry, on_trace) as toolbox:
        yield toolbox


def over(backend: Backend, settings: ToolboxSettings, registry: Registry | None = None) -> Toolbox:
    """One executor over ``backend``, which whoever asks closes.

    Args:
        registry: where the backend's sandboxes are on record, if they are.
    """
    return toolbox_of(Alone(Executor(backend, settings, registry=registry)), settings, backend)


def toolbox_of(
    executors: Executors,
    settings: ToolboxSettings,
    backend: Backend,
    on_trace: OnTrace | None = None,
    keepers: Keepers = Keepers(),  # noqa: B008 - frozen
) -> Toolbox:
    """All of them have backends such as this one."""

    def hear(trace: Trace) -> None:
        _tell_of_waiting(trace)
        if on_trace is not None:
            on_trace(trace)

    return Toolbox(
        executors,
        settings,
        name=backend.name,
        capabilities=backend.capabilities,
        needs_trial=isinstance(backend, TriedBackend) and backend.needs_trial,
        on_trace=hear,
        keepers=keepers,
    )


@asynccontextmanager
async def _recorded(
    backend: LastingBackend, registry: Registry, owner: str
) -> AsyncIterator[tuple[RecordedBackend, Reaper]]:
    """With all of its sandboxes on record, and what others had and let go of is swept up."""
    async with RecordedBackend.open(backend, registry, owner=owner) as recorded:
        reaper = Reaper(recorded, registry, shared=True)
        sweeping = asyncio.create_task(reaper.run())
        try:
            yield recorded, reaper
        finally:
            sweeping.cancel()
            await asyncio.wait({sweeping})


def _tell_of_waiting(trace: Trace) -> None:
    if trace.queue_s > _WAITED_S:
        _log.info("action=wait run=%s tool=%s queue_s=%.1f", trace.run, trace.tool, trace.queue_s)


def _tell_counts(counts: PoolCounts) -> None:
    _log.info("action=close pool warm=%d cold=%d made=%d dead=%d", counts.warm, counts.cold, counts.made, counts.dead)
