"""The HTTP application: routes, keys, limits and health."""

import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import TypeVar

import anyio
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from model_server.chat.stop_strings import StopStrings
from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import AssistantTurn, TurnParser
from model_server.config import ModelConfig
from model_server.engine.grammar import GrammarCompiler
from model_server.server.access import Access
from model_server.server.body import JsonObject, json_object, read_body
from model_server.server.chat_answer import ChatAnswer
from model_server.server.choices import Choices
from model_server.server.completion_answer import CompletionAnswer, Echo
from model_server.server.completion_schema import CompletionRequest, Prompt, parse_completion
from model_server.server.control import Control
from model_server.server.dialect import dialect_of
from model_server.server.errors import ApiError, internal
from model_server.server.forced_experts import forced_experts
from model_server.server.generation import (
    Generation,
    Usage,
    sampling_params,
    thinking_deadline,
)
from model_server.server.health import Health
from model_server.server.messages_answer import MessagesAnswer
from model_server.server.messages_schema import parse_countable, parse_messages
from model_server.server.metrics import Metrics
from model_server.server.native_answer import NativeAnswer
from model_server.server.native_schema import parse_native
from model_server.server.placement_fields import ROUTING_KEY_HEADER, PlacementFields
from model_server.server.plain_text import PlainText
from model_server.server.prompt import answered_spans, check_ids, encode_prompt, encode_text, prompt_spans
from model_server.server.responses import StreamedAnswer, WholeAnswer
from model_server.server.sampling_fields import SamplingFields
from model_server.server.schemas import ChatRequest, parse_detokenize, parse_request, parse_tokenize
from model_server.server.settings import ServerSettings
from model_server.server.structured_output import turn_grammar
from model_server.server.transcripts import SessionKey, Transcripts
from model_server.server.wire import Answer, Json
from model_server.types import Engine, GenerateRequest, SamplingParams

logger = logging.getLogger(__name__)

_Asked = TypeVar("_Asked")


