"""Reads a task's whole log, page by page."""

from collections.abc import AsyncIterator

from agent.store.base import ProjectStore
from agent.types import Event

_PAGE = 1000


async def whole_log(tasks: ProjectStore, task_id: str, *, after: int = 0) -> AsyncIterator[Event]:
    """Every event after ``after``.

    Raises:
        UnknownTask: the project has no such task.
    """
    while page := await tasks.events(task_id, after=after, limit=_PAGE):
        for event in page:
            yield event
        if len(page) < _PAGE:
            return
        after = page[-1].seq
