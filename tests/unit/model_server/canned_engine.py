"""An engine that says the same events to everyone, whatever they hold."""

from collections.abc import AsyncGenerator

from model_server.types import EngineStats, GenerateRequest, TokenEvent


class CannedEngine:
    def __init__(self, *events: TokenEvent) -> None:
        self.events = events
        self.requests: list[GenerateRequest] = []

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        self.requests.append(request)
        for event in self.events:
            yield event

    async def drop_session(self, cache_salt: str, session_id: str) -> bool:
        raise NotImplementedError

    async def flush_cache(self) -> None:
        raise NotImplementedError

    async def load_weights(self, folder: str, version: str, *, abort: bool = False) -> None:
        raise NotImplementedError

    async def series(self) -> str:
        return ""

    def stats(self) -> EngineStats:
        return EngineStats(running=0, waiting=0, context_length=65_536)

    async def close(self) -> None:
        pass
