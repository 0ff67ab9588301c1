"""SGLang's native endpoints over any engine, with its states and its faults.

For tests of what stands in front of SGLang, where there is no GPU. It gives ids without text, since nobody in front of
it reads its text.
"""

import asyncio
import base64
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from model_server.config import ModelConfig
from model_server.types import (
    ContextLengthExceeded,
    Engine,
    EngineError,
    GenerateRequest,
    Grammar,
    Logprobs,
    Overloaded,
    SamplingParams,
    TokenDeadline,
    TokenEvent,
    UnfollowableGrammar,
    WeightsRefused,
)

if TYPE_CHECKING:
    from torch import Tensor

Json = dict[str, Any]


class State(StrEnum):
    """What SGLang is going through; READY, STARTING and DRAINING are a healthy one's, the others faults."""

    STARTING = "starting"
    """Listens, and takes no requests yet. Before that it does not listen at all."""
    READY = "ready"
    DRAINING = "draining"
    """Says that it is leaving, and serves who comes all the same."""
    WEDGED = "wedged"
    """Takes requests and never says a word; everything but ``/health`` looks well."""
    SLOW = "slow"
    """Takes ``slow_s`` for every token."""
    DYING = "dying"
    """The connection breaks after ``tokens_before_fault``."""
    CUTTING = "cutting"
    """Streams end after ``tokens_before_fault`` as if they were complete."""


class GrammarFields(BaseModel):
    """How a request says its form."""

    model_config = ConfigDict(extra="forbid")

    json_schema: str | None = None
    structural_tag: str | None = None
    require_reasoning: bool = False


