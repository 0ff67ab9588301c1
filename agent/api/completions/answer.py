"""Answers one message with what its task does about it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from agent.api.completions.conversation import Turn, speak
from agent.api.completions.shapes import TaskOutcome
from agent.api.completions.telling import Piece, Telling, closing
from agent.api.context import Context
from agent.api.following import follow
from agent.api.web.state import read_state
from agent.store.base import TaskRecord
from agent.types import Event, Status


class Answer:
    """What a task does about one message of its user."""

    def __init__(self, shared: Context, turn: Turn, address: str) -> None:
        """
        Args:
            address: the service's.
        """
        self._shared = shared
        self._turn = turn
        self._address = address
        self._telling = Telling()

    async def task(self) -> TaskRecord:
        return await self._shared.tasks.get(self._turn.task_id)

    async def pieces(self) -> AsyncGenerator[Piece | None, None]:
        """What is added to the answer; None after a while in which nothing was."""
        async with aclosing(self._follow()) as pieces:
            async for piece in pieces:
                yield piece
        task, told = await self.task(), self._turn.told
        if task.status is Status.SUCCEEDED and told is not None and told.message_id not in self._telling.heard:
            # It ended just before it would have read the message.
            self._turn = await speak(self._shared, task, told)
            async with aclosing(self._follow()) as pieces:
                async for piece in pieces:
                    yield piece

    async def closing(self) -> list[Piece]:
        """What stands at the end, however far the task is."""
        state = await read_state(self._shared, await self.task())
        return list(self._telling.say(closing(state, self._page)))

    async def outcome(self) -> TaskOutcome:
        task = await self.task()
        return TaskOutcome(
            task_id=task.id,
            status=task.status,
            waiting_on=task.waiting_on,
            stop_reason=task.stop_reason,
            verdict=task.verdict.kind if task.verdict else None,
            url=self._page,
            patch_url=f"{self._address}/v1/tasks/{task.id}/diff" if task.status.terminal else None,
        )

    @property
    def _page(self) -> str:
        return f"{self._address}/tasks/{self._turn.task_id}"

    async def _follow(self) -> AsyncGenerator[Piece | None, None]:
        async with aclosing(follow(self._shared, self._turn.task_id, self._turn.after)) as told:
            async for thing in told:
                if thing is None:
                    yield None
                    continue
                for piece in self._telling.event(thing) if isinstance(thing, Event) else self._telling.draft(thing):
                    yield piece
