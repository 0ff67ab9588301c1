"""What ``POST /v1/completions`` accepts, checked once."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from model_server.server.body import JsonObject, checked, present, without_neutral
from model_server.server.errors import ApiError
from model_server.server.sampling_fields import IGNORED, MAX_CHOICES, ChoiceFields

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
}

Prompt = str | list[int]


class CompletionRequest(ChoiceFields):
    """A checked request for the plain continuation of a text."""

    prompt_field: ClassVar[str] = "prompt"

    prompt: Any
    """A text, a list of token ids, or a list of either."""
    max_tokens: int | None = Field(16, ge=0)
    """The protocol's own default, which is short. 0 is for those who want the prompt's logarithms only."""
    echo: bool = False
    """Put the prompt in front of each answer, with ``logprobs`` those of its tokens too."""
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def scores_prompt(self) -> bool:
        return self.echo and self.logprobs is not None

    @property
    def only_scores(self) -> bool:
        """Nothing is to be generated. A token is all the same, and nobody is told."""
        return self.max_tokens == 0

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Each is answered ``n`` times."""
        alone = isinstance(self.prompt, str) or all(isinstance(part, int) for part in self.prompt)
        return [self.prompt] if alone else self.prompt


def parse_completion(fields: JsonObject) -> CompletionRequest:
    """Check a request.

    Raises:
        ApiError: what is wrong, where, and what to do.
    """
    request = checked(CompletionRequest, without_neutral(present(fields, IGNORED), _UNSUPPORTED))
    request.check_stream()
    _check_scores(request)
    if not isinstance(request.prompt, str | list) or not all(map(_is_prompt, request.prompts)):
        message = (
            "A prompt is a text, or a list of token ids from 0, and is not empty. prompt is one, or a list of them."
        )
        raise ApiError(message, param="prompt")
    num_choices = len(request.prompts) * request.n
    request.check_session(num_choices)
    if num_choices > MAX_CHOICES:
        message = (
            f"{num_choices} answers are asked for at once, more than {MAX_CHOICES}. Send fewer prompts, or lower n."
        )
        raise ApiError(message, param="n" if request.n > 1 else "prompt")
    return request


def _check_scores(request: CompletionRequest) -> None:
    if request.only_scores and not request.scores_prompt:
        message = "max_tokens 0 leaves nothing to answer without echo and logprobs. Set both, or ask for tokens."
        raise ApiError(message, param="max_tokens")
    if not request.scores_prompt:
        return
    unfit = [name for name in ("stream", "session_id", "stop") if getattr(request, name)]
    if unfit:
        message = (
            f"A prompt's logprobs come with a whole answer that ends by itself. Leave out {unfit[0]}, echo or logprobs."
        )
        raise ApiError(message, param=unfit[0])


def _is_prompt(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(part) is int and 0 <= part < 2**31 for part in value)
    return isinstance(value, str) and bool(value)
