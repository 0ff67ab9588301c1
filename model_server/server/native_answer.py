"""Answers of ``/generate``: token ids and what is known about them, under SGLang's names."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import Delta, assemble
from model_server.server.choices import Choices
from model_server.server.dialect import OPENAI, Dialect
from model_server.server.generation import Generation, SampledToken
from model_server.server.native_schema import NativeRequest
from model_server.server.wire import Json, finite, routes, token_text
from model_server.types import Logprobs


@dataclass(slots=True)
class NativeAnswer:
    """One choice. Every event of a stream has all text and ids so far, as SGLang's have."""

    dialect: ClassVar[Dialect] = OPENAI

    id: str
    request: NativeRequest
    tokenizer: ChatTokenizer
    started_at: float = field(default_factory=time.monotonic)
    _text: str = ""
    _sampled: list[SampledToken] = field(default_factory=list)

    def opening(self, choices: Choices) -> list[Json]:
        return []

    def step(self, index: int, choice: Generation, deltas: Sequence[Delta]) -> list[Json]:
        """A token that ended the answer is told with its end."""
        self._text += assemble(deltas, choice.parser).content
        return [self._object(choice)] if choice.ending is None else []

    def closing(self, index: int, choice: Generation) -> list[Json]:
        if self.request.sampling_params.no_stop_trim:
            self._text += self._matched_text(choice)
        return [self._object(choice)]

    def end(self, choices: Choices) -> list[Json]:
        return []

    def whole(self, choices: Choices, deltas: Sequence[Sequence[Delta]]) -> Json:
        (choice,) = choices.generations
        self._text = assemble(deltas[0], choice.parser).content
        return self.closing(0, choice)[0]

    def _matched_text(self, choice: Generation) -> str:
        matched = choice.matched
        return token_text(matched, self.tokenizer) if isinstance(matched, int) else matched or ""

    def _object(self, choice: Generation) -> Json:
        self._sampled += choice.take_sampled()
        if choice.end is not None:
            self._sampled.append(choice.end)
        if self.request.only_scores:
            self._text, self._sampled = "", []
        ids = [] if self.request.only_scores else list(choice.token_ids)
        return {"text": self._text, "output_ids": ids, "meta_info": self._facts(choice, len(ids))}

    def _facts(self, choice: Generation, num_tokens: int) -> Json:
        return {
            "id": self.request.rid or self.id,
            "finish_reason": _finish_reason(choice, num_tokens),
            "prompt_tokens": choice.usage.prompt_tokens,
            "completion_tokens": num_tokens,
            "cached_tokens": choice.usage.cached_tokens,
            "e2e_latency": time.monotonic() - self.started_at,
            **(self._logprobs("output", self._sampled) if self.request.return_logprob else {}),
            **self._prompt_logprobs(choice.prompt_logprobs),
            **routes(choice.experts),
            **({} if choice.segment is None else {"segment": choice.segment}),
            **({} if choice.weights_version is None else {"weight_version": choice.weights_version}),
        }

    def _prompt_logprobs(self, scores: Sequence[Logprobs] | None) -> Json:
        """The first token that is named has none."""
        named = self.request.input_ids[self.request.logprob_start_len :]
        if scores is None:
            return {}
        facts = self._logprobs("input", [SampledToken(*pair) for pair in zip(named[1:], scores, strict=True)])
        for first in named[:1]:
            facts["input_token_logprobs"].insert(0, (None, first, self._shown(first)))
            facts.get("input_top_logprobs", []).insert(0, None)
        return facts

    def _logprobs(self, kind: str, tokens: Sequence[SampledToken]) -> Json:
        sampled = [self._token(token.token_id, token.logprobs.sampled) for token in tokens]
        top = [[self._token(*likely) for likely in token.logprobs.likeliest] for token in tokens]
        return {f"{kind}_token_logprobs": sampled} | (
            {f"{kind}_top_logprobs": top} if self.request.top_logprobs_num else {}
        )

    def _token(self, token_id: int, logprob: float) -> tuple[float, int, str | None]:
        return finite(logprob), token_id, self._shown(token_id)

    def _shown(self, token_id: int) -> str | None:
        return token_text(token_id, self.tokenizer) if self.request.return_text_in_logprobs else None


def _finish_reason(choice: Generation, num_tokens: int) -> Json | None:
    match choice.ending:
        case None:
            return None
        case "length":
            return {"type": "length", "length": num_tokens}
        case _:
            return {"type": "stop", "matched": choice.matched}
