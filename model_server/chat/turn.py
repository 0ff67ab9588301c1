"""The assistant's turn: sampled spans to reasoning, content and tool calls, while it streams.

Every decision follows from the spans seen so far and never from how the stream was cut, so a streamed answer and a
whole one are the same.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from model_server.chat.markers import END_THINK, THINK, TOOL_CALL
from model_server.chat.template import JsonObject, Span
from model_server.chat.tool_parser import CallBlock, ParsedCall


class Flag(StrEnum):
    """Something about a turn that its reader may want to know."""

    UNFINISHED_CALL = "unfinished_tool_call"
    """The turn ended inside a call, whose text is part of the answer."""
    MALFORMED_CALL = "malformed_tool_call"
    """What followed a call marker was no call; its text is part of the answer."""
    CALL_IN_REASONING = "tool_call_in_reasoning"
    """A complete call ended the reasoning."""
    MISTYPED_ARGUMENT = "mistyped_argument"
    """A value did not fit its type in the schema and stayed a string."""


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A whole call: it is sent once its end is certain. ``arguments`` is a JSON object as text."""

    index: int
    id: str
    name: str
    arguments: str


Delta = ReasoningDelta | ContentDelta | CallDelta


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """A turn as one message. ``reasoning`` is None with thinking off, and may be empty with it on."""

    content: str
    reasoning: str | None
    calls: tuple[CallDelta, ...]
    flags: frozenset[Flag]


def new_call_id() -> str:
    """A fresh id; the prompt never holds it."""
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(slots=True)
class TurnParser:
    """Feed it the spans of one turn, without the marker that ends it, then :meth:`finish`."""

    enable_thinking: bool
    tools: Sequence[JsonObject] = ()
    parse_calls: bool = True
    """False leaves calls in the text, for a caller that offered no tools."""
    call_id: Callable[[], str] = new_call_id
    flags: set[Flag] = field(default_factory=set)
    in_reasoning: bool = False
    """The model is thinking; a call it may have begun there counts as thinking until it is complete."""
    _started: bool = False
    _block: CallBlock | None = None
    _num_calls: int = 0

    def push(self, span: Span) -> list[Delta]:
        """What this span adds to the message."""
        first, self._started = not self._started, True
        if self._block is not None:
            return self._in_block(self._block, span)
        if span.control and span.text == TOOL_CALL and self.parse_calls:
            self._block = CallBlock(self.tools)
            return []
        if span.control and span.text == THINK and first:
            self.in_reasoning = True
            return []
        if span.control and span.text == END_THINK and self.in_reasoning:
            self.in_reasoning = False
            return []
        return self._text(span.text)

    def finish(self) -> list[Delta]:
        """The text of a call that never ended."""
        if self._block is None:
            return []
        self.flags.add(Flag.UNFINISHED_CALL)
        return self._give_up(self._block)

    def _in_block(self, block: CallBlock, span: Span) -> list[Delta]:
        if span.control and span.text == END_THINK and self.in_reasoning:
            self.flags.add(Flag.MALFORMED_CALL)
            deltas = self._give_up(block)
            self.in_reasoning = False
            return deltas
        if span.control and not block.opened:
            self.flags.add(Flag.MALFORMED_CALL)
            return self._give_up(block) + self.push(span)
        calls = block.push(span)
        if calls is None:
            self.flags.add(Flag.MALFORMED_CALL)
            return self._give_up(block)
        return self._complete(calls) if calls else []

    def _complete(self, calls: Sequence[ParsedCall]) -> list[Delta]:
        self._block = None
        if self.in_reasoning:
            self.flags.add(Flag.CALL_IN_REASONING)
            self.in_reasoning = False
        if any(call.mistyped for call in calls):
            self.flags.add(Flag.MISTYPED_ARGUMENT)
        return [self._call(call) for call in calls]

    def _call(self, call: ParsedCall) -> CallDelta:
        index, self._num_calls = self._num_calls, self._num_calls + 1
        return CallDelta(index, self.call_id(), call.name, json.dumps(call.arguments, ensure_ascii=False))

    def _give_up(self, block: CallBlock) -> list[Delta]:
        self._block = None
        return self._text(block.text)

    def _text(self, text: str) -> list[Delta]:
        return [ReasoningDelta(text) if self.in_reasoning else ContentDelta(text)]


def assemble(deltas: Sequence[Delta], parser: TurnParser) -> AssistantTurn:
    """One message of all deltas of a finished parser."""
    reasoning = [delta.text for delta in deltas if isinstance(delta, ReasoningDelta)]
    return AssistantTurn(
        content="".join(delta.text for delta in deltas if isinstance(delta, ContentDelta)),
        reasoning="".join(reasoning) if reasoning or parser.enable_thinking else None,
        calls=tuple(delta for delta in deltas if isinstance(delta, CallDelta)),
        flags=frozenset(parser.flags),
    )


def parse_turn(
    spans: Sequence[Span], tools: Sequence[JsonObject] = (), *, enable_thinking: bool, parse_calls: bool = True
) -> AssistantTurn:
    """A whole turn at once."""
    parser = TurnParser(enable_thinking, tools, parse_calls)
    deltas = [delta for span in spans for delta in parser.push(span)]
    return assemble(deltas + parser.finish(), parser)
