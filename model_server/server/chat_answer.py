"""Answers of ``/v1/chat/completions``, streamed and whole."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import CallDelta, ContentDelta, Delta, ReasoningDelta, assemble
from model_server.server.choices import Choices
from model_server.server.dialect import OPENAI, Dialect
from model_server.server.generation import Generation, SampledToken
from model_server.server.wire import Json, extension, finite, metadata, openai_usage, routes, token_bytes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """``mimo`` is our one extension: flags about the turns, where any."""

    dialect: ClassVar[Dialect] = OPENAI

    id: str
    model: str
    tokenizer: ChatTokenizer
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, choices: Choices) -> list[Json]:
        """With thinking on, reasoning is there from the start, if only as an empty string."""
        return [
            self._chunk(index, {"role": "assistant", "content": "", **_first_reasoning(choice)})
            for index, choice in enumerate(choices.generations)
        ]

    def step(self, index: int, choice: Generation, deltas: Sequence[Delta]) -> list[Json]:
        """The first piece has the tokens it is made of, and those before it that gave none."""
        return [self._chunk(index, _delta(delta), sampled=choice.take_sampled()) for delta in deltas]

    def closing(self, index: int, choice: Generation) -> list[Json]:
        chunk = self._chunk(index, {}, str(choice.ending), choice.take_sampled())
        facts = extension(choice.parser.flags, choice.segment) | _experts(choice.experts)
        return [chunk | facts | metadata(choice.weights_version)]

    def end(self, choices: Choices) -> list[Json]:
        """The counts, for those who asked."""
        counts = {"usage": openai_usage(choices.usage)}
        return [self._object("chat.completion.chunk", []) | counts] if self.include_usage else []

    def whole(self, choices: Choices, deltas: Sequence[Sequence[Delta]]) -> Json:
        said = [self._choice(*each) for each in zip(range(len(deltas)), choices.generations, deltas, strict=True)]
        seen = {flag for choice in choices.generations for flag in choice.parser.flags}
        return (
            self._object("chat.completion", said)
            | {"usage": openai_usage(choices.usage)}
            | extension(seen, choices.generations[0].segment)
            | _experts(choices.generations[0].experts)
            | metadata(choices.generations[0].weights_version)
        )

    def _choice(self, index: int, choice: Generation, deltas: Sequence[Delta]) -> Json:
        """Content is null where there are only calls."""
        turn = assemble(deltas, choice.parser)
        message: Json = {"role": "assistant", "content": turn.content or (None if turn.calls else "")}
        if turn.reasoning is not None:
            message["reasoning_content"] = turn.reasoning
        if turn.calls:
            message["tool_calls"] = [_call(call) for call in turn.calls]
        logprobs = self._logprobs(choice.take_sampled())
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.ending}

    def _chunk(self, index: int, delta: Json, ending: str | None = None, sampled: Sequence[SampledToken] = ()) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": self._logprobs(sampled), "finish_reason": ending}
        return self._object("chat.completion.chunk", [choice])

    def _logprobs(self, sampled: Sequence[SampledToken]) -> Json | None:
        """Every sampled token, reasoning and calls included; null where none was asked for."""
        if not sampled:
            return None
        content = [
            self._token(token.token_id, token.logprobs.sampled)
            | {"token_id": token.token_id}
            | {"top_logprobs": [self._token(*likely) for likely in token.logprobs.likeliest]}
            for token in sampled
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> Json:
        data = token_bytes(token_id, self.tokenizer)
        return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}

    def _object(self, kind: str, choices: Sequence[Json]) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": list(choices)}


def _first_reasoning(choice: Generation) -> Json:
    return {"reasoning_content": ""} if choice.parser.enable_thinking else {}


def _delta(delta: Delta) -> Json:
    match delta:
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case ContentDelta(text):
            return {"content": text}
        case CallDelta():
            return {"tool_calls": [{"index": delta.index, **_call(delta)}]}


def _call(call: CallDelta) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _experts(experts: "Tensor | None") -> Json:
    """SGLang's extension."""
    return {"sglext": routes(experts)} if experts is not None else {}
