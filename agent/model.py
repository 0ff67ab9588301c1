"""Asks one OpenAI-compatible endpoint for the next answer: stream, translate every failure, try again where it helps.

The client is our own because gateways and client libraries lose ``reasoning_content``.
"""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import httpx
from httpx_sse import SSEError, aconnect_sse
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from agent.config import ModelSettings
from agent.errors import ModelError
from agent.types import AssistantMessage, Message, ModelOptions, TokenRecord, ToolCall, Usage

_LONGEST_PAUSE_S = 30.0
_LONGEST_RETRY_AFTER_S = 120.0
_QUOTED_CHARS = 500
"""How much of an endpoint's own words an error repeats."""
_BYTES_PER_TOKEN = 2048
"""Most that an endpoint may send for one; with all that endpoints put around it, a token takes 200 to 600."""
_BYTES_BESIDE = 1024 * 1024
ROUTING_KEY_HEADER = "X-SMG-Routing-Key"
"""Requests with one value go to one server, which then has the beginning of their prompts in its cache; by the name
that the gateway smg reads and passes on. Endpoints that know nothing of it ignore it."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer while it is written. ``restart`` says that everything before it is void."""

    kind: Literal["reasoning", "content", "tool_call", "restart"]
    text: str = ""
    index: int = 0
    """Which tool call, from 0."""


class StreamGuard(Protocol):
    """Watches an answer while it is written; fresh for every call of :meth:`Model.complete`."""

    def watch(self, kind: str, text: str, index: int) -> str | None:
        """Takes the fields of a :class:`Delta`; returns why the answer must end now, or None."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. ``aborted`` names what the guard saw; the message then holds what came before."""

    message: AssistantMessage
    usage: Usage
    """As the endpoint counted; of an aborted answer only the completion tokens, counted as pieces received."""
    duration_s: float
    """The successful try alone, s."""
    aborted: str | None = None
    tokens: TokenRecord | None = None
    """As the engine sampled them; None where it said nothing of them."""
    flags: tuple[str, ...] = ()
    """What our model server says happened in the answer, such as ``tool_call_in_reasoning``."""


class Model(Protocol):
    """Anything that answers."""

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        """The next answer.

        Raises:
            ModelError: no answer could be had; what could be retried was.
        """


