"""What a turn may say: JSON of a schema, or calls in the model's own form, enforced where tokens are drawn.

llguidance turns a grammar into the set of tokens that may come next; this module writes the grammar. Thinking is not
part of it: it stays free until its end marker, except that nothing may end the turn or begin a call there.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from model_server.chat.markers import CONTROL_MARKERS, END_THINK, END_TOOL_CALL, IM_END, THINK, TOOL_CALL
from model_server.chat.template import JsonObject
from model_server.chat.tokens import ChatTokenizer
from model_server.chat.tool_parser import allowed_kinds
from model_server.types import GrammarState, TurnForm, UnfollowableGrammar

_JSON_STYLE = {"whitespace_pattern": r" |\n[ \t]{0,24}"}
"""A blank, or a new line with room to indent; never endless blanks, which a weak model falls into."""
_NUM_KEPT = 64
"""Compiled grammars that are kept: callers send the same few schemas again and again."""
_INEXACT = 2**53
"""The library reads all numbers as floats, which do not tell whole numbers apart from here on."""
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_CHOICES = ("enum", "const")
_LONGEST_TOKEN = 1000
"""Bytes; the library holds no longer ones. Only fixed pieces of prompts are, and those are not sampled."""
_REASON_CHARS = 300
"""Of the library's messages, which repeat what they complain about."""
_END_VALUE = "</parameter>"


class GrammarError(ValueError):
    """A schema that cannot be enforced; ``param`` is the path of the tool's part that is to blame, or empty."""

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message)
        self.param = param


class GrammarCompiler:
    """Makes grammars for one vocabulary. Compiling takes milliseconds and may happen on any thread."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=tokenizer.vocab_size)
        self._compiled = lru_cache(_NUM_KEPT)(self._compile)

    def turn(
        self,
        *,
        enable_thinking: bool,
        answer: JsonObject | None = None,
        tools: Mapping[str, JsonObject] = MappingProxyType({}),
        num_calls: int | None = None,
    ) -> "TurnGrammar":
        """A turn that is JSON of the schema ``answer``, or calls of ``tools``; either where both are given.

        ``tools`` are keyed by their paths in the request, for messages. ``num_calls`` None allows any number of calls
        from one on. With neither, only calls within thinking are forbidden.

        Raises:
            GrammarError: a schema is wrong, or asks for what cannot be enforced.
        """
        rules = _Rules()
        forms = []
        if answer is not None:
            forms.append(rules.add(_json(answer, ""), ""))
        if tools:
            call = rules.add(_calls(tools, self._tokenizer, rules), "")
            forms.append(f"{call}+" if num_calls is None else f"{call}{{{num_calls}}}")
        matcher = self._compiled(rules.text(" | ".join(forms)), tuple(rules.params)) if forms else None
        functions = tuple(tool["function"] for tool in tools.values())
        return TurnGrammar(self._tokenizer, matcher, TurnForm(enable_thinking, answer, functions, num_calls))

    def _compile(self, grammar: str, params: Sequence[str]) -> LLMatcher:
        """``params``: what each line of the grammar comes from, for the message about a wrong one."""
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        error = matcher.get_error()
        if error:
            line = re.match(r"(?:at )?(\d+)\(", error)
            raise GrammarError(_reason(error), params[int(line[1]) - 1] if line else "")
        first = matcher.deep_copy()
        if not any(first.compute_bitmask()) or first.is_error():
            raise GrammarError("nothing fits the schema, or it is too complex")
        return matcher


class TurnGrammar:
    """A compiled grammar; see :class:`model_server.types.Grammar`."""

    def __init__(self, tokenizer: ChatTokenizer, matcher: LLMatcher | None, form: TurnForm) -> None:
        self._matcher = matcher
        self.form: TurnForm | None = form
        self._enable_thinking = form.thinking
        self._think, self._end_think = tokenizer.marker_id(THINK), tokenizer.marker_id(END_THINK)
        markers = {tokenizer.marker_id(marker) for marker in CONTROL_MARKERS} | tokenizer.end_ids
        # Without a form for the answer, a turn may end within its thinking: cut short, but nobody's promise is broken.
        unthinkable = {tokenizer.marker_id(TOOL_CALL)} if matcher is None else markers - {self._end_think}
        self._unthinkable = torch.tensor(sorted(unthinkable))

    def start(self) -> GrammarState:
        return _TurnState(
            matcher=None if self._matcher is None else self._matcher.deep_copy(),
            think=self._think,
            end_think=self._end_think,
            unthinkable=self._unthinkable,
            place=_Place.OPENING if self._enable_thinking else _Place.ANSWER,
        )


class _Place(Enum):
    """Where in its turn a sequence is."""

    OPENING = auto()
    """Before the first token, where thinking is on: the model opens its thinking itself."""
    THINKING = auto()
    ANSWER = auto()


@dataclass(slots=True)
class _TurnState:
    """One sequence's way through the grammar; without a matcher its answer is free."""

    matcher: LLMatcher | None
    think: int
    end_think: int
    unthinkable: Tensor
    place: _Place

    def mask(self, logits: Tensor) -> Tensor:
        match self.place:
            case _Place.THINKING:
                return logits.index_fill(0, self.unthinkable, -torch.inf)
            case _Place.OPENING if self.matcher is not None:
                return _only(logits, torch.tensor([self.think]))
            case _Place.ANSWER if self.matcher is not None:
                return _only(logits, _next_ids(self.matcher))
            case _:
                return logits

    def accept(self, token_id: int) -> None:
        match self.place:
            case _Place.OPENING:
                self.place = _Place.THINKING if token_id == self.think else _Place.ANSWER
            case _Place.THINKING:
                self.place = _Place.ANSWER if token_id == self.end_think else _Place.THINKING
            case _Place.ANSWER if self.matcher is not None and not self.matcher.consume_token(token_id):
                raise UnfollowableGrammar(_reason(self.matcher.get_error()))