def create_app(
    engine: Engine, tokenizer: ChatTokenizer, settings: ServerSettings, config: ModelConfig | None = None
) -> FastAPI:
    """The server over one engine, which it closes at its end. ``config`` is the checkpoint's, where there is one."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await engine.close()

    app = FastAPI(title="MiMo model server", lifespan=lifespan, openapi_url=None)
    service = _Service(engine, tokenizer, settings, config)
    app.include_router(service.protocol())
    app.include_router(service.native())
    app.include_router(service.probes())
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    return app


class _Service:
    """The routes and what they share."""

    def __init__(
        self, engine: Engine, tokenizer: ChatTokenizer, settings: ServerSettings, config: ModelConfig | None
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(tokenizer)
        self._settings = settings
        self._config = config
        self._metrics = Metrics(engine, settings.model_name)
        self._health = Health(engine, tokenizer, settings)
        self._transcripts = Transcripts(tokenizer)
        self._access = Access(settings.api_key)
        self._allowed = Depends(self._access)
        self._control = Control(engine, self._access, self._transcripts)
        self._created = datetime.now(UTC)

    def protocol(self) -> APIRouter:
        router = APIRouter(prefix="/v1", dependencies=[self._allowed])
        router.add_api_route("/chat/completions", self._chat, methods=["POST"], response_model=None)
        router.add_api_route("/completions", self._complete, methods=["POST"], response_model=None)
        router.add_api_route("/messages", self._converse, methods=["POST"], response_model=None)
        router.add_api_route("/messages/count_tokens", self._count, methods=["POST"])
        router.add_api_route("/models", self._models, methods=["GET"])
        router.add_api_route("/models/{name}", self._model, methods=["GET"])
        return router

    def native(self) -> APIRouter:
        """What a caller who works with tokens needs; SGLang's paths."""
        router = APIRouter(dependencies=[self._allowed])
        router.add_api_route("/generate", self._generate, methods=["POST"], response_model=None)
        router.add_api_route("/tokenize", self._tokenize, methods=["POST"])
        router.add_api_route("/detokenize", self._detokenize, methods=["POST"])
        router.add_api_route("/server_info", self._server_info, methods=["GET"])
        self._control.add_routes(router)
        # A token costs: the probes below, which need no key, generate one only now and then.
        router.add_api_route("/health_generate", self._health.now, methods=["GET"], response_model=None)
        return router

    def probes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/metrics", self._export, methods=["GET"])
        router.add_api_route("/health", self._health.lately, methods=["GET"], response_model=None)
        router.add_api_route("/livez", self._livez, methods=["GET"])
        return router

    async def _chat(self, request: Request) -> Response:
        chat = await self._asked(request, parse_request)
        answer = ChatAnswer(_new_id("chatcmpl-"), self._settings.model_name, self._tokenizer, chat.include_usage)
        return await self._answered(request, chat, answer)

    async def _converse(self, request: Request) -> Response:
        """The same in Anthropic's protocol."""
        chat = await self._asked(request, parse_messages)
        answer = MessagesAnswer(_new_id("msg_"), self._settings.model_name, chat.max_tokens)
        return await self._answered(request, chat, answer)

    async def _count(self, request: Request) -> Json:
        """How long a conversation would be."""
        chat = await self._asked(request, parse_countable)
        self._check_model(chat.model)
        ids = await anyio.to_thread.run_sync(encode_prompt, chat, self._tokenizer, self._context_length)
        return {"input_tokens": len(ids)}

    async def _answered(self, request: Request, chat: ChatRequest, answer: Answer) -> Response:
        self._check_model(chat.model)
        salt = self._access.salt(chat.cache_salt)
        session = None if chat.session_id is None else (salt, chat.session_id)
        spans = await anyio.to_thread.run_sync(prompt_spans, chat, self._tokenizer, self._context_length)
        prompt_ids = await anyio.to_thread.run_sync(self._transcripts.encode, session, spans)
        grammar = await anyio.to_thread.run_sync(turn_grammar, chat, self._grammars)
        sampling = replace(
            self._sampling(chat, prompt_ids, chat.num_logprobs),
            deadline=thinking_deadline(chat, self._tokenizer),
            grammar=grammar,
        )
        choices = self._choices(
            [self._placed(request, GenerateRequest(answer.id, prompt_ids, sampling, chat.experts_from), chat)],
            chat.n,
            chat.stop,
            lambda: TurnParser(chat.enable_thinking, chat.offered_tools, parse_calls=bool(chat.offered_tools)),
            single_call=not chat.parallel_tool_calls,
            remember=None if session is None else partial(self._remember, chat, session, prompt_ids),
        )
        return (StreamedAnswer if chat.stream else WholeAnswer)(choices, answer)

    async def _remember(
        self, chat: ChatRequest, session: SessionKey, prompt_ids: Sequence[int], turn: AssistantTurn, ids: Sequence[int]
    ) -> None:
        """The session's next prompt begins with these tokens. The marker that ends a turn is left to that prompt."""

        def keep() -> None:
            self._transcripts.keep(session, answered_spans(chat, turn)[:-1], (*prompt_ids, *ids))

        await anyio.to_thread.run_sync(keep)

    async def _complete(self, request: Request) -> Response:
        """Plain continuations: no template, no parser."""
        asked = await self._asked(request, parse_completion)
        self._check_model(asked.model)
        prompts = await anyio.to_thread.run_sync(self._encoded, asked)
        name = _new_id("cmpl-")
        requests = [
            self._placed(
                request,
                GenerateRequest(
                    name,
                    prompt_ids,
                    self._sampling(asked, prompt_ids, asked.logprobs),
                    scored_from=0 if asked.scores_prompt else None,
                ),
                asked,
            )
            for prompt_ids in prompts
        ]
        echoes = [
            Echo(self._text(prompt), prompt_ids if asked.scores_prompt else ()) if asked.echo else Echo()
            for prompt, prompt_ids in zip(asked.prompts, prompts, strict=True)
            for _ in range(asked.n)
        ]
        answer = CompletionAnswer(
            name,
            self._settings.model_name,
            self._tokenizer,
            asked.include_usage,
            echoes,
            only_scores=asked.only_scores,
        )
        choices = self._choices(requests, asked.n, asked.stop, PlainText)
        return (StreamedAnswer if asked.stream else WholeAnswer)(choices, answer)

    async def _generate(self, request: Request) -> Response:
        """A continuation by token ids."""
        asked = await self._asked(request, parse_native)
        prompt_ids = check_ids(asked.input_ids, self._tokenizer, "input_ids")
        fields = asked.sampling_params
        stop_ids = frozenset(check_ids(fields.stop_token_ids, self._tokenizer, "sampling_params.stop_token_ids"))
        ends = stop_ids if fields.ignore_eos else stop_ids | self._tokenizer.end_ids
        sampling = self._sampling(fields, prompt_ids, asked.num_logprobs)
        sampling = replace(sampling, stop_ids=frozenset() if asked.only_scores else ends)
        answer = NativeAnswer(_new_id("gen-"), asked, self._tokenizer)
        forced = await anyio.to_thread.run_sync(forced_experts, asked, self._config)
        generate = GenerateRequest(
            answer.id, prompt_ids, sampling, asked.experts_from, forced, scored_from=asked.scored_from
        )
        choices = self._choices([self._placed(request, generate, asked)], 1, fields.stop, PlainText)
        return (StreamedAnswer if asked.stream else WholeAnswer)(choices, answer)

    def _placed(self, request: Request, generate: GenerateRequest, asked: PlacementFields) -> GenerateRequest:
        return replace(
            generate,
            cache_salt=self._access.salt(asked.cache_salt),
            session_id=asked.session_id,
            routing_key=request.headers.get(ROUTING_KEY_HEADER),
            priority=asked.priority,
        )

    def _encoded(self, asked: CompletionRequest) -> list[tuple[int, ...]]:
        return [
            encode_text(prompt, self._tokenizer, self._context_length)
            if isinstance(prompt, str)
            else check_ids(prompt, self._tokenizer, "prompt")
            for prompt in asked.prompts
        ]

    def _text(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        return "".join(span.text for span in self._tokenizer.decode(prompt))

    def _sampling(self, fields: SamplingFields, prompt_ids: Sequence[int], num_logprobs: int | None) -> SamplingParams:
        sampling = sampling_params(fields, len(prompt_ids), self._context_length, self._tokenizer)
        return replace(sampling, num_logprobs=num_logprobs)

    def _choices(
        self,
        requests: Sequence[GenerateRequest],
        n: int,
        stop: Sequence[str],
        parser: Callable[[], TurnParser],
        *,
        single_call: bool = False,
        remember: Callable[[AssistantTurn, Sequence[int]], Awaitable[None]] | None = None,
    ) -> Choices:
        """``n`` answers to every request."""
        generations = [
            Generation(
                engine=self._engine,
                request=_variant(request, request_index * n + index, index),
                parser=parser(),
                decoder=self._tokenizer.stream(),
                stop=StopStrings(stop),
                usage=Usage(len(request.prompt_ids)),
                generated=self._health.token_came,
                metrics=self._metrics,
                single_call=single_call,
                remember=remember,
            )
            for request_index, request in enumerate(requests)
            for index in range(n)
        ]
        return Choices(generations, n)

    async def _tokenize(self, request: Request) -> Json:
        """Token ids of a text, or of a conversation as it would be sent to the model."""
        asked = await self._asked(request, parse_tokenize)
        self._check_model(asked.model)
        if isinstance(asked, ChatRequest):
            ids = await anyio.to_thread.run_sync(encode_prompt, asked, self._tokenizer, self._context_length)
        else:
            ids = await anyio.to_thread.run_sync(encode_text, asked.prompt, self._tokenizer, self._context_length)
        return {"tokens": ids, "count": len(ids), "max_model_len": self._context_length}

    async def _detokenize(self, request: Request) -> Json:
        asked = await self._asked(request, parse_detokenize)
        self._check_model(asked.model)
        return {"text": await anyio.to_thread.run_sync(self._text, asked.tokens)}

    async def _export(self) -> Response:
        series = self._metrics.text(await self._engine.series())
        return Response(series, media_type="text/plain; version=0.0.4")

    async def _models(self) -> Json:
        """In both protocols at once; neither minds the fields of the other."""
        name = self._settings.model_name
        return {"object": "list", "data": [self._card()], "has_more": False, "first_id": name, "last_id": name}

    async def _model(self, name: str) -> Json:
        self._check_model(name)
        return self._card()

    async def _server_info(self) -> Json:
        """What runs here. Nothing in it is secret, but it is for callers."""
        stats = self._engine.stats()
        return {
            "version": version("mimo-coder"),
            "served_model_name": self._settings.model_name,
            "context_length": stats.context_length,
            "vocab_size": self._tokenizer.vocab_size,
            "weight_version": stats.weights_version,
            "num_running_reqs": stats.running,
            "num_queue_reqs": stats.waiting,
            "num_drafted_tokens": stats.drafted,
            "num_accepted_tokens": stats.accepted,
            "model_config": None if self._config is None else self._config.model_dump(),
        }

    async def _livez(self) -> Json:
        """The process runs."""
        return {"status": "alive"}

    def _card(self) -> Json:
        return {
            "id": self._settings.model_name,
            "object": "model",
            "type": "model",
            "display_name": self._settings.model_name,
            "created": int(self._created.timestamp()),
            "created_at": self._created.isoformat(timespec="seconds"),
            "owned_by": "mimo-coder",
            "max_model_len": self._context_length,
        }

    @property
    def _context_length(self) -> int:
        """Longest prompt plus completion, tokens."""
        return self._engine.stats().context_length

    def _check_model(self, name: str) -> None:
        served = self._settings.model_name
        if name != served:
            raise ApiError(
                f"There is no model {name!r} here. This server has: {served}.",
                status=404,
                code="model_not_found",
                param="model",
            )

    async def _asked(self, request: Request, parse: Callable[[JsonObject], _Asked]) -> _Asked:
        """A checked request. Other streams go on while a long one is read and checked."""
        body = await read_body(request, self._settings.max_body_bytes)
        return await anyio.to_thread.run_sync(lambda: parse(json_object(body, self._context_length)))


def _new_id(kind: str) -> str:
    return f"{kind}{uuid.uuid4().hex}"


def _variant(request: GenerateRequest, place: int, index: int) -> GenerateRequest:
    """The request of one choice: the first is as it was asked for, others have their own id and their own draws."""
    seed = request.sampling.seed
    return replace(
        request,
        request_id=f"{request.request_id}-{place}" if place else request.request_id,
        sampling=request.sampling if seed is None else replace(request.sampling, seed=(seed + index) % 2**63),
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError), error
    return dialect_of(request.url.path).response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException), error
    message = f"{request.method} {request.url.path}: {error.detail}. This server has POST /v1/chat/completions."
    return dialect_of(request.url.path).response(ApiError(message, status=error.status_code, code="not_found"))


async def _bug(request: Request, error: Exception) -> Response:
    request_id = uuid.uuid4().hex
    logger.error("request_failed id=%s error=%s", request_id, type(error).__name__)
    return dialect_of(request.url.path).response(internal(request_id))