class HttpModel:
    """A model behind HTTP. Every failure comes out as a :class:`ModelError`, after the retries that make sense."""

    def __init__(
        self,
        settings: ModelSettings,
        client: httpx.AsyncClient,
        run_id: str | None = None,
        *,
        says_thinking: bool = True,
    ) -> None:
        """
        Args:
            run_id: whose conversations these are, for endpoints with sessions; None begins none.
            says_thinking: send what is asked of thinking; without, the endpoint's own default holds.
        """
        self._settings = settings
        self._client = client
        self._run_id = run_id
        self._says_thinking = says_thinking
        self._context_tokens: int | None = None

    def of_run(self, run_id: str) -> "HttpModel":
        """The same, for the conversations of one run."""
        return HttpModel(self._settings, self._client, run_id)

    def silent_about_thinking(self) -> "HttpModel":
        """The same, asked as by a client that does not know the switch."""
        return HttpModel(self._settings, self._client, self._run_id, says_thinking=False)

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
        watch: StreamGuard | None = None,
    ) -> Completion:
        body = self._body(messages, tools, options)
        tell = _Audience(on_delta, watch)
        tries = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ModelError) and error.retryable),
            stop=stop_after_attempt(1 + self._settings.retries),
            wait=self._pause,
            reraise=True,
        )
        return await tries(self._answer, body, tell)

    async def context_tokens(self) -> int | None:
        """Longest prompt and answer together; None where neither the settings nor the endpoint say.

        An endpoint that does not answer now is asked again the next time.
        """
        if self._settings.context_tokens is not None or self._context_tokens is not None:
            return self._settings.context_tokens or self._context_tokens
        headers = self._headers()
        url = f"{self._settings.url.rstrip('/')}/models"
        try:
            response = await self._client.get(url, headers=headers, timeout=self._settings.connect_timeout_s)
            served = _Models.model_validate_json(response.content).data
        except (httpx.HTTPError, httpx.InvalidURL, ValidationError):
            return None
        lengths = [model.max_model_len for model in served if model.id == self._settings.name]
        self._context_tokens = lengths[0] if lengths else None
        return self._context_tokens

    def _headers(self) -> dict[str, str]:
        key = self._settings.api_key
        return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}

    def _body(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: ModelOptions
    ) -> dict[str, Any]:
        # Defaults of both template switches differ between releases of the model, so runs always send both.
        switches = {"keep_all_reasoning": True}
        if self._says_thinking:
            switches["enable_thinking"] = options.thinking is not False
        body: dict[str, Any] = {
            "model": options.name or self._settings.name,
            "messages": [self._named(message) for message in messages],
            "temperature": options.temperature,
            "top_p": options.top_p,
            "max_tokens": options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": switches,
        }
        if tools:
            body["tools"] = list(tools)
        if options.seed is not None:
            body["seed"] = options.seed
        if self._settings.sessions and self._run_id is not None:
            # A sub-agent of the run, or what follows a compaction, is another conversation.
            body["session_id"] = f"{self._run_id}-{routing_key(messages)[:8]}"
        if self._settings.record_tokens:
            body |= {"logprobs": True, "return_routed_experts": True}
        return body

    def _named(self, message: Message) -> Message:
        """The message with its reasoning under the name that the endpoint knows."""
        field = self._settings.reasoning_field
        return {field if name == "reasoning_content" else name: value for name, value in message.items()}

    async def _answer(self, body: dict[str, Any], tell: "_Audience") -> Completion:
        tell.start()
        begun = time.monotonic()
        answer = _Answer()
        deadline = asyncio.timeout(self._settings.first_token_s)
        try:
            async with deadline:
                aborted = await self._read(body, answer, tell, deadline)
        except TimeoutError as error:
            raise self._failed(self._too_slow(answer), retryable=True, code="timeout") from error
        except _TooLong as error:
            raise self._failed(f"sent more than {error}", retryable=True, code="protocol") from error
        except SSEError as error:
            raise self._failed("did not answer with an event stream", retryable=False, code="protocol") from error
        except httpx.ConnectError as error:
            raise self._failed(f"cannot be reached: {error}", retryable=True, code="unreachable") from error
        except httpx.TimeoutException as error:
            raise self._failed("did not accept the connection in time", retryable=True, code="timeout") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            what = str(error) or type(error).__name__
            raise self._failed(f"broke the connection: {what}", retryable=True, code="cut") from error
        except httpx.InvalidURL as error:
            raise self._failed("has an address that cannot be used", retryable=False, code="unreachable") from error
        return answer.completion(time.monotonic() - begun, aborted)

    async def _read(
        self, body: dict[str, Any], answer: "_Answer", tell: "_Audience", deadline: asyncio.Timeout
    ) -> str | None:
        """Fill ``answer`` from the stream; returns why the guard ended it, or None."""
        headers = self._headers() | {ROUTING_KEY_HEADER: routing_key(body["messages"])}
        url = f"{self._settings.url.rstrip('/')}/chat/completions"
        timeout = httpx.Timeout(None, connect=self._settings.connect_timeout_s)
        async with aconnect_sse(self._client, "POST", url, json=body, headers=headers, timeout=timeout) as source:
            if not self._settings.record_tokens:  # Routes of experts are as long as the prompt.
                most = _BYTES_BESIDE + _BYTES_PER_TOKEN * body["max_tokens"]
                assert isinstance(source.response.stream, httpx.AsyncByteStream), source.response.stream
                source.response.stream = _Bounded(source.response.stream, most)
            if source.response.status_code != httpx.codes.OK:
                await source.response.aread()
                raise self._refused(source.response)
            async with aclosing(source.aiter_sse()) as events:
                async for event in events:
                    if event.data == "[DONE]":
                        return None
                    for delta in answer.add(self._chunk(event.data)):
                        if reason := tell.delta(delta):
                            return reason
                    deadline.reschedule(asyncio.get_running_loop().time() + self._settings.idle_s)
        if answer.finish_reason is None:
            raise self._failed("ended the answer in the middle", retryable=True, code="cut")
        return None

    def _chunk(self, data: str) -> "_Chunk":
        try:
            chunk = _Chunk.model_validate_json(data)
        except ValidationError as error:
            raise self._failed(f"sent what is no answer: {data}", retryable=True, code="protocol") from error
        if chunk.error is not None:
            raise self._error(500, _text_of(chunk.error), chunk.error)
        return chunk

    def _refused(self, response: httpx.Response) -> ModelError:
        """The error of an HTTP status."""
        try:
            error = _Refusal.model_validate_json(response.content).error
        except ValidationError:
            error = None
        text = _text_of(error) if error is not None else response.text.strip()
        return self._error(response.status_code, text, error, _retry_after(response.headers.get("Retry-After")))

    def _error(
        self, status: int, text: str, error: "dict[str, Any] | str | None", retry_after_s: float | None = None
    ) -> ModelError:
        code = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
        if "context_length" in code or (status in (400, 413, 500) and _says_too_long(text)):
            return self._failed(f"says the prompt is too long: {text}", retryable=False, code="context_length_exceeded")
        if status in (401, 403):
            return self._failed(
                f"refused the key (HTTP {status}): {text}. Check MIMO_MODEL_API_KEY",
                retryable=False,
                code="unauthorized",
            )
        if status == 404:
            return self._failed(
                f"knows no such model or path (HTTP 404): {text}. The address must end in /v1",
                retryable=False,
                code="not_found",
            )
        retryable = status in (408, 409, 425, 429) or status >= 500
        return self._failed(
            f"answered HTTP {status}: {text}",
            retryable=retryable,
            code="away" if status in (502, 503, 504) else "busy" if retryable else "refused",
            retry_after_s=retry_after_s,
        )

    def _failed(self, what: str, *, retryable: bool, code: str, retry_after_s: float | None = None) -> "_EndpointError":
        address = urlsplit(self._settings.url)
        where = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
        what = what if len(what) <= _QUOTED_CHARS else what[:_QUOTED_CHARS] + "..."
        key = self._settings.api_key.get_secret_value() if self._settings.api_key else None
        for secret in filter(None, (key, address.password)):
            what = what.replace(secret, "***")
        return _EndpointError(
            f"the model endpoint {where} {what}", retryable=retryable, code=code, retry_after_s=retry_after_s
        )

    def _too_slow(self, answer: "_Answer") -> str:
        if answer.pieces:
            return f"sent nothing for {self._settings.idle_s:g} s in the middle of an answer"
        return f"did not begin to answer within {self._settings.first_token_s:g} s"

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next try: what the endpoint asked for, else doubling with jitter."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _EndpointError) and error.retry_after_s is not None:
            return min(error.retry_after_s, _LONGEST_RETRY_AFTER_S)
        longest = min(self._settings.backoff_s * 2 ** (state.attempt_number - 1), _LONGEST_PAUSE_S)
        return random.uniform(longest / 2, longest)


