"""Answers of ``/v1/completions``, streamed and whole. The protocol has one object for both."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import Delta, assemble
from model_server.server.choices import Choices
from model_server.server.dialect import OPENAI, Dialect
from model_server.server.generation import Generation, SampledToken
from model_server.server.wire import Json, finite, metadata, openai_usage, token_text
from model_server.types import Logprobs


@dataclass(frozen=True, slots=True)
class Echo:
    """What stands before a choice's own text."""

    text: str = ""
    ids: Sequence[int] = ()
    """Its tokens, where their logarithms are asked for."""


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """``echoes``: of each choice, in their order. ``only_scores``: a choice is its echo and nothing else."""

    dialect: ClassVar[Dialect] = OPENAI

    id: str
    model: str
    tokenizer: ChatTokenizer
    include_usage: bool
    echoes: Sequence[Echo]
    only_scores: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, choices: Choices) -> list[Json]:
        return [self._object([self._choice(index, echo.text)]) for index, echo in enumerate(self.echoes) if echo.text]

    def step(self, index: int, choice: Generation, deltas: Sequence[Delta]) -> list[Json]:
        text = assemble(deltas, choice.parser).content
        return [self._object([self._choice(index, text, sampled=choice.take_sampled())])] if text else []

    def closing(self, index: int, choice: Generation) -> list[Json]:
        chunk = self._object([self._choice(index, "", choice.ending, choice.take_sampled())])
        return [chunk | metadata(choice.weights_version)]

    def end(self, choices: Choices) -> list[Json]:
        """The counts, for those who asked."""
        return [self._object([]) | {"usage": openai_usage(choices.usage)}] if self.include_usage else []

    def whole(self, choices: Choices, deltas: Sequence[Sequence[Delta]]) -> Json:
        said = [self._whole(index, choice, deltas[index]) for index, choice in enumerate(choices.generations)]
        usage = choices.usage
        if self.only_scores:
            usage.completion_tokens = 0
        version = choices.generations[0].weights_version
        return self._object(said) | {"usage": openai_usage(usage)} | metadata(version)

    def _whole(self, index: int, choice: Generation, deltas: Sequence[Delta]) -> Json:
        echo, text, sampled = self.echoes[index], assemble(deltas, choice.parser).content, choice.take_sampled()
        if self.only_scores:
            text, sampled = "", []
        said = self._choice(index, echo.text + text, "length" if self.only_scores else choice.ending, sampled)
        if echo.ids:
            said["logprobs"] = self._with_prompt(echo.ids, choice.prompt_logprobs or (), sampled)
        return said

    def _with_prompt(self, ids: Sequence[int], scores: Sequence[Logprobs], sampled: Sequence[SampledToken]) -> Json:
        """The prompt's first token comes after nothing, so it has no logarithm."""
        known = [*(SampledToken(*pair) for pair in zip(ids[1:], scores, strict=True)), *sampled]
        first = {"tokens": [token_text(ids[0], self.tokenizer)], "token_logprobs": [None], "top_logprobs": [None]}
        rest = self._logprobs(known) or {}
        return {name: values + rest.get(name, []) for name, values in first.items()}

    def _choice(self, index: int, text: str, ending: str | None = None, sampled: Sequence[SampledToken] = ()) -> Json:
        return {"index": index, "text": text, "logprobs": self._logprobs(sampled), "finish_reason": ending}

    def _logprobs(self, sampled: Sequence[SampledToken]) -> Json | None:
        """Lists as long as there are tokens; null where none was asked for."""
        if not sampled:
            return None
        return {
            "tokens": [token_text(token.token_id, self.tokenizer) for token in sampled],
            "token_logprobs": [finite(token.logprobs.sampled) for token in sampled],
            "top_logprobs": [
                {
                    token_text(token_id, self.tokenizer): finite(logprob)
                    for token_id, logprob in token.logprobs.likeliest
                }
                for token in sampled
            ],
        }

    def _object(self, choices: Sequence[Json]) -> Json:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
        }
