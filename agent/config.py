"""Settings of the agent. Entry points read them once, at the start; everything else receives them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from agent.types import Usage


class Prices(BaseModel):
    """What a million tokens cost, in a currency of the operator's choice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: float = Field(ge=0)
    """Prompt tokens that were not cached."""
    cached: float = Field(ge=0)
    completion: float = Field(ge=0)

    def cost(self, usage: Usage) -> float:
        """
        >>> Prices(prompt=1, cached=0, completion=2).cost(Usage(prompt_tokens=3_000_000, completion_tokens=500_000))
        4.0
        """
        uncached = usage.prompt_tokens - usage.cached_tokens
        parts = (uncached * self.prompt, usage.cached_tokens * self.cached, usage.completion_tokens * self.completion)
        return sum(parts) / 1_000_000


class ModelSettings(BaseModel):
    """Which model endpoint to ask, and how long to wait for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = "http://127.0.0.1:9001/v1"
    """Base address of an OpenAI-compatible endpoint, up to and including ``/v1``."""
    name: Annotated[str, StringConstraints(min_length=1)] = "mimo-v2-nano"
    """Model asked for where a task names none."""
    api_key: SecretStr | None = None
    """Sent as a bearer token; None sends no such header."""
    context_tokens: int | None = Field(None, gt=0)
    """Longest prompt and answer together; None asks the endpoint."""
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    """Under which name the model's reasoning goes back to the endpoint; newer vLLM knows only ``reasoning``. Both are
    read."""
    sessions: bool = False
    """Send a ``session_id`` for each conversation of a run, so that our own model server goes on from the very tokens
    of its last answer. Endpoints that do not know this may refuse it."""
    record_tokens: bool = False
    """Ask for the tokens of every answer, to be kept for training. Endpoints that do not know this may refuse it."""
    images: bool = False
    """Whether the model takes images. MiMo-V2-Flash takes text alone: messages with images are refused then."""
    check_syntax: bool | None = None
    """Whether ``str_replace`` of the profile ``native`` refuses an edit that breaks a file's syntax; None: with any
    model but ``mimo-v2-nano``, which was trained without."""
    prices: Prices | None = None
    """None where nothing has a price: tasks with a limit of cost are refused then."""
    connect_timeout_s: float = Field(10.0, gt=0)
    first_token_s: float = Field(300.0, gt=0)
    """Longest wait for the first token: covers the endpoint's queue and a long prompt."""
    idle_s: float = Field(60.0, gt=0)
    """Longest pause between two tokens."""
    retries: int = Field(5, ge=0)
    """Further tries after a failure that may pass, before the run waits, or ends with ``model_error``."""
    backoff_s: float = Field(1.0, ge=0)
    """First pause between two tries; it doubles, with jitter, up to 30 s. A ``Retry-After`` wins."""

    def checks_syntax(self, name: str | None) -> bool:
        """Whether edits are held to a file's syntax.

        Args:
            name: the model that a task asks for; None is the default.
        """
        if self.check_syntax is not None:
            return self.check_syntax
        return not (name or self.name).rpartition("/")[2].startswith(_TRAINED_WITHOUT_SYNTAX)


_TRAINED_WITHOUT_SYNTAX = "mimo-v2-nano"

_ENVIRONMENT = {
    "url": "MIMO_MODEL_URL",
    "name": "MIMO_MODEL_NAME",
    "api_key": "MIMO_MODEL_API_KEY",
    "context_tokens": "MIMO_MODEL_CONTEXT_TOKENS",
    "reasoning_field": "MIMO_MODEL_REASONING_FIELD",
    "sessions": "MIMO_MODEL_SESSIONS",
    "record_tokens": "MIMO_MODEL_RECORD_TOKENS",
    "images": "MIMO_MODEL_IMAGES",
    "check_syntax": "MIMO_MODEL_CHECK_SYNTAX",
    "prices": "MIMO_MODEL_PRICES",
}


def model_settings(environment: Mapping[str, str]) -> ModelSettings:
    """Settings with what the variables ``MIMO_MODEL_...`` say; empty is unset. Prices are written as JSON.

    Raises:
        pydantic.ValidationError: a value is unusable; the message does not repeat it.
    """
    given: dict[str, Any] = {
        field: environment[variable] for field, variable in _ENVIRONMENT.items() if environment.get(variable)
    }
    if "prices" in given:
        given["prices"] = Prices.model_validate_json(given["prices"])
    return ModelSettings.model_validate(given)