def routing_key(messages: Sequence[Message]) -> str:
    """What a conversation begins with, shortened: the same for all turns of a task, and for all its attempts.

    That is what their prompts have in common, so that is what a server should keep; no worker has to remember it.
    """
    first_question = next((at for at, message in enumerate(messages) if message["role"] == "user"), 0)
    return hashlib.sha256(json.dumps(messages[: first_question + 1]).encode()).hexdigest()[:32]


@asynccontextmanager
async def open_model(settings: ModelSettings) -> AsyncIterator[HttpModel]:
    """A model with its own connections, closed at the end."""
    # A proxy of the environment cannot reach this machine's loopback.
    loopback = urlsplit(settings.url).hostname in ("127.0.0.1", "::1", "localhost")
    async with httpx.AsyncClient(trust_env=not loopback) as client:
        yield HttpModel(settings, client)


class _EndpointError(ModelError):
    def __init__(self, message: str, *, retryable: bool, code: str, retry_after_s: float | None) -> None:
        super().__init__(message, retryable=retryable, code=code)
        self.retry_after_s = retry_after_s


class _TooLong(Exception):
    """An answer that no model writes in the tokens it has; says how many bytes were read of it."""


class _Bounded(httpx.AsyncByteStream):
    """Ends an answer without end before it fills the memory that all runs of a worker share."""

    def __init__(self, stream: httpx.AsyncByteStream, most: int) -> None:
        self._stream = stream
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for piece in self._stream:
            num_bytes += len(piece)
            if num_bytes > self._most:
                raise _TooLong(f"{self._most:,} bytes as one answer")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Audience:
    """Whoever follows the stream. A new try is announced to them, since what they saw of the old one is void."""

    def __init__(self, on_delta: Callable[[Delta], None] | None, guard: StreamGuard | None) -> None:
        self._on_delta = on_delta
        self._guard = guard
        self._said_something = False

    def start(self) -> None:
        if self._said_something:
            self.delta(Delta("restart"))
        self._said_something = False

    def delta(self, delta: Delta) -> str | None:
        self._said_something = True
        if self._on_delta:
            self._on_delta(delta)
        return self._guard.watch(delta.kind, delta.text, delta.index) if self._guard else None