class FakeSGLang:
    """The application is ``app``; ``state`` may change at any time, and by ``POST /fake/state`` too."""

    def __init__(
        self,
        engine: Engine,
        *,
        config: ModelConfig | None = None,
        end_think_id: int = -1,
        grammar: Callable[[GrammarFields], Grammar | None] = lambda fields: None,
        incremental: bool = True,
        slow_s: float = 0.05,
        tokens_before_fault: int = 2,
    ) -> None:
        """``config`` is needed where routed experts are asked for. ``grammar`` makes forms that the engine can follow;
        without it forms are not enforced. ``incremental`` is the flag ``--incremental-streaming-output``."""
        self._engine = engine
        self._config = config
        self._end_think_id = end_think_id
        self._grammar = grammar
        self._incremental = incremental
        self._slow_s = slow_s
        self._tokens_before_fault = tokens_before_fault
        self._running: dict[str, _Running] = {}
        self.state = State.READY
        self.bodies: list[Json] = []
        """Of every request for tokens, in order of arrival."""
        self.aborted: list[str] = []
        """Names that were to be ended, in order."""
        self.app = self._routes()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def _routes(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        app.add_api_route("/ready", self._ready, methods=["GET"])
        app.add_api_route("/health", self._health, methods=["GET"])
        app.add_api_route("/health_generate", self._health, methods=["GET"])
        app.add_api_route("/generate", self._generate, methods=["POST", "PUT"], response_model=None)
        app.add_api_route("/flush_cache", self._flush, methods=["GET", "POST"])
        app.add_api_route("/update_weights_from_disk", self._update_weights, methods=["POST"])
        app.add_api_route("/abort_request", self._abort, methods=["POST"])
        app.add_api_route("/server_info", self._server_info, methods=["GET"])
        app.add_api_route("/metrics", self._metrics, methods=["GET"])
        app.add_api_route("/fake/state", self._become, methods=["POST"])
        return app

    async def _ready(self) -> Response:
        is_away = self.state in (State.STARTING, State.DRAINING)
        return Response(status_code=503 if is_away else 200)

    async def _health(self) -> Response:
        """A token for this very request."""
        if self.state in (State.STARTING, State.DRAINING):
            return Response(status_code=503)
        if self.state is State.WEDGED:
            await asyncio.Event().wait()
        sampling = SamplingParams(temperature=0.0, max_tokens=1)
        async with aclosing(self._engine.generate(GenerateRequest("HEALTH_CHECK", (0,), sampling))) as events:
            async for _ in events:
                return Response(status_code=200)
        return Response(status_code=503)

    async def _generate(self, body: Annotated[Json, Body()]) -> Response:
        self.bodies.append(body)
        if self.state is State.STARTING:
            return Response(status_code=503)
        try:
            asked = _GenerateBody.model_validate(body)
            request = self._request(asked)
        except ValueError as error:
            return JSONResponse({"error": {"message": str(error)}}, 400)
        if asked.rid in self._running:
            return JSONResponse({"error": {"message": f"Duplicate request ID detected: {asked.rid}"}}, 400)
        stream = self._frames(asked, request)
        if asked.stream:
            return StreamingResponse(_sent(stream), media_type="text/event-stream")
        frames = [frame async for frame in stream]
        return JSONResponse(frames[-1], 400 if "error" in frames[-1] else 200)

    async def _abort(self, body: Annotated[Json, Body()]) -> Response:
        """Ends all whose name begins so, as SGLang does."""
        name = body.get("rid", "")
        self.aborted.append(name)
        for running in self._running.values():
            if name and running.rid.startswith(name):
                running.is_aborted = True
        return Response(status_code=200)

    async def _flush(self) -> Response:
        if self._running:
            return Response("Flush cache failed.\n", 400)
        await self._engine.flush_cache()
        return Response("Cache flushed.\n")

    async def _update_weights(self, body: Annotated[Json, Body()]) -> Response:
        asked = _WeightsBody.model_validate(body)
        try:
            await self._engine.load_weights(asked.model_path, asked.weight_version, abort=asked.abort_all_requests)
        except WeightsRefused as error:
            return JSONResponse({"success": False, "message": str(error), "num_paused_requests": 0}, 400)
        return JSONResponse({"success": True, "message": "Succeeded to update weights.", "num_paused_requests": 0})

    async def _server_info(self) -> Json:
        stats = self._engine.stats()
        return {
            "version": "0.5.23",
            "context_length": stats.context_length,
            "internal_states": [{"num_running_reqs": stats.running, "num_waiting_reqs": stats.waiting}],
        }

    async def _metrics(self) -> Response:
        registry, stats = CollectorRegistry(), self._engine.stats()
        own = (("num_running_reqs", stats.running), ("num_queue_reqs", stats.waiting), ("gen_throughput", 0.0))
        for name, value in own:
            Gauge(f"sglang:{name}", name, ["tp_rank"], registry=registry).labels(tp_rank="0").set(value)
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    async def _become(self, body: Annotated[Json, Body()]) -> Response:
        self.state = State(body["state"])
        return Response(status_code=200)

    def _request(self, asked: "_GenerateBody") -> GenerateRequest:
        fields = asked.sampling_params
        form = GrammarFields(
            json_schema=fields.json_schema,
            structural_tag=fields.structural_tag,
            require_reasoning=asked.require_reasoning,
        )
        budget = asked.max_thinking_tokens
        sampling = SamplingParams(
            temperature=fields.temperature,
            top_p=fields.top_p,
            top_k=max(fields.top_k, 0),
            min_p=fields.min_p,
            frequency_penalty=fields.frequency_penalty,
            presence_penalty=fields.presence_penalty,
            repetition_penalty=fields.repetition_penalty,
            logit_bias=tuple((int(token_id), bias) for token_id, bias in fields.logit_bias.items()),
            seed=fields.sampling_seed,
            max_tokens=fields.max_new_tokens,
            stop_ids=frozenset() if fields.ignore_eos else frozenset(fields.stop_token_ids),
            num_logprobs=asked.top_logprobs_num if asked.return_logprob else None,
            deadline=None if budget is None else TokenDeadline(self._end_think_id, budget),
            grammar=self._grammar(form),
        )
        return GenerateRequest(
            request_id=asked.rid,
            prompt_ids=tuple(asked.input_ids),
            sampling=sampling,
            experts_from=asked.routed_experts_start_len if asked.return_routed_experts else None,
            cache_salt=asked.cache_salt or "",
            priority=asked.priority or 0,
            scored_from=asked.logprob_start_len if asked.return_logprob and asked.logprob_start_len >= 0 else None,
        )

    async def _frames(self, asked: "_GenerateBody", request: GenerateRequest) -> AsyncGenerator[Json, None]:
        running = self._running[asked.rid] = _Running(asked, self._incremental)
        try:
            async with aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    await self._hold_up()
                    if running.is_aborted:
                        yield running.aborted("Aborted", None)
                        return
                    running.take(event)
                    yield running.frame(event, self._routes_of(event.experts, request))
                    if self.state is State.DYING and running.num_tokens >= self._tokens_before_fault:
                        raise ConnectionAbortedError("the fake SGLang dies, as it was told to")
                    if self.state is State.CUTTING and running.num_tokens >= self._tokens_before_fault:
                        raise _Cut
        except ContextLengthExceeded as error:
            text = f"{error} (the model's context length)"
            yield {"error": {"message": text, "type": "invalid_request_error", "code": 400, "retryable": False}}
        except Overloaded:
            yield running.aborted("The request queue is full.", 503)
        except UnfollowableGrammar as error:
            yield running.aborted(f"Failed to compile grammar: {error}", 400)
        except EngineError as error:
            yield running.aborted(f"internal error: {error}", 500)
        finally:
            del self._running[asked.rid]

    async def _hold_up(self) -> None:
        while self.state is State.WEDGED:  # noqa: ASYNC110 (a test changes the state whenever it likes)
            await asyncio.sleep(0.02)
        if self.state is State.SLOW:
            await asyncio.sleep(self._slow_s)

    def _routes_of(self, experts: "Tensor | None", request: GenerateRequest) -> str | None:
        """int32 [S, L, K] with rows for layers without experts, as SGLang has them."""
        if experts is None:
            return None
        import torch  # a scripted engine needs none, and starts in a fraction of the time

        if self._config is None:
            raise EngineError("the fake needs the model's config to tell routed experts")
        layers = [layer for layer, has_experts in enumerate(self._config.moe_layer_freq) if has_experts]
        routes = torch.zeros(len(experts), self._config.num_hidden_layers, experts.shape[2], dtype=torch.int32)
        routes[:, layers] = experts.to(torch.int32)
        return base64.b64encode(routes.numpy().tobytes()).decode()


class _Cut(Exception):
    """A stream is to end without its end."""


class _SamplingBody(BaseModel):
    """What our client sends; anything else is a mistake that a test should see."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 128
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    sampling_seed: int | None = None
    logit_bias: dict[str, float] = {}
    json_schema: str | None = None
    structural_tag: str | None = None


class _GenerateBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rid: str
    input_ids: list[int] = Field(min_length=1)
    sampling_params: _SamplingBody = _SamplingBody()
    stream: bool = False
    priority: int | None = None
    require_reasoning: bool = False
    max_thinking_tokens: int | None = None
    return_logprob: bool = False
    top_logprobs_num: int = 0
    logprob_start_len: int = -1
    return_routed_experts: bool = False
    routed_experts_start_len: int = 0
    cache_salt: str | None = None
    routed_dp_rank: int | None = None


class _WeightsBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model_path: str
    weight_version: str
    abort_all_requests: bool


@dataclass(slots=True)
class _Running:
    """A sequence as its stream shows it."""

    asked: _GenerateBody
    incremental: bool
    is_aborted: bool = False
    started_at: float = field(default_factory=time.monotonic)
    ids: list[int] = field(default_factory=list)
    scores: list[Logprobs] = field(default_factory=list)
    prompt_scores: tuple[Logprobs, ...] = ()
    cached_tokens: int = 0
    weights_version: str | None = None
    """The real one says it from the first token on."""

    @property
    def rid(self) -> str:
        return self.asked.rid

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    def take(self, event: TokenEvent) -> None:
        self.ids.append(event.token_id)
        self.cached_tokens = event.cached_tokens
        if event.logprobs is not None:
            self.scores.append(event.logprobs)
        self.prompt_scores, self.weights_version = event.prompt_logprobs or (), event.weights_version

    def frame(self, event: TokenEvent, routes: str | None) -> Json:
        match event.finish_reason:
            case None:
                return self._shown(None)
            case "stop":
                return self._shown({"type": "stop", "matched": event.token_id}, routes)
            case "length":
                return self._shown({"type": "length", "length": self.num_tokens}, routes)
            case "cancelled":
                return self.aborted("Aborted", None)

    def aborted(self, message: str, status: int | None) -> Json:
        return self._shown({"type": "abort", "message": message, "status_code": status, "err_type": None})

    def _shown(self, finish_reason: Json | None, routes: str | None = None) -> Json:
        start = self.num_tokens - 1 if self.incremental and self.ids else 0
        facts: Json = {
            "id": self.rid,
            "finish_reason": finish_reason,
            "prompt_tokens": len(self.asked.input_ids),
            "completion_tokens": self.num_tokens,
            "cached_tokens": self.cached_tokens,
            "reasoning_tokens": 0,
            "weight_version": self.weights_version or "default",
        }
        if self.asked.return_logprob:
            scores = list(zip(self.ids, self.scores, strict=True))[start:]
            facts |= _logprobs("output", scores, with_likeliest=self.asked.top_logprobs_num > 0)
            if finish_reason is not None and self.asked.logprob_start_len >= 0:
                facts |= self._prompt_logprobs()
        if routes is not None:
            facts["routed_experts"] = routes
        if finish_reason is not None:
            facts["e2e_latency"] = time.monotonic() - self.started_at
        return {"text": "", "output_ids": self.ids[start:], "meta_info": facts}

    def _prompt_logprobs(self) -> Json:
        """The first token that is named has none."""
        named = self.asked.input_ids[self.asked.logprob_start_len :]
        unscored = Logprobs(-math.inf, ())
        scores = list(zip(named, (unscored, *self.prompt_scores), strict=True))
        return _logprobs("input", scores, with_likeliest=self.asked.top_logprobs_num > 0)


def _logprobs(kind: str, scores: Sequence[tuple[int, Logprobs]], *, with_likeliest: bool) -> Json:
    facts: Json = {
        f"{kind}_token_logprobs": [(_finite(score.sampled), token_id, None) for token_id, score in scores],
    }
    if with_likeliest:
        rows = [[(_finite(value), token_id, None) for token_id, value in score.likeliest] for _, score in scores]
        facts[f"{kind}_top_logprobs"] = [row or None for row in rows]
    return facts


def _finite(value: float) -> float | None:
    """JSON has no infinity; SGLang writes null."""
    return value if math.isfinite(value) else None


async def _sent(frames: AsyncGenerator[Json, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(frames):
        try:
            async for frame in frames:
                yield b"data: " + json.dumps(frame).encode() + b"\n\n"
        except _Cut:
            return
        yield b"data: [DONE]\n\n"
