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
        self._weights_version = "default"
        self.requests: list[GenerateRequest] = []
        """Every request, in order of arrival."""
        self.cancelled: list[str] = []
        """Ids of requests whose generator was closed before its end."""
        self.dropped: list[tuple[str, str]] = []
        """Salts and names of sessions that were to be dropped."""
        self.loaded: list[str] = []
        """Folders of weights that were to be loaded."""
        self.num_flushes = 0
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
                version = None if reason is None else self._weights_version
                yield TokenEvent(token_id, reason, self._cached_tokens, weights_version=version)
                if ended:
                    return
            ended = True
            raise EngineError("the script ended before the sequence did")
        finally:
            self._running -= 1
            if not ended:
                self.cancelled.append(request.request_id)

    async def drop_session(self, cache_salt: str, session_id: str) -> bool:
        self.dropped.append((cache_salt, session_id))
        return True

    async def flush_cache(self) -> None:
        self.num_flushes += 1

    async def load_weights(self, folder: str, version: str, *, abort: bool = False) -> None:
        self.loaded.append(folder)
        self._weights_version = version

    def stats(self) -> EngineStats:
        return EngineStats(
            self._running,
            waiting=0,
            context_length=self._context_length,
            weights_version=self._weights_version,
        )

    async def series(self) -> str:
        return ""

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
