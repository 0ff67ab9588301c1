"""The HTTP application: routes, keys, limits and health."""

import hmac
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import anyio
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from model_server.chat.stop_strings import StopStrings
from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import TurnParser
from model_server.server.errors import ApiError, internal
from model_server.server.generation import Generation, Usage, encode_prompt, sampling_params
from model_server.server.metrics import Metrics
from model_server.server.responses import StreamedAnswer, WholeAnswer
from model_server.server.schemas import ChatRequest, parse_detokenize, parse_request, parse_tokenize
from model_server.server.settings import ServerSettings
from model_server.server.wire import Answer, Json
from model_server.types import Engine, EngineError, GenerateRequest, Overloaded, SamplingParams

logger = logging.getLogger(__name__)


def create_app(engine: Engine, tokenizer: ChatTokenizer, settings: ServerSettings) -> FastAPI:
    """The server over one engine, which it closes at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await engine.close()

    app = FastAPI(title="MiMo model server", lifespan=lifespan, openapi_url=None)
    service = _Service(engine, tokenizer, settings)
    app.include_router(service.protocol())
    app.include_router(service.token_routes())
    app.include_router(service.probes())
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    return app


class _Service:
    """The routes and what they share."""

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer, settings: ServerSettings) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._settings = settings
        self._metrics = Metrics(engine, settings.model_name)
        self._created = int(time.time())
        self._last_token_at: float | None = None
        """When the engine last proved that it generates, on the monotonic clock."""

    def protocol(self) -> APIRouter:
        router = APIRouter(prefix="/v1", dependencies=[Depends(self._authorise)])
        router.add_api_route("/chat/completions", self._chat, methods=["POST"], response_model=None)
        router.add_api_route("/models", self._models, methods=["GET"])
        router.add_api_route("/models/{name}", self._model, methods=["GET"])
        return router

    def token_routes(self) -> APIRouter:
        """What a caller who counts or cuts tokens needs; SGLang's paths."""
        router = APIRouter(dependencies=[Depends(self._authorise)])
        router.add_api_route("/tokenize", self._tokenize, methods=["POST"])
        router.add_api_route("/detokenize", self._detokenize, methods=["POST"])
        return router

    def probes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/metrics", self._export, methods=["GET"])
        router.add_api_route("/health", self._health, methods=["GET"], response_model=None)
        router.add_api_route("/livez", self._livez, methods=["GET"])
        return router

    async def _chat(self, request: Request) -> Response:
        body = await _body(request, self._settings.max_body_bytes)
        chat = parse_request(body)
        self._check_model(chat.model)
        # A long conversation takes a while to encode; other streams go on meanwhile.
        prompt_ids = await anyio.to_thread.run_sync(encode_prompt, chat, self._tokenizer)
        answer = Answer(f"chatcmpl-{uuid.uuid4().hex}", self._settings.model_name, self._tokenizer)
        generation = self._generation(chat, prompt_ids, answer.id)
        if not chat.stream:
            return WholeAnswer(generation, answer)
        options = chat.stream_options
        return StreamedAnswer(generation, answer, include_usage=options is not None and options.include_usage)

    def _generation(self, chat: ChatRequest, prompt_ids: tuple[int, ...], request_id: str) -> Generation:
        context_length = self._engine.stats().context_length
        sampling = sampling_params(chat, len(prompt_ids), context_length, self._tokenizer)
        return Generation(
            engine=self._engine,
            request=GenerateRequest(
                request_id,
                prompt_ids,
                sampling,
                experts_from=chat.routed_experts_start_len if chat.return_routed_experts else None,
            ),
            parser=TurnParser(
                chat.chat_template_kwargs.enable_thinking, chat.offered_tools, parse_calls=bool(chat.offered_tools)
            ),
            decoder=self._tokenizer.stream(),
            stop=StopStrings(chat.stop),
            usage=Usage(len(prompt_ids)),
            generated=self._token_came,
            metrics=self._metrics,
        )

    def _token_came(self) -> None:
        self._last_token_at = time.monotonic()

    async def _tokenize(self, request: Request) -> Json:
        """Token ids of a text, or of a conversation as it would be sent to the model."""
        asked = parse_tokenize(await _body(request, self._settings.max_body_bytes))
        self._check_model(asked.model)
        if isinstance(asked, ChatRequest):
            ids = await anyio.to_thread.run_sync(encode_prompt, asked, self._tokenizer)
        else:
            ids = tuple(await anyio.to_thread.run_sync(self._tokenizer.encode_text, asked.prompt))
        return {"tokens": ids, "count": len(ids), "max_model_len": self._engine.stats().context_length}

    async def _detokenize(self, request: Request) -> Json:
        asked = parse_detokenize(await _body(request, self._settings.max_body_bytes))
        self._check_model(asked.model)
        return {"text": "".join(span.text for span in self._tokenizer.decode(asked.tokens))}

    async def _export(self) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _models(self) -> Json:
        return {"object": "list", "data": [self._card()]}

    async def _model(self, name: str) -> Json:
        self._check_model(name)
        return self._card()

    async def _livez(self) -> Json:
        """The process runs."""
        return {"status": "alive"}

    async def _health(self) -> Response:
        """Ready means that the engine generates, and nothing less."""
        now = time.monotonic()
        if self._last_token_at is None or now - self._last_token_at > self._settings.health_fresh_s:
            problem = await self._cannot_generate()
            if problem is not None:
                message = f"The engine does not generate: {problem}. Wait, or look at the server's log."
                return ApiError(message, status=503, code="not_ready", retry_after_s=1).response()
            self._token_came()
        stats = self._engine.stats()
        return JSONResponse({"status": "ready", "running": stats.running, "waiting": stats.waiting})

    async def _cannot_generate(self) -> str | None:
        """Why one token cannot be had, or None."""
        probe = GenerateRequest(
            f"health-{uuid.uuid4().hex}", tuple(sorted(self._tokenizer.end_ids)), SamplingParams(0.0, max_tokens=1)
        )
        try:
            with anyio.fail_after(self._settings.health_timeout_s):
                async with aclosing(self._engine.generate(probe)) as events:
                    async for event in events:
                        return "it was closed" if event.finish_reason == "cancelled" else None
        except Overloaded:
            return None
        except EngineError as error:
            return type(error).__name__
        except TimeoutError:
            return f"no token in {self._settings.health_timeout_s:g} s"
        return "it gave no token"

    def _card(self) -> Json:
        return {
            "id": self._settings.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "mimo-coder",
            "max_model_len": self._engine.stats().context_length,
        }

    def _check_model(self, name: str) -> None:
        served = self._settings.model_name
        if name != served:
            raise ApiError(
                f"There is no model {name!r} here. This server has: {served}.",
                status=404,
                code="model_not_found",
                param="model",
            )

    async def _authorise(self, request: Request) -> None:
        key = self._settings.api_key
        if key is None:
            return
        expected = f"Bearer {key.get_secret_value()}".encode()
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), expected):
            raise ApiError(
                "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.",
                status=401,
                code="invalid_api_key",
            )


async def _body(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise ApiError(
                    f"The request body is larger than {limit} bytes. Shorten the conversation.",
                    status=413,
                    code="request_too_large",
                )
    except ClientDisconnect as error:
        raise ApiError("The client left before its request was complete.", code="client_gone") from error
    return b"".join(chunks)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError), error
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException), error
    message = f"{request.method} {request.url.path}: {error.detail}. This server has POST /v1/chat/completions."
    return ApiError(message, status=error.status_code, code="not_found").response()


async def _bug(request: Request, error: Exception) -> Response:
    request_id = uuid.uuid4().hex
    logger.error("request_failed id=%s error=%s", request_id, type(error).__name__)
    return internal(request_id).response()
