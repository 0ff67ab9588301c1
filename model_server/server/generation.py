"""One answer in the making: tokens to deltas, and the counts for its bill."""

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from model_server.chat.markers import END_THINK
from model_server.chat.stop_strings import StopStrings
from model_server.chat.tokens import ChatTokenizer, DecodeStream
from model_server.chat.turn import AssistantTurn, CallDelta, Delta, TurnParser, assemble
from model_server.server.errors import ApiError, from_engine, internal, stopping
from model_server.server.metrics import Metrics
from model_server.server.prompt import outside_vocabulary
from model_server.server.sampling_fields import SamplingFields
from model_server.server.schemas import ChatRequest
from model_server.types import (
    Engine,
    EngineError,
    GenerateRequest,
    Logprobs,
    SamplingParams,
    TokenDeadline,
    TokenEvent,
)

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Ending = Literal["stop", "length", "tool_calls"]


@dataclass(slots=True)
class Usage:
    """Tokens of one answer. Reasoning tokens are among the completion tokens; markers do not count as reasoning."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def sampling_params(
    request: SamplingFields, num_prompt_tokens: int, context_length: int, tokenizer: ChatTokenizer
) -> SamplingParams:
    """How the engine is to draw, and how much.

    Raises:
        ApiError: prompt and completion do not fit the context.
    """
    room = context_length - num_prompt_tokens
    limit = max(room if request.completion_limit is None else request.completion_limit, 1)
    if request.clips_limit and room > 0:
        limit = min(limit, room)
    if limit > room:
        remedy = f"Lower {request.limit_field} to at most {room}" if room > 0 else f"Shorten {request.prompt_field}"
        raise ApiError(
            f"The prompt has {num_prompt_tokens} tokens and {limit} more are asked for, but the context holds "
            f"{context_length}. {remedy}.",
            code="context_length_exceeded",
            param=request.limit_field if room > 0 else request.prompt_field,
        )
    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        logit_bias=_biases(request, tokenizer),
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        max_tokens=limit,
        stop_ids=tokenizer.end_ids,
    )


def thinking_deadline(request: ChatRequest, tokenizer: ChatTokenizer) -> TokenDeadline | None:
    """The end of thinking counts from the marker that begins it, which the model samples too."""
    if request.max_thinking_tokens is None or not request.enable_thinking:
        return None
    return TokenDeadline(tokenizer.marker_id(END_THINK), 1 + request.max_thinking_tokens)


def _biases(request: SamplingFields, tokenizer: ChatTokenizer) -> tuple[tuple[int, float], ...]:
    biases = {int(token): value for token, value in request.logit_bias.items()}
    outside = next((token for token in biases if token >= tokenizer.vocab_size), None)
    if outside is not None:
        raise outside_vocabulary(outside, tokenizer, f"{request.path}logit_bias")
    return tuple(biases.items())


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One token of an answer as ``logprobs`` shows it: text, bytes and logarithms."""

    token_id: int
    logprobs: Logprobs


