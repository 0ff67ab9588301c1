"""An answer as OpenAI's protocol writes it, streamed and whole."""

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import AssistantTurn, CallDelta, ContentDelta, Delta, Flag, ReasoningDelta
from model_server.server.generation import SampledToken, Usage

if TYPE_CHECKING:
    from torch import Tensor

DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]

_LOWEST_LOGPROB = -9999.0
"""JSON has no infinity; this is what the protocol's own servers write for it."""


def event(body: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What every object of one answer repeats. ``mimo`` is our one extension: flags about the turn, where any."""

    id: str
    model: str
    tokenizer: ChatTokenizer
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, enable_thinking: bool) -> Json:
        """The first chunk. With thinking on, reasoning is there from the start, if only as an empty string."""
        reasoning = {"reasoning_content": ""} if enable_thinking else {}
        return self._chunk({"role": "assistant", "content": "", **reasoning})

    def delta(self, delta: Delta, sampled: Sequence[SampledToken] = ()) -> Json:
        """``sampled``: the tokens this piece is made of, and those before it that gave none."""
        match delta:
            case ReasoningDelta(text):
                return self._chunk({"reasoning_content": text}, sampled=sampled)
            case ContentDelta(text):
                return self._chunk({"content": text}, sampled=sampled)
            case CallDelta():
                return self._chunk({"tool_calls": [{"index": delta.index, **_call(delta)}]}, sampled=sampled)

    def closing(self, ending: str, flags: set[Flag], sampled: Sequence[SampledToken], experts: "Tensor | None") -> Json:
        return self._chunk({}, ending, sampled) | _extension(flags) | _routes(experts)

    def usage(self, usage: Usage) -> Json:
        """The chunk after the last one, for those who asked."""
        return self._object("chat.completion.chunk", []) | {"usage": _usage(usage)}

    def whole(
        self,
        turn: AssistantTurn,
        ending: str,
        usage: Usage,
        sampled: Sequence[SampledToken],
        experts: "Tensor | None",
    ) -> Json:
        """An answer that was not streamed. Content is null where there are only calls."""
        message: Json = {"role": "assistant", "content": turn.content or (None if turn.calls else "")}
        if turn.reasoning is not None:
            message["reasoning_content"] = turn.reasoning
        if turn.calls:
            message["tool_calls"] = [_call(call) for call in turn.calls]
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(sampled), "finish_reason": ending}
        return (
            self._object("chat.completion", [choice])
            | {"usage": _usage(usage)}
            | _extension(set(turn.flags))
            | _routes(experts)
        )

    def _chunk(self, delta: Json, ending: str | None = None, sampled: Sequence[SampledToken] = ()) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": self._logprobs(sampled), "finish_reason": ending}
        return self._object("chat.completion.chunk", [choice])

    def _logprobs(self, sampled: Sequence[SampledToken]) -> Json | None:
        """Every sampled token, reasoning and calls included; null where none was asked for."""
        if not sampled:
            return None
        content = [
            self._token(token.token_id, token.logprobs.sampled)
            | {"top_logprobs": [self._token(*likely) for likely in token.logprobs.likeliest]}
            for token in sampled
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> Json:
        marker = self.tokenizer.marker(token_id)
        data = self.tokenizer.token_bytes(token_id) if marker is None else marker.encode()
        return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, _LOWEST_LOGPROB), "bytes": list(data)}

    def _object(self, kind: str, choices: Sequence[Json]) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": list(choices)}


def _call(call: CallDelta) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _extension(flags: set[Flag]) -> Json:
    return {"mimo": {"flags": sorted(flags)}} if flags else {}


def _routes(experts: "Tensor | None") -> Json:
    """SGLang's extension: bytes [S, M, K] in base64, for the positions from the asked one to the last but one."""
    if experts is None:
        return {}
    data = base64.b64encode(experts.contiguous().numpy().tobytes()).decode()
    return {"sglext": {"routed_experts": data, "routed_experts_shape": list(experts.shape)}}