def _only(logits: Tensor, ids: Tensor) -> Tensor:
    masked = torch.full_like(logits, -torch.inf)
    masked[ids] = logits[ids]
    return masked


def _next_ids(matcher: LLMatcher) -> Tensor:
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    if matcher.is_error():
        raise UnfollowableGrammar(_reason(matcher.get_error()))
    return torch.from_numpy(np.flatnonzero(np.unpackbits(bits, bitorder="little")))


@dataclass(slots=True)
class _Rules:
    """Lines of a grammar in llguidance's dialect of Lark, one rule each, the first of them ``start``."""

    lines: list[str] = field(default_factory=list)
    params: list[str] = field(default_factory=lambda: [""])
    """Of every line of the text, the path of what it was made from."""

    def add(self, body: str, param: str, options: str = "") -> str:
        """The new rule's name."""
        name = f"r{len(self.lines)}"
        self.lines.append(f"{name}{options}: {body}")
        self.params.append(param)
        return name

    def text(self, start: str) -> str:
        return "\n".join([f"start: {start}", *self.lines])


def _json(schema: JsonObject, param: str) -> str:
    inexact = next((name for name, number in _limits(schema) if abs(number) >= _INEXACT), None)
    if inexact is not None:
        raise GrammarError(f"{inexact} has a number beyond 2^53 - 1, where whole numbers are no longer exact", param)
    return f"%json {json.dumps({**schema, 'x-guidance': _JSON_STYLE})}"


