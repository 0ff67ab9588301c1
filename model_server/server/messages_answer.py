"""Answers of ``/v1/messages``, streamed and whole: blocks of thinking, text and calls, in the order they came."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal

from model_server.chat.turn import CallDelta, ContentDelta, Delta, ReasoningDelta
from model_server.server.choices import Choices
from model_server.server.dialect import ANTHROPIC, Dialect
from model_server.server.generation import Generation, Usage
from model_server.server.wire import Json, extension

_SIGNATURE = "mimo"
"""Stands where a signature must: clients keep it and send it back, and it proves nothing."""

_Kind = Literal["thinking", "text"]


@dataclass(slots=True)
class MessagesAnswer:
    """One choice. A block of thinking or text is open until something else comes."""

    dialect: ClassVar[Dialect] = ANTHROPIC

    id: str
    model: str
    max_tokens: int | None
    """As the caller asked; an answer that ends earlier for its length filled the context."""
    _num_blocks: int = 0
    _open: _Kind | None = None

    def opening(self, choices: Choices) -> list[Json]:
        return [{"type": "message_start", "message": self._message([], choices.usage)}]

    def step(self, index: int, choice: Generation, deltas: Sequence[Delta]) -> list[Json]:
        return [event for delta in deltas for event in self._events(delta)]

    def closing(self, index: int, choice: Generation) -> list[Json]:
        reason = {"type": "message_delta", "delta": self._stop(choice), "usage": _usage(choice.usage)}
        return [*self._closed(), reason | extension(choice.parser.flags, choice.segment)]

    def end(self, choices: Choices) -> list[Json]:
        return [{"type": "message_stop"}]

    def whole(self, choices: Choices, deltas: Sequence[Sequence[Delta]]) -> Json:
        (choice,) = choices.generations
        message = self._message(list(_blocks(deltas[0])), choice.usage)
        return message | self._stop(choice) | extension(choice.parser.flags, choice.segment)

    def _events(self, delta: Delta) -> Iterator[Json]:
        match delta:
            case ReasoningDelta(text):
                yield from self._continued("thinking", {"type": "thinking_delta", "thinking": text})
            case ContentDelta(text):
                yield from self._continued("text", {"type": "text_delta", "text": text})
            case CallDelta():
                yield from self._closed()
                yield self._start(_call(delta) | {"input": {}})
                yield self._delta({"type": "input_json_delta", "partial_json": delta.arguments})
                yield self._stopped()

    def _continued(self, kind: _Kind, delta: Json) -> Iterator[Json]:
        if self._open != kind:
            yield from self._closed()
            yield self._start(_block(kind, ""))
            self._open = kind
        yield self._delta(delta)

    def _closed(self) -> Iterator[Json]:
        """The end of the open block, if there is one."""
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": _SIGNATURE})
        self._open = None
        yield self._stopped()

    def _start(self, block: Json) -> Json:
        return {"type": "content_block_start", "index": self._num_blocks, "content_block": block}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._num_blocks, "delta": delta}

    def _stopped(self) -> Json:
        self._num_blocks += 1
        return {"type": "content_block_stop", "index": self._num_blocks - 1}

    def _message(self, content: list[Json], usage: Usage) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(usage),
        }

    def _stop(self, choice: Generation) -> Json:
        reason, sequence = "end_turn", None
        match choice.ending:
            case "tool_calls":
                reason = "tool_use"
            case "length":
                full = self.max_tokens is not None and choice.usage.completion_tokens < self.max_tokens
                reason = "model_context_window_exceeded" if full else "max_tokens"
            case _ if isinstance(choice.matched, str):
                reason, sequence = "stop_sequence", choice.matched
        return {"stop_reason": reason, "stop_sequence": sequence}


def _blocks(deltas: Sequence[Delta]) -> Iterator[Json]:
    """What a stream of these deltas adds up to."""
    for kind, alike in groupby(deltas, type):
        text = ""
        for delta in alike:
            if isinstance(delta, CallDelta):
                yield _call(delta) | {"input": json.loads(delta.arguments)}
            else:
                text += delta.text
        if kind is not CallDelta:
            yield _block("thinking" if kind is ReasoningDelta else "text", text, _SIGNATURE)


def _block(kind: _Kind, text: str, signature: str = "") -> Json:
    return {"type": kind, kind: text} | ({"signature": signature} if kind == "thinking" else {})


def _call(call: CallDelta) -> Json:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _usage(usage: Usage) -> Json:
    """Reused tokens are not among the input tokens here."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