@dataclass(slots=True)
class Generation:
    """Runs once; afterwards ``ending``, ``usage`` and the parser's flags are final."""

    engine: Engine
    request: GenerateRequest
    parser: TurnParser
    decoder: DecodeStream
    stop: StopStrings
    usage: Usage
    generated: Callable[[], None]
    """Called for every token that comes."""
    metrics: Metrics
    single_call: bool = False
    """A first call ends the answer."""
    remember: Callable[[AssistantTurn, Sequence[int]], Awaitable[None]] | None = None
    """Told of a complete turn and its tokens, without one that ended it, unless a stop string cut it."""
    ending: Ending | None = None
    matched: int | str | None = None
    """The token or the stop string that ended it; None where the limit did."""
    token_ids: list[int] = field(default_factory=list)
    """Every token so far, with the one that ended it."""
    end: SampledToken | None = None
    """The token that ended it, which is no part of the text, where logprobs were asked for."""
    sampled: list[SampledToken] = field(default_factory=list)
    """Tokens with logprobs that nobody has taken yet, where they were asked for."""
    experts: "Tensor | None" = None
    """Experts of the tokens that were run, where they were asked for; at the end."""
    prompt_logprobs: "Sequence[Logprobs] | None" = None
    """Of the prompt's tokens, where they were asked for; at the end."""
    weights_version: str | None = None
    """Of the weights it was sampled under; at the end."""
    segment: int | None = None
    """Which of its session's texts the answer belongs to; at the end, and only in a session."""
    started_at: float = field(default_factory=time.monotonic)
    _first_s: float = 0.0
    _called: bool = False
    _said: list[Delta] = field(default_factory=list)

    async def steps(self) -> AsyncGenerator[list[Delta], None]:
        """The answer, token by token; a token may add nothing. Closing the generator cancels the sequence.

        Raises:
            ApiError: the engine refused the request, failed, or was closed.
        """
        try:
            async with aclosing(self.engine.generate(self.request)) as events:
                async for event in events:
                    yield self._parsed(event)
                    if self.ending is not None:
                        break
        except EngineError as error:
            logger.warning("generation_refused id=%s error=%s", self.request.request_id, type(error).__name__)
            raise from_engine(error, self.request.request_id) from error
        if self.ending is None:
            raise internal(self.request.request_id)
        yield self._rest()
        await self._remembered()
        self.ending = "tool_calls" if self._called and self.ending == "stop" else self.ending

    async def _remembered(self) -> None:
        if self.remember is None or isinstance(self.matched, str):
            return
        sampled = self.token_ids if self.matched is None else self.token_ids[:-1]
        await self.remember(assemble(self._said, self.parser), sampled)

    def take_sampled(self) -> list[SampledToken]:
        """Tokens with logprobs since the last call."""
        taken, self.sampled = self.sampled, []
        return taken

    def ended(self, outcome: str) -> None:
        """Count the finished request, and log a line about it; never its text."""
        usage, duration_s = self.usage, time.monotonic() - self.started_at
        self.metrics.ended(
            outcome,
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens,
            completion=usage.completion_tokens,
            first_s=self._first_s,
            whole_s=duration_s,
        )
        logger.info(
            "generation_ended id=%s outcome=%s prompt_tokens=%d cached_tokens=%d completion_tokens=%d duration_s=%.3f",
            self.request.request_id,
            outcome,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            duration_s,
        )

    def _parsed(self, event: TokenEvent) -> list[Delta]:
        if event.finish_reason == "cancelled":
            raise stopping()
        self.generated()
        self.token_ids.append(event.token_id)
        self.usage.completion_tokens += 1
        if self.usage.completion_tokens == 1:
            self._first_s = time.monotonic() - self.started_at
            self.metrics.came(self._first_s)
        self.usage.cached_tokens = max(self.usage.cached_tokens, event.cached_tokens)
        self.ending = event.finish_reason
        self.experts, self.segment = event.experts, event.segment
        self.prompt_logprobs, self.weights_version = event.prompt_logprobs, event.weights_version
        sampled = [] if event.logprobs is None else [SampledToken(event.token_id, event.logprobs)]
        if event.finish_reason == "stop":
            self.matched, self.end = event.token_id, next(iter(sampled), None)
            return []
        self.sampled += sampled
        was_thinking = self.parser.in_reasoning
        spans = [kept for span in self.decoder.push(event.token_id) for kept in self.stop.push(span)]
        deltas = [delta for span in spans for delta in self.parser.push(span)]
        self.usage.reasoning_tokens += was_thinking and self.parser.in_reasoning
        if self.stop.matched is not None:
            self.ending, self.matched = "stop", self.stop.matched
        return self._up_to_a_single_call(self._noted(deltas))

    def _up_to_a_single_call(self, deltas: list[Delta]) -> list[Delta]:
        """Everything, unless it goes on after the only call there may be."""
        calls = [index for index, delta in enumerate(deltas) if isinstance(delta, CallDelta)]
        if not self.single_call or not calls:
            return deltas
        self.ending = "stop"
        return deltas[: calls[0] + 1]

    def _rest(self) -> list[Delta]:
        """What waited for more of a code point, a stop string or a call."""
        waiting = [kept for span in self.decoder.finish() for kept in self.stop.push(span)] + self.stop.finish()
        return self._noted([delta for span in waiting for delta in self.parser.push(span)] + self.parser.finish())

    def _noted(self, deltas: list[Delta]) -> list[Delta]:
        self._called = self._called or any(isinstance(delta, CallDelta) for delta in deltas)
        self._said += deltas
        return deltas
