"""All answers to one request, generated side by side."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import anyio

from model_server.chat.turn import Delta
from model_server.server.generation import Generation, Usage

Step = tuple[int, list[Delta] | None]
"""The index of a choice and what a token added to it, or None once it is complete."""


@dataclass(frozen=True, slots=True)
class Choices:
    """One generation or more; ``num_per_prompt`` in a row continue the same prompt."""

    generations: Sequence[Generation]
    num_per_prompt: int = 1

    @property
    def usage(self) -> Usage:
        """Counts of all. A prompt counts once, and as reused where no choice had to run it."""
        total = Usage(0)
        for start in range(0, len(self.generations), self.num_per_prompt):
            usages = [generation.usage for generation in self.generations[start : start + self.num_per_prompt]]
            total.prompt_tokens += usages[0].prompt_tokens
            total.cached_tokens += min(usage.cached_tokens for usage in usages)
            total.completion_tokens += sum(usage.completion_tokens for usage in usages)
            total.reasoning_tokens += sum(usage.reasoning_tokens for usage in usages)
        return total

    async def steps(self) -> AsyncGenerator[Step, None]:
        """The steps of all, as they come. Closing the generator, or an error in one, cancels the others.

        Raises:
            ApiError: the engine refused a request, failed, or was closed.
        """
        streams = [generation.steps() for generation in self.generations]
        waiting = {_next_of(stream): index for index, stream in enumerate(streams)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    index = waiting.pop(task)
                    deltas = task.result()
                    yield index, deltas
                    # Only now: what a generation has recorded is then what its reader was told.
                    if deltas is not None:
                        waiting[_next_of(streams[index])] = index
        finally:
            with anyio.CancelScope(shield=True):
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                for stream in streams:
                    await stream.aclose()

    def ended(self, outcome: str) -> None:
        """Count and log every choice: by its own ending, or by ``outcome`` where it came to none."""
        for generation in self.generations:
            generation.ended(generation.ending or outcome)


def _next_of(stream: AsyncGenerator[list[Delta], None]) -> asyncio.Task[list[Delta] | None]:
    async def next_step() -> list[Delta] | None:
        return await anext(stream, None)

    return asyncio.create_task(next_step())
