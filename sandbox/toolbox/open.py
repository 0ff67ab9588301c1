"""A toolbox whose executor is in this process, built out of its settings."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sandbox.pool.config import PoolSettings
from sandbox.pool.pool import PoolCounts, WarmPool
from sandbox.toolbox.calls import Trace
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.executor import Executor
from sandbox.toolbox.toolbox import Alone, Toolbox
from sandbox.types import Backend

_WAITED_S = 1.0
"""A call that waited for longer is told of."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_toolbox(
    backend: Backend, settings: ToolboxSettings, pool: PoolSettings | None = None
) -> AsyncIterator[Toolbox]:
    """One executor over ``backend``, which is closed at the end.

    Args:
        pool: keeps sandboxes ready for what the toolbox is told to expect; None: each is made when it is asked for.
    """
    async with AsyncExitStack() as stack:
        if pool is None:
            stack.push_async_callback(backend.close)
        else:
            backend = warm = await stack.enter_async_context(WarmPool.open(backend, pool))
            stack.callback(_tell_counts, warm.counts)
        yield over(backend, settings)


def over(backend: Backend, settings: ToolboxSettings) -> Toolbox:
    """One executor over ``backend``, which whoever asks closes."""
    return Toolbox(
        Alone(Executor(backend, settings)),
        settings,
        name=backend.name,
        capabilities=backend.capabilities,
        on_trace=_tell_of_waiting,
    )


def _tell_of_waiting(trace: Trace) -> None:
    if trace.queue_s > _WAITED_S:
        _log.info("action=wait run=%s tool=%s queue_s=%.1f", trace.run, trace.tool, trace.queue_s)


def _tell_counts(counts: PoolCounts) -> None:
    _log.info("action=close pool warm=%d cold=%d made=%d dead=%d", counts.warm, counts.cold, counts.made, counts.dead)
