"""What a process of the API does beside answering."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from agent.api.context import services_of
from agent.api.cron import Cron
from agent.integrations.webhooks import Sender


@asynccontextmanager
async def at_work(app: FastAPI, sender: Sender) -> AsyncIterator[None]:
    """Messages are sent, and schedules served, as long as this is open."""
    chores: tuple[Coroutine[Any, Any, None], ...] = (sender.run(), Cron(services_of(app)).run())
    running = {asyncio.ensure_future(chore) for chore in chores}
    try:
        yield
    finally:
        for chore in running:
            chore.cancel()
        await asyncio.wait(running)
