"""Whether the engine generates, which is more than that the process runs."""

import time
import uuid
from contextlib import aclosing

import anyio
from starlette.responses import JSONResponse, Response

from model_server.chat.tokens import ChatTokenizer
from model_server.server.errors import ApiError, from_engine
from model_server.server.settings import ServerSettings
from model_server.types import Engine, EngineError, EngineUnavailable, GenerateRequest, Overloaded, SamplingParams


class Health:
    """Knows when the engine last proved that it generates."""

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer, settings: ServerSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._prompt_ids = tuple(sorted(tokenizer.end_ids))
        self._last_token_at: float | None = None
        """On the monotonic clock."""

    def token_came(self) -> None:
        """Any sequence's token is a proof."""
        self._last_token_at = time.monotonic()

    async def lately(self) -> Response:
        """Ready means that a token came lately, or comes now, or that the engine is full of those who get theirs."""
        last = self._last_token_at
        if last is None or time.monotonic() - last > self._settings.health_fresh_s:
            try:
                await self._generate()
            except Overloaded:
                self.token_came()
        return self._ready()

    async def now(self) -> Response:
        """Ready means that a token came for this very request.

        Raises:
            ApiError: also where the engine is full.
        """
        try:
            await self._generate()
        except Overloaded as error:
            raise from_engine(error, "") from error
        return self._ready()

    def _ready(self) -> Response:
        stats = self._engine.stats()
        return JSONResponse({"status": "ready", "running": stats.running, "waiting": stats.waiting})

    async def _generate(self) -> None:
        """One token, or an ApiError that says why there is none; Overloaded is the caller's to judge."""
        problem = await self._problem()
        if problem is not None:
            message = f"The engine does not generate: {problem}. Wait, or look at the server's log."
            raise ApiError(message, status=503, code="not_ready", retry_after_s=1)
        self.token_came()

    async def _problem(self) -> str | None:
        probe = GenerateRequest(f"health-{uuid.uuid4().hex}", self._prompt_ids, SamplingParams(0.0, max_tokens=1))
        try:
            with anyio.fail_after(self._settings.health_timeout_s):
                async with aclosing(self._engine.generate(probe)) as events:
                    async for event in events:
                        return "it was closed" if event.finish_reason == "cancelled" else None
        except Overloaded:
            raise
        except EngineUnavailable as error:
            return str(error)
        except EngineError as error:
            return type(error).__name__
        except TimeoutError:
            return f"no token in {self._settings.health_timeout_s:g} s"
        return "it gave no token"
