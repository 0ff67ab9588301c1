"""What SGLang's ``/generate`` is asked, and what its answers mean. No connection: bytes are the client's."""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from model_server.config import ModelConfig
from model_server.sglang.grammar import constraint
from model_server.types import (
    ContextLengthExceeded,
    EngineError,
    EngineUnavailable,
    FinishReason,
    GenerateRequest,
    Logprobs,
    Overloaded,
    SamplingParams,
    TokenEvent,
    TurnForm,
    UnfollowableGrammar,
    UnsupportedRequest,
)

Json = dict[str, Any]

_FULL = ("queue is full", "higher priority request")
_TOO_LONG = ("context length", "longer than the model", "maximum allowed length")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids that SGLang treats in its own way."""

    end_ids: frozenset[int]
    """Tokens at which it stops whether a request says so or not."""
    end_think_id: int
    """The only token that a budget can bring."""


def request_body(request: GenerateRequest, rid: str, vocabulary: Vocabulary, num_groups: int) -> Json:
    """The JSON of a request, to be known as ``rid``; ``num_groups`` share out sequences.

    Raises:
        UnsupportedRequest: SGLang cannot do what the request asks for.
    """
    if request.forced_experts is not None:
        raise UnsupportedRequest("SGLang chooses experts itself, so given ones cannot be replayed")
    sampling, form = request.sampling, _form(request.sampling)
    body: Json = {
        "rid": rid,
        "input_ids": list(request.prompt_ids),
        "sampling_params": _sampling(sampling, form, vocabulary),
        "stream": True,
        "priority": request.priority,
        "require_reasoning": form.thinking or sampling.deadline is not None,
    }
    if sampling.deadline is not None:
        if sampling.deadline.token_id != vocabulary.end_think_id:
            raise UnsupportedRequest("SGLang has a budget for thinking only")
        body["max_thinking_tokens"] = sampling.deadline.num_tokens
    if sampling.num_logprobs is not None:
        body |= {"return_logprob": True, "top_logprobs_num": sampling.num_logprobs}
    if request.scored_from is not None:
        body |= {"return_logprob": True, "logprob_start_len": request.scored_from}
    if request.experts_from is not None:
        body |= {"return_routed_experts": True, "routed_experts_start_len": _experts_start(request)}
    if request.cache_salt:
        body["cache_salt"] = request.cache_salt
    key = request.routing_key or request.session_id
    if key is not None and num_groups > 1:
        body["routed_dp_rank"] = _group_of(key, num_groups)
    return body


def refusal(status: int, message: str) -> EngineError:
    """The error of a request that SGLang ended with an HTTP status or with the same number in its stream."""
    if any(words in message for words in _FULL) or status == 429:
        return Overloaded(message)
    if status == 400 and "grammar" in message:
        return UnfollowableGrammar(message)
    if status == 400 and any(words in message for words in _TOO_LONG):
        return ContextLengthExceeded(message.rstrip("."))
    if status == 400:
        return UnsupportedRequest(f"SGLang refused it ({message.rstrip('.')})")
    if status == 503:
        return EngineUnavailable(f"SGLang says {message.rstrip('.')!r}")
    return EngineError(f"SGLang answered with {status}: {message}")


class TokenReader:
    """Turns the events of one stream into tokens, in order."""

    def __init__(self, request: GenerateRequest, config: ModelConfig) -> None:
        self._request = request
        self._config = config
        self._num_tokens = 0
        self.drafted = 0
        """Tokens guessed ahead for this sequence; known at its end."""
        self.accepted = 0

    def read(self, event: Json) -> Iterator[TokenEvent]:
        """New tokens; the last of the sequence has its finish reason.

        Raises:
            EngineError: SGLang gave the sequence up, or the event makes no sense.
        """
        if "error" in event:
            raise _stream_error(event["error"])
        try:
            part = _Event.model_validate(event)
        except ValidationError as error:
            raise EngineError(f"SGLang's answer cannot be read: {error.errors()[0]['msg']}") from error
        facts = part.meta_info
        reason = None if facts.finish_reason is None else _finish_reason(facts.finish_reason)
        num_new = facts.completion_tokens - self._num_tokens
        # Whether events have all ids or the new ones only, those at the end are new.
        ids = part.output_ids[len(part.output_ids) - num_new :]
        if not 0 <= num_new == len(ids) or (reason is not None and not ids):
            raise EngineError(f"SGLang's stream has {len(part.output_ids)} ids where {num_new} are new")
        self._num_tokens = facts.completion_tokens
        self.drafted, self.accepted = facts.spec_num_proposed_drafts, facts.spec_num_correct_drafts
        scores = self._logprobs(facts, num_new)
        for index, token_id in enumerate(ids):
            is_last = reason is not None and index == num_new - 1
            yield TokenEvent(
                token_id,
                finish_reason=reason if is_last else None,
                cached_tokens=facts.cached_tokens,
                logprobs=scores[index],
                experts=self._experts(facts) if is_last else None,
                prompt_logprobs=self._prompt_logprobs(facts) if is_last else None,
                weights_version=facts.weight_version if is_last else None,
            )

    def _prompt_logprobs(self, facts: "_Facts") -> tuple[Logprobs, ...] | None:
        """Of the tokens after the first that is named, which has none."""
        start, scores = self._request.scored_from, facts.input_token_logprobs[1:]
        if start is None:
            return None
        if len(scores) != max(len(self._request.prompt_ids) - 1 - start, 0):
            raise EngineError(f"SGLang gave {len(scores)} log-probabilities of the prompt from token {start} on")
        likeliest = facts.input_top_logprobs[1:] or [None] * len(scores)
        return tuple(_scored(own, row) for own, row in zip(scores, likeliest, strict=True))

    def _logprobs(self, facts: "_Facts", num_new: int) -> list[Logprobs] | list[None]:
        if self._request.sampling.num_logprobs is None:
            return [None] * num_new
        sampled, likeliest = facts.output_token_logprobs, facts.output_top_logprobs
        if len(sampled) < num_new:
            raise EngineError(f"SGLang gave {len(sampled)} log-probabilities for {num_new} tokens")
        rows: list[list[_Score] | None] = [*([None] * (num_new - len(likeliest))), *likeliest]
        newest = zip(sampled[len(sampled) - num_new :], rows[len(rows) - num_new :], strict=True)
        return [_scored(own, row) for own, row in newest]

    def _experts(self, facts: "_Facts") -> Tensor | None:
        """Bytes [S, M, K] of what SGLang gives as int32 [S, L, K], with rows for layers that have no experts."""
        wanted_from = self._request.experts_from
        if wanted_from is None:
            return None
        if facts.routed_experts is None:
            raise UnsupportedRequest("SGLang was started without --enable-return-routed-experts")
        config, start = self._config, _experts_start(self._request)
        try:
            data = bytearray(base64.b64decode(facts.routed_experts, validate=True))
            routes = torch.frombuffer(data, dtype=torch.int32) if data else torch.empty(0, dtype=torch.int32)
            routes = routes.view(-1, config.num_hidden_layers, config.num_experts_per_tok)
        except (binascii.Error, RuntimeError, ValueError) as error:
            raise EngineError("SGLang's routed experts have an unexpected size") from error
        layers = [layer for layer, has_experts in enumerate(config.moe_layer_freq) if has_experts]
        routes = routes[:, layers][wanted_from - start :]
        if routes.numel() and not 0 <= int(routes.min()) <= int(routes.max()) < config.n_routed_experts:
            raise EngineError("SGLang's routed experts name experts that the model has not")
        return routes.to(torch.uint8)


_Score = tuple[float | None, int, str | None]
"""Logarithm, token id, text."""


class _Facts(BaseModel):
    """What is read of ``meta_info``."""

    model_config = ConfigDict(extra="ignore")

    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: Json | None = None
    output_token_logprobs: list[_Score] = []
    output_top_logprobs: list[list[_Score] | None] = []
    input_token_logprobs: list[_Score] = []
    input_top_logprobs: list[list[_Score] | None] = []
    weight_version: str | None = None
    routed_experts: str | None = None
    spec_num_proposed_drafts: int = 0
    spec_num_correct_drafts: int = 0


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore")

    output_ids: list[int] = []
    meta_info: _Facts = Field(default_factory=_Facts)


def _form(sampling: SamplingParams) -> TurnForm:
    if sampling.grammar is None:
        return TurnForm(thinking=False)
    if sampling.grammar.form is None:
        raise UnsupportedRequest("this grammar cannot be said in SGLang's words")
    return sampling.grammar.form


def _sampling(sampling: SamplingParams, form: TurnForm, vocabulary: Vocabulary) -> Json:
    if sampling.stop_ids and not vocabulary.end_ids <= sampling.stop_ids:
        raise UnsupportedRequest("SGLang cannot stop at some tokens and go on past the end of a turn")
    fields: Json = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "max_new_tokens": sampling.max_tokens,
        "stop_token_ids": sorted(sampling.stop_ids),
        # It ignores the stop tokens of the request as well.
        "ignore_eos": not sampling.stop_ids,
    }
    if sampling.seed is not None:
        fields["sampling_seed"] = sampling.seed
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token_id): bias for token_id, bias in sampling.logit_bias}
    return fields | constraint(form)


def _experts_start(request: GenerateRequest) -> int:
    """SGLang starts within the prompt or right after it; later positions are cut off here."""
    return min(request.experts_from or 0, len(request.prompt_ids))


def _group_of(key: str, num_groups: int) -> int:
    """Every group has a cache of its own, so what begins alike stays with one. The same in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % num_groups


def _finish_reason(reason: Json) -> FinishReason:
    match reason.get("type"):
        case "stop":
            return "stop"
        case "length":
            return "length"
        case "abort":
            # Without a number somebody ended all requests, as before new weights or a shutdown.
            raise refusal(reason.get("status_code") or 503, str(reason.get("message") or "aborted"))
        case other:
            raise EngineError(f"SGLang finished for an unknown reason {other!r}")


def _stream_error(error: object) -> EngineError:
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    return refusal(code if isinstance(code, int) else 500, str(fields.get("message")))


def _scored(own: _Score, likeliest: list[_Score] | None) -> Logprobs:
    return Logprobs(_log(own[0]), tuple((token_id, _log(score)) for score, token_id, _ in likeliest or ()))


def _log(value: float | None) -> float:
    """SGLang's JSON has null for minus infinity."""
    return -torch.inf if value is None else value
