"""The engine interface over a running SGLang, which is asked by token ids."""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

import anyio
import httpx
import httpx_sse

from model_server.config import ModelConfig
from model_server.sglang.native import TokenReader, Vocabulary, refusal, request_body
from model_server.sglang.segments import Segments
from model_server.types import (
    ContextLengthExceeded,
    EngineError,
    EngineStats,
    EngineUnavailable,
    GenerateRequest,
    TokenEvent,
    WeightsRefused,
)

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
_ABORT_S = 2.0
_SERIES_S = 3.0
"""Our own series must come in time too; a scraper waits for 10 s."""
_KEEP_CONNECTION_S = 2.0
"""Shorter than the 5 s after which SGLang closes an idle connection: a request never meets a closing one."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where SGLang is, and how it was started."""

    url: str
    """Without a path."""
    context_length: int
    """Longest prompt plus completion, tokens."""
    num_groups: int = 1
    """Attention groups, each with a cache of its own."""
    api_key: str | None = None
    stall_s: float = 600.0
    """A stream that is silent for so long counts as dead. A long prompt behind others takes minutes."""
    ready_s: float = 1.0
    """After so long SGLang is asked again whether it takes requests."""


class SGLangEngine:
    """``types.Engine`` over one endpoint. Nothing is retried: who asked knows best whether to ask again."""

    def __init__(self, endpoint: Endpoint, vocabulary: Vocabulary, config: ModelConfig) -> None:
        self._endpoint = endpoint
        self._vocabulary = vocabulary
        self._config = config
        self._http = httpx.AsyncClient(
            base_url=endpoint.url,
            headers={} if endpoint.api_key is None else {"Authorization": f"Bearer {endpoint.api_key}"},
            timeout=httpx.Timeout(endpoint.stall_s, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_CONNECTION_S),
            trust_env=False,  # a proxy for the outside world is not for this machine's loopback
        )
        self._segments = Segments()
        self._ready_until = 0.0
        self._was_ready = False
        self._away_since: float | None = time.monotonic()
        """On the monotonic clock; None while SGLang answers who asks for its series."""
        self._began: dict[str, bool] = {}
        """By request: whether a token has come."""
        self._num_drafted = self._num_accepted = 0
        self._weights_version: str | None = None
        """As it was said last."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        self._check(request)
        # SGLang ends all requests whose name begins like the one it is to end, so no name may begin like another.
        rid = uuid.uuid4().hex
        body = request_body(request, rid, self._vocabulary, self._endpoint.num_groups)
        await self._check_ready()
        segment, sampled = self._segments.begin(request), list[int]()
        self._began[rid] = is_over = False
        try:
            async with contextlib.aclosing(self._events(body, TokenReader(request, self._config))) as events:
                async for event in events:
                    self._began[rid] = True
                    sampled.append(event.token_id)
                    is_over = event.finish_reason is not None
                    self._weights_version = event.weights_version or self._weights_version
                    yield replace(event, segment=segment) if is_over else event
                    if is_over:
                        return
            raise EngineError("SGLang's stream ended before the sequence did")
        finally:
            del self._began[rid]
            self._segments.end(request, segment, sampled)
            if not is_over:
                await self._abort(rid)

    async def drop_session(self, cache_salt: str, session_id: str) -> bool:
        """What SGLang has cached of it leaves when its memory is needed."""
        return self._segments.drop(cache_salt, session_id)

    async def flush_cache(self) -> None:
        """SGLang refuses while anything runs."""
        await self._asked("/flush_cache", {}, refused=EngineUnavailable)

    async def load_weights(self, folder: str, version: str, *, abort: bool = False) -> None:
        """The folder is one of SGLang's machine."""
        body = {"model_path": folder, "weight_version": version, "abort_all_requests": abort}
        await self._asked("/update_weights_from_disk", body, refused=WeightsRefused)
        self._weights_version = version

    def stats(self) -> EngineStats:
        """All requests come through here; those without a token wait."""
        running = sum(self._began.values())
        return EngineStats(
            running,
            len(self._began) - running,
            self._endpoint.context_length,
            self._num_drafted,
            self._num_accepted,
            weights_version=self._weights_version,
            away_s=0.0 if self._away_since is None else time.monotonic() - self._away_since,
        )

    async def series(self) -> str:
        try:
            answer = await self._http.get("/metrics", timeout=_SERIES_S, follow_redirects=True)
        except httpx.TransportError:
            self._away_since = self._away_since or time.monotonic()
            return ""
        self._away_since = None
        return answer.text if answer.status_code == 200 else ""

    async def close(self) -> None:
        """SGLang itself goes on."""
        await self._http.aclose()

    def _check(self, request: GenerateRequest) -> None:
        num_prompt, num_asked = len(request.prompt_ids), request.sampling.max_tokens
        if num_prompt + num_asked > self._endpoint.context_length:
            raise ContextLengthExceeded(
                f"the prompt has {num_prompt} tokens and {num_asked} are asked for,"
                f" together more than the context of {self._endpoint.context_length}"
            )

    async def _check_ready(self) -> None:
        """While SGLang drains it would still take requests, and end with them."""
        if time.monotonic() < self._ready_until:
            return
        try:
            status = (await self._http.get("/ready", timeout=_CONNECT_S)).status_code
        except httpx.TransportError as error:
            state = "gone" if self._was_ready else "not up yet"
            raise EngineUnavailable(f"SGLang is {state} ({type(error).__name__})") from error
        if status != 200:
            raise EngineUnavailable(f"SGLang is {'draining or stuck' if self._was_ready else 'starting'}")
        self._was_ready, self._ready_until = True, time.monotonic() + self._endpoint.ready_s

    async def _events(self, body: dict[str, Any], reader: TokenReader) -> AsyncGenerator[TokenEvent, None]:
        try:
            async with self._http.stream("POST", "/generate", json=body) as answer:
                if answer.status_code != 200:
                    raise refusal(answer.status_code, _message(await answer.aread()))
                async for event in httpx_sse.EventSource(answer).aiter_sse():
                    if event.data == "[DONE]":
                        break
                    for token in reader.read(_parsed(event.data)):
                        yield token
        except httpx.ConnectError as error:
            self._ready_until = 0.0
            raise EngineUnavailable("SGLang is gone") from error
        except httpx.TimeoutException as error:
            self._ready_until = 0.0
            raise EngineError(f"SGLang was silent for {self._endpoint.stall_s:g} s") from error
        except (httpx.TransportError, httpx_sse.SSEError) as error:
            self._ready_until = 0.0
            raise EngineError(f"the connection to SGLang broke ({type(error).__name__})") from error
        finally:
            self._num_drafted += reader.drafted
            self._num_accepted += reader.accepted

    async def _asked(self, path: str, body: dict[str, Any], refused: type[EngineError]) -> None:
        """Have SGLang do something that takes as long as it takes.

        Raises:
            EngineError: ``refused`` where it would not.
        """
        try:
            answer = await self._http.post(path, json=body)
        except httpx.TransportError as error:
            raise EngineUnavailable(f"SGLang is gone ({type(error).__name__})") from error
        if answer.status_code == 400:
            raise refused(_message(answer.content).strip().rstrip("."))
        if answer.status_code != 200:
            raise refusal(answer.status_code, _message(answer.content))

    async def _abort(self, rid: str) -> None:
        """Closing the connection ends a request too, but only once SGLang has something to say."""
        with anyio.move_on_after(_ABORT_S, shield=True):
            try:
                await self._http.post("/abort_request", json={"rid": rid})
            except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: this client was closed
                logger.info("abort_failed error=%s", type(error).__name__)


def _parsed(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise EngineError("SGLang's stream is no JSON") from error
    if not isinstance(event, dict):
        raise EngineError("SGLang's stream has an event that is no object")
    return event


def _message(body: bytes) -> str:
    """What an error response says, in either of the shapes that SGLang has."""
    try:
        fields = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace")
    fields = fields if isinstance(fields, dict) else {}
    error = fields.get("error", fields)
    return str(error.get("message") if isinstance(error, dict) else error)