class _Served(BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(BaseModel):
    """What ``GET /models`` says."""

    data: list[_Served]


class _FunctionPiece(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(BaseModel):
    index: int = 0
    id: str | None = None
    function: _FunctionPiece = _FunctionPiece()


class _Piece(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _Sampled(BaseModel):
    """One token. ``token_id`` is our model server's extension."""

    logprob: float
    token_id: int | None = None


class _Logprobs(BaseModel):
    content: list[_Sampled] | None = None


class _Choice(BaseModel):
    delta: _Piece = _Piece()
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _CompletionDetails(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Routes(BaseModel):
    """SGLang's extension."""

    routed_experts: str | None = None
    routed_experts_shape: tuple[int, ...] | None = None


class _Facts(BaseModel):
    """Our model server's extension."""

    flags: tuple[str, ...] = ()


class _Chunk(BaseModel):
    """One event of the stream; fields we do not use are ignored."""

    choices: list[_Choice] = []
    mimo: _Facts = _Facts()
    sglext: _Routes = _Routes()
    usage: _Usage | None = None
    error: dict[str, Any] | str | None = None


class _Refusal(BaseModel):
    error: dict[str, Any] | str


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class _Answer:
    """An answer as its pieces come in."""

    def __init__(self) -> None:
        self.pieces = 0
        self.finish_reason: str | None = None
        self._content: list[str] = []
        self._reasoning: list[str] | None = None
        self._calls: dict[int, _Call] = {}
        self._usage: Usage | None = None
        self._sampled: list[_Sampled] = []
        self._routes = _Routes()
        self._flags: tuple[str, ...] = ()

    def add(self, chunk: _Chunk) -> list[Delta]:
        """Take one event in; returns what it added."""
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        if chunk.sglext.routed_experts is not None:
            self._routes = chunk.sglext
        self._flags += chunk.mimo.flags
        deltas: list[Delta] = []
        for choice in chunk.choices[:1]:
            self._sampled.extend((choice.logprobs and choice.logprobs.content) or ())
            deltas.extend(self._add_piece(choice.delta))
            self.finish_reason = choice.finish_reason or self.finish_reason
        self.pieces += bool(deltas)
        return deltas

    def _add_piece(self, piece: _Piece) -> list[Delta]:
        deltas: list[Delta] = []
        reasoning = piece.reasoning_content if piece.reasoning_content is not None else piece.reasoning
        if reasoning is not None:
            # An empty text makes the list too: empty and absent are two states.
            self._reasoning = self._reasoning or []
            self._reasoning.append(reasoning)
            if reasoning:
                deltas.append(Delta("reasoning", reasoning))
        if piece.content:
            self._content.append(piece.content)
            deltas.append(Delta("content", piece.content))
        for call in piece.tool_calls or ():
            deltas.append(self._add_call(call))
        return deltas

    def _add_call(self, piece: _CallPiece) -> Delta:
        call = self._calls.setdefault(piece.index, _Call())
        call.id = call.id or piece.id or ""
        call.name += piece.function.name or ""
        call.arguments.append(piece.function.arguments or "")
        return Delta("tool_call", piece.function.arguments or "", piece.index)

    def completion(self, duration_s: float, aborted: str | None) -> Completion:
        message = AssistantMessage(
            content="".join(self._content),
            reasoning_content=None if self._reasoning is None else "".join(self._reasoning),
            tool_calls=tuple(
                ToolCall(id=call.id or f"call_{index}", name=call.name, arguments="".join(call.arguments))
                for index, call in sorted(self._calls.items())
            ),
            finish_reason=self.finish_reason,
        )
        usage = self._usage or Usage(completion_tokens=self.pieces)
        return Completion(message, usage, duration_s, aborted, self._tokens(), self._flags)

    def _tokens(self) -> TokenRecord | None:
        ids = tuple(token.token_id for token in self._sampled if token.token_id is not None)
        if not self._sampled and self._routes.routed_experts is None:
            return None
        return TokenRecord(
            token_ids=ids if ids and len(ids) == len(self._sampled) else None,
            logprobs=tuple(token.logprob for token in self._sampled) or None,
            routed_experts=self._routes.routed_experts,
            routed_experts_shape=self._routes.routed_experts_shape,
        )


def _usage(usage: _Usage) -> Usage:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=(prompt and prompt.cached_tokens) or 0,
        reasoning_tokens=(completion and completion.reasoning_tokens) or 0,
    )


def _text_of(error: "dict[str, Any] | str") -> str:
    return error if isinstance(error, str) else str(error.get("message") or error)


def _says_too_long(text: str) -> bool:
    """Servers differ: vLLM and SGLang speak of the context length only in the message."""
    text = text.lower()
    return "context length" in text or "context_length" in text or "maximum context" in text


def _retry_after(value: str | None) -> float | None:
    """The header in seconds; its other form, a date, is left to our own pauses."""
    return float(value) if value and value.isdecimal() else None
