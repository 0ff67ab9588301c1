"""The fields that say how to sample, which every endpoint that generates has under these or similar names."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, StringConstraints

from model_server.server.body import Fields
from model_server.server.errors import ApiError
from model_server.server.placement_fields import PlacementFields

MAX_CHOICES = 16
"""Most answers to one request; an engine holds a few dozen sequences for all of its callers."""

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Fields of OpenAI's protocol that change nothing about an answer."""

MAX_COUNT = 2**31 - 1
"""Counts and positions of tokens are less than this everywhere."""

TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class SamplingFields(Fields):
    """How tokens are drawn, and where they end."""

    path: ClassVar[str] = ""
    """Where these fields are in the request, for messages."""
    prompt_field: ClassVar[str] = "messages"
    limit_field: ClassVar[str] = "max_tokens"
    clips_limit: ClassVar[bool] = False
    """Where more is asked for than the context holds, what it holds is given."""

    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=MAX_COUNT)
    min_p: float = Field(0.0, ge=0, le=1)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=2)
    logit_bias: dict[
        Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]
    ] = Field({}, max_length=1024)
    seed: int | None = Field(None, ge=0, lt=2**63)
    max_tokens: int | None = Field(None, gt=0)
    stop: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]], BeforeValidator(_listed)
    ] = Field([], max_length=16)

    @property
    def completion_limit(self) -> int | None:
        """Most tokens to generate; None leaves what the context holds."""
        return self.max_tokens


class StreamOptions(Fields):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChoiceFields(SamplingFields, PlacementFields):
    """What OpenAI's two endpoints have in common."""

    model: str
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    """Answers to one prompt. With a seed, each has its own: the seed plus its index."""
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """The stream is to end with a chunk that has the counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check_stream(self) -> None:
        """Raises ApiError where options are given for a stream that was not asked for."""
        if self.stream_options is not None and not self.stream:
            message = "stream_options needs stream: true. Set stream, or leave stream_options out."
            raise ApiError(message, param="stream_options")
