"""What ``POST /v1/chat/completions`` and the token routes accept, checked once."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints

from model_server.chat.template import content_text
from model_server.server.answer_form import NamedTool, ResponseFormat, ToolChoice
from model_server.server.body import Fields, JsonObject, PastFields, checked, present, without_neutral
from model_server.server.errors import ApiError
from model_server.server.sampling_fields import IGNORED, MAX_COUNT, ChoiceFields, TokenId

MAX_SCHEMA_DEPTH = 64
MAX_MESSAGES = 10_000
MAX_TOOLS = 128
_TOOL_NAME_CHARS = 64

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "functions": (),
    "guided_json": (),
    "modalities": (["text"],),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Known fields of the protocol that this server does not have, with the values that ask for nothing."""


class CalledFunction(PastFields):
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str | dict[str, Any] = "{}"


class Call(PastFields):
    id: Annotated[str, StringConstraints(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(PastFields):
    """One message of the conversation. ``content`` is checked where it is rendered."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """Another spelling of ``reasoning_content`` that some clients send back."""
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    audio: None = None
    function_call: None = None


class TemplateOptions(Fields):
    """``chat_template_kwargs``."""

    enable_thinking: bool | None = None
    """None leaves it to ``reasoning_effort``."""
    keep_all_reasoning: bool = True


class ChatRequest(ChoiceFields):
    """A checked request. Fields that are null are treated as absent."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: list[dict[str, Any]] = Field([], max_length=MAX_TOOLS)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    """False ends an answer after its first call."""
    response_format: ResponseFormat = ResponseFormat()
    chat_template_kwargs: TemplateOptions = TemplateOptions()
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] = "none"
    """This model thinks or does not; how much is for ``max_thinking_tokens`` to say."""
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_thinking_tokens: int | None = Field(None, gt=0, le=MAX_COUNT)
    """Our extension: thinking that is not over after so many tokens is ended there."""
    return_routed_experts: bool = False
    """SGLang's extension: which experts each token used, for training that replays them."""
    routed_experts_start_len: int = Field(0, ge=0, le=MAX_COUNT)
    max_completion_tokens: int | None = Field(None, gt=0)

    @property
    def enable_thinking(self) -> bool:
        """Off unless asked for, as the published template of this model has it."""
        asked_for = self.chat_template_kwargs.enable_thinking
        return self.reasoning_effort != "none" if asked_for is None else asked_for

    @property
    def completion_limit(self) -> int | None:
        """Most tokens to generate; None leaves what the context holds."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Likeliest tokens to report beside each sampled one; None reports none at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def experts_from(self) -> int | None:
        """Position from which on experts are reported; None reports none."""
        return self.routed_experts_start_len if self.return_routed_experts else None

    @property
    def offered_tools(self) -> Sequence[JsonObject]:
        """The tools the model is shown and may call."""
        return () if self.tool_choice == "none" else self.tools


_Request = TypeVar("_Request", bound=ChatRequest)


class TextToTokens(Fields):
    """``POST /tokenize`` with ``prompt``; with ``messages`` it takes what a chat completion takes."""

    model: str
    prompt: str


class TokensToText(Fields):
    model: str
    tokens: list[TokenId]


def parse_tokenize(fields: JsonObject) -> ChatRequest | TextToTokens:
    """Raises ApiError, as :func:`parse_request`."""
    return parse_request(fields) if "messages" in fields else checked(TextToTokens, fields)


def parse_detokenize(fields: JsonObject) -> TokensToText:
    """Raises ApiError, as :func:`parse_request`."""
    return checked(TokensToText, fields)


def parse_request(fields: JsonObject) -> ChatRequest:
    """Check a request.

    Raises:
        ApiError: what is wrong, where, and what to do.
    """
    return check_request(checked(ChatRequest, without_neutral(present(fields, IGNORED), _UNSUPPORTED)))


def check_request(request: _Request) -> _Request:
    """What goes together in a request, and what its tools, schemas and results may be.

    Raises:
        ApiError: as :func:`parse_request`.
    """
    request.check_stream()
    request.check_session(request.n)
    if request.return_routed_experts and request.n > 1:
        raise ApiError("return_routed_experts goes with one answer. Set n to 1.", param="return_routed_experts")
    if request.top_logprobs and not request.logprobs:
        raise ApiError("top_logprobs needs logprobs: true. Set it, or leave top_logprobs out.", param="top_logprobs")
    _check_tools(request.tools)
    _check_choice(request.tool_choice, [tool["function"]["name"] for tool in request.tools])
    if request.response_format.json_schema is not None:
        _check_depth(request.response_format.json_schema.schema_, "response_format.json_schema.schema")
    _check_results(request.messages)
    return request


def template_messages(messages: Sequence[Message]) -> list[JsonObject]:
    """The messages as the template knows them, contents as text.

    Results of a turn are put in the order of its calls: nothing else links them in the prompt.
    """
    rendered: list[tuple[tuple[int, int], JsonObject]] = []
    turn, order = 0, dict[str | None, int]()
    for index, message in enumerate(messages):
        if message.role != "tool":
            turn, order = index, {call.id: place for place, call in enumerate(message.tool_calls or (), start=1)}
        rendered.append(((turn, order.get(message.tool_call_id, 0)), _template_message(message, index)))
    return [message for _, message in sorted(rendered, key=lambda item: item[0])]


def _template_message(message: Message, index: int) -> JsonObject:
    content = content_text(message.content, f"messages[{index}].content")
    if message.role != "assistant":
        return {"role": "system" if message.role == "developer" else message.role, "content": content}
    reasoning = message.reasoning if message.reasoning_content is None else message.reasoning_content
    calls = [call.model_dump() for call in message.tool_calls or ()]
    return {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": calls}


def _check_tools(tools: Sequence[JsonObject]) -> None:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise ApiError('A tool must be {"type": "function", "function": {...}}.', param=path)
        name = function.get("name")
        if not isinstance(name, str) or not _is_name(name):
            raise ApiError(
                f"A function name has 1 to {_TOOL_NAME_CHARS} letters, digits, dots, dashes or underscores.",
                param=f"{path}.function.name",
            )
        if name in names:
            raise ApiError(f"There are two tools named {name}. Names must differ.", param=f"{path}.function.name")
        names.add(name)
        _check_schema(function.get("parameters") or {}, f"{path}.function.parameters")


def _check_choice(choice: ToolChoice, names: Sequence[str]) -> None:
    """There is something to call where a call must come."""
    if choice == "required" and not names:
        raise ApiError("A required call needs tools. Send them, or leave tool_choice out.", param="tool_choice")
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise ApiError(f"There is no tool named {choice.name}. Name one of tools.", param="tool_choice")


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _TOOL_NAME_CHARS and name.isascii() and all(c.isalnum() or c in "_.-" for c in name)


def _check_schema(schema: object, path: str) -> None:
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise _bad_schema("Parameters must be a JSON schema of type object.", path)
    properties = schema.get("properties") or {}
    if not isinstance(properties, dict):
        raise _bad_schema("properties must be an object.", f"{path}.properties")
    for name in properties:
        if not name or ">" in name or "\n" in name or name != name.strip():
            message = "The call format cannot carry this parameter name. Rename it."
            raise _bad_schema(message, f"{path}.properties.{name}")
    _check_depth(schema, path)


def _check_depth(schema: JsonObject, path: str) -> None:
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise _bad_schema(f"The schema nests deeper than {MAX_SCHEMA_DEPTH} levels. Flatten it.", path)


def _bad_schema(message: str, param: str) -> ApiError:
    return ApiError(message, code="invalid_schema", param=param)


def _depth(value: object) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _check_results(messages: Sequence[Message]) -> None:
    """Every result answers a call of the assistant message before it."""
    open_calls: set[str | None] = set()
    for index, message in enumerate(messages):
        if message.role != "tool":
            open_calls = {call.id for call in message.tool_calls or ()}
            continue
        if message.tool_call_id not in open_calls:
            raise ApiError(
                f"messages[{index}] answers no tool call. A tool message must follow the assistant message that made "
                "the call, and carry its id as tool_call_id, once.",
                param=f"messages[{index}].tool_call_id",
            )
        open_calls.discard(message.tool_call_id)
