"""What the endpoints' answers have in common on the wire."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import Delta, Flag
from model_server.server.choices import Choices
from model_server.server.dialect import Dialect
from model_server.server.generation import Generation, Usage

if TYPE_CHECKING:
    from torch import Tensor

Json = dict[str, Any]

_LOWEST_LOGPROB = -9999.0
"""JSON has no infinity; this is what the protocol's own servers write for it."""


class Answer(Protocol):
    """How an endpoint writes what is generated. What a stream is told comes in lists: one event each."""

    @property
    def id(self) -> str:
        """Of the request, as the log has it."""

    @property
    def dialect(self) -> Dialect:
        """The protocol it is written in."""

    def opening(self, choices: Choices) -> list[Json]:
        """Before everything else."""

    def step(self, index: int, choice: Generation, deltas: Sequence[Delta]) -> list[Json]:
        """What one token added, which may be nothing."""

    def closing(self, index: int, choice: Generation) -> list[Json]:
        """A choice is complete."""

    def end(self, choices: Choices) -> list[Json]:
        """All are."""

    def whole(self, choices: Choices, deltas: Sequence[Sequence[Delta]]) -> Json:
        """Everything at once; ``deltas`` of each choice."""


def openai_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def extension(flags: set[Flag], segment: int | None) -> Json:
    """Ours: what happened in a turn, where anything did, and which text of its session it belongs to."""
    facts: Json = {"flags": sorted(flags)} if flags else {}
    if segment is not None:
        facts["segment"] = segment
    return {"mimo": facts} if facts else {}


def metadata(weights_version: str | None) -> Json:
    """SGLang's extension: which weights answered."""
    return {} if weights_version is None else {"metadata": {"weight_version": weights_version}}


def finite(logprob: float) -> float:
    """A logarithm that JSON can hold."""
    return max(logprob, _LOWEST_LOGPROB)


def token_bytes(token_id: int, tokenizer: ChatTokenizer) -> bytes:
    """What a token stands for, markers included."""
    marker = tokenizer.marker(token_id)
    return tokenizer.token_bytes(token_id) if marker is None else marker.encode()


def token_text(token_id: int, tokenizer: ChatTokenizer) -> str:
    """The same as text; a part of a code point is U+FFFD."""
    return token_bytes(token_id, tokenizer).decode("utf-8", "replace")


def routes(experts: "Tensor | None") -> Json:
    """Bytes [S, M, K] in base64, for the positions from the asked one to the last but one."""
    if experts is None:
        return {}
    data = base64.b64encode(experts.contiguous().numpy().tobytes()).decode()
    return {"routed_experts": data, "routed_experts_shape": list(experts.shape)}
