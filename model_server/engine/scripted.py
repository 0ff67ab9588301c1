"""An engine that replays token ids instead of running a model."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

from model_server.types import (
    ContextLengthExceeded,
    EngineError,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Overloaded,
    TokenEvent,
)

Script = Callable[[GenerateRequest], Iterable[int]]


class ScriptedEngine:
    """Continues every sequence with the ids its script gives, under the same rules as a real engine.

    A script may be endless; one that ends before a stop token or ``max_tokens`` fails the sequence.
    """

    def __init__(
        self,
        script: Script,
        *,
        context_length: int = 65_536,
        max_running: int = 64,
        cached_tokens: int = 0,
        interval_s: float = 0.0,
    ) -> None:
        self._script = script
        self._context_length = context_length
        self._max_running = max_running
        self._cached_tokens = cached_tokens
        self._interval_s = interval_s
        self._running = 0
        self.requests: list[GenerateRequest] = []
        """Every request, in order of arrival."""
        self.cancelled: list[str] = []
        """Ids of requests whose generator was closed before its end."""
        self.closed = False

    @classmethod
    def replaying(cls, *scripts: Sequence[int]) -> "ScriptedEngine":
        """One list of ids for each request, in order."""
        remaining = iter(scripts)
        return cls(lambda request: next(remaining))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        self.requests.append(request)
        self._admit(request)
        self._running += 1
        ended = False
        try:
            for num_tokens, token_id in enumerate(self._script(request), start=1):
                await asyncio.sleep(self._interval_s)
                reason = _finish_reason(request, token_id, num_tokens)
                ended = reason is not None
                yield TokenEvent(token_id, reason, self._cached_tokens)
                if ended:
                    return
            ended = True
            raise EngineError("the script ended before the sequence did")
        finally:
            self._running -= 1
            if not ended:
                self.cancelled.append(request.request_id)

    def stats(self) -> EngineStats:
        return EngineStats(self._running, waiting=0, context_length=self._context_length)

    async def close(self) -> None:
        self.closed = True

    def _admit(self, request: GenerateRequest) -> None:
        wanted = len(request.prompt_ids) + request.sampling.max_tokens
        if wanted > self._context_length:
            raise ContextLengthExceeded(f"{wanted} tokens do not fit the context of {self._context_length}")
        if self._running >= self._max_running:
            raise Overloaded(f"{self._running} sequences are running already")


def _finish_reason(request: GenerateRequest, token_id: int, num_tokens: int) -> FinishReason | None:
    if token_id in request.sampling.stop_ids:
        return "stop"
    return "length" if num_tokens == request.sampling.max_tokens else None