def _limits(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers that a schema compares others with, and what they are called."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _limits(part, name if name in _CHOICES else key)
    elif isinstance(value, list):
        for part in value:
            yield from _limits(part, name)
    elif (isinstance(value, int | float) and name in _BOUNDS) or (isinstance(value, int) and name in _CHOICES):
        yield name, value


def _calls(tools: Mapping[str, JsonObject], tokenizer: ChatTokenizer, rules: _Rules) -> str:
    """One call of any of the tools, as ``chat.template`` writes it and ``chat.tool_parser`` reads it."""
    functions = [rules.add(_function(tool["function"], param, rules), "") for param, tool in tools.items()]
    begin, end = tokenizer.marker_id(TOOL_CALL), tokenizer.marker_id(END_TOOL_CALL)
    opening, closing = _literal("\n<function="), _literal("</function>\n")
    return f"<[{begin}]> {opening} ({' | '.join(functions)}) {closing} <[{end}]>"


def _function(function: JsonObject, param: str, rules: _Rules) -> str:
    """Parameters come in the order of the schema: any order would need a rule for each of them."""
    root = function.get("parameters") or {}
    path = f"{param}.function.parameters"
    properties, required = root.get("properties") or {}, root.get("required") or []
    if not isinstance(required, list) or any(name not in list(properties) for name in required):
        raise GrammarError("required must be a list of names that are among the properties", f"{path}.required")
    parts = [_literal(f"{function['name']}>\n")]
    for name, schema in properties.items():
        written = _value(schema if isinstance(schema, Mapping) else {}, root, f"{path}.properties.{name}", rules)
        parameter = f"{_literal(f'<parameter={name}>')} {written} {_literal(chr(10))}"
        parts.append(parameter if name in required else f"({parameter})?")
    return " ".join(parts)


def _value(schema: JsonObject, root: JsonObject, param: str, rules: _Rules) -> str:
    """A parameter's value and the tag that ends it."""
    kinds = set(allowed_kinds(schema, root))
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if kinds and "string" not in kinds:
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        spellings = [rules.add(_json({**schema, **definitions}, param), param)]
        if choices is None:  # as the template writes history, and so as the model may have learned to write
            spellings += [_literal(text) for kind, text in _PYTHON_SPELLINGS if kind in kinds]
        return f"({' | '.join(spellings)}) {_literal(_END_VALUE)}"
    if choices is None:
        return rules.add(_text(schema, param), param, f"[suffix={_literal(_END_VALUE)}]")
    if not isinstance(choices, list):
        raise GrammarError("enum must be a list", param)
    texts = [choice if isinstance(choice, str) else json.dumps(choice) for choice in choices]
    if not texts or any(_END_VALUE in text for text in texts):
        raise GrammarError(f"values need at least one choice, and none may hold {_END_VALUE}", param)
    return f"({' | '.join(map(_literal, texts))}) {_literal(_END_VALUE)}"


_PYTHON_SPELLINGS = (("boolean", "True"), ("boolean", "False"), ("null", "None"))


def _text(schema: JsonObject, param: str) -> str:
    """Free text. Other limits on strings need the quoted form that this format does not have."""
    longest = schema.get("maxLength")
    if longest is None:
        return "/(?s:.*)/"
    if type(longest) is not int or longest < 0:
        raise GrammarError("maxLength must be a whole number", param)
    return f"/(?s:.{{0,{longest}}})/"


def _literal(text: str) -> str:
    return json.dumps(text)


def _reason(error: str) -> str:
    """The library's message without its state, and its place in a grammar that the caller never saw."""
    message = re.sub(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?", "", error)
    reason = " ".join(re.split(r"\n +\d+ \| |<state>", message)[0].split())
    return reason if len(reason) <= _REASON_CHARS else reason[:_REASON_CHARS] + "..."


class _Vocabulary:
    """The tokenizer as the library wants it. Special tokens are no text: only their ids stand for them."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        texts = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        too_long = {token_id for token_id, text in enumerate(texts) if len(text) > _LONGEST_TOKEN}
        special = tokenizer.special_ids | too_long
        self.eos_token_id = tokenizer.marker_id(IM_END)
        self.bos_token_id = None
        self.tokens = [b"<%d>" % token_id if token_id in special else text for token_id, text in enumerate(texts)]
        self.special_token_ids = sorted(special)
        self._encode: Callable[[str], list[int]] = tokenizer.encode_text

    def __call__(self, text: bytes) -> list[int]:
        """How the model would write a text that the grammar leaves no choice about."""
        return self._encode(text.decode())
