"""What chat programs send and read, as OpenAI's API describes it, and the one member that is ours: ``mimo``."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from agent.types import Status, StopReason, Usage, VerdictKind, WaitingOn

_Name = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class _Heard(BaseModel):
    """Chat programs send much that does not matter here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageUrl(_Heard):
    url: str = Field(description="data:image/png;base64,..., or image/jpeg, or image/webp; others are not fetched.")


class ContentPart(_Heard):
    type: Annotated[str, StringConstraints(max_length=32)]
    text: str = Field("", description="Of a part whose type is text.")
    image_url: ImageUrl | None = Field(
        None,
        description="Of a part whose type is image_url: up to four of the last message, as POST .../messages "
        "takes them.",
    )


class ChatMessage(_Heard):
    role: Annotated[str, StringConstraints(max_length=32)]
    content: str | tuple[ContentPart, ...] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, tuple):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""

    @property
    def parts(self) -> tuple[ContentPart, ...]:
        """Those of a content that has parts."""
        return self.content if isinstance(self.content, tuple) else ()


class StreamOptions(_Heard):
    include_usage: bool = Field(False, description="A last chunk says how many tokens the task used.")


class ChatMetadata(_Heard):
    """Which task is meant, where the model's name and the conversation do not say it."""

    repository: _Name | None = Field(None, description="As a task names it; wins over the model's name.")
    base_commit: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        None, description="Of a new task; null is the default branch."
    )
    task_id: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Speak to this task, whatever the conversation holds."
    )


class ChatRequest(_Heard):
    """The last message, which is the user's, is what the agent is told."""

    model: _Name = Field(description="mimo-PROFILE or mimo-PROFILE/REPOSITORY; GET /v1/models lists them.")
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    metadata: ChatMetadata | None = None
    n: Literal[1] | None = Field(None, description="One answer to a request.")


class TaskOutcome(_Said):
    """The task behind an answer, as it stood at its end."""

    task_id: str
    status: Status
    waiting_on: WaitingOn | None
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    url: str = Field(description="Its page.")
    patch_url: str | None = Field(description="Where its patch is; null until the task has ended.")


class ChatAnswer(_Said):
    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str = Field(description="What the agent thought, for who may read it, and what it did.")


FinishReason = Literal["stop", "length"]
"""``length``: the wait was over before the task was."""


class ChatChoice(_Said):
    index: Literal[0] = 0
    message: ChatAnswer
    finish_reason: FinishReason


class CachedTokens(_Said):
    cached_tokens: int


class ReasoningTokens(_Said):
    reasoning_tokens: int


class ChatUsage(_Said):
    """Of the task as a whole."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class ChatCompletion(_Said):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix time, s.")
    model: str
    choices: tuple[ChatChoice]
    usage: ChatUsage
    mimo: TaskOutcome


class ChatDelta(_Said):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, write: SerializerFunctionWrapHandler) -> dict[str, str]:
        return {name: value for name, value in write(self).items() if value is not None}


class ChunkChoice(_Said):
    index: Literal[0] = 0
    delta: ChatDelta
    finish_reason: FinishReason | None = None


class ChatChunk(_Said):
    """A piece of an answer that is streamed; the last with a choice has ``mimo``."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: ChatUsage | None = None
    mimo: TaskOutcome | None = None


def usage_of(used: Usage) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=used.cached_tokens),
        completion_tokens_details=ReasoningTokens(reasoning_tokens=used.reasoning_tokens),
    )
