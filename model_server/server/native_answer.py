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
        return {"text": self._text, "output_ids": list(choice.token_ids), "meta_info": self._facts(choice)}

    def _facts(self, choice: Generation) -> Json:
        return {
            "id": self.request.rid or self.id,
            "finish_reason": _finish_reason(choice),
            "prompt_tokens": choice.usage.prompt_tokens,
            "completion_tokens": choice.usage.completion_tokens,
            "cached_tokens": choice.usage.cached_tokens,
            "e2e_latency": time.monotonic() - self.started_at,
            **(self._logprobs() if self.request.return_logprob else {}),
            **routes(choice.experts),
            **({} if choice.segment is None else {"segment": choice.segment}),
        }

    def _logprobs(self) -> Json:
        sampled = [self._token(token.token_id, token.logprobs.sampled) for token in self._sampled]
        top = [[self._token(*likely) for likely in token.logprobs.likeliest] for token in self._sampled]
        return {"output_token_logprobs": sampled} | (
            {"output_top_logprobs": top} if self.request.top_logprobs_num else {}
        )

    def _token(self, token_id: int, logprob: float) -> tuple[float, int, str | None]:
        text = token_text(token_id, self.tokenizer) if self.request.return_text_in_logprobs else None
        return finite(logprob), token_id, text


def _finish_reason(choice: Generation) -> Json | None:
    match choice.ending:
        case None:
            return None
        case "length":
            return {"type": "length", "length": choice.usage.completion_tokens}
        case _:
            return {"type": "stop", "matched": choice.matched}
