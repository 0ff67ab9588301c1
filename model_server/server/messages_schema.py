"""What ``POST /v1/messages`` accepts: Anthropic's protocol, read into the request of a chat completion.

Blocks may have fields this server does not know: clients send marks for caches and citations with every block.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from model_server.server.body import Fields, JsonObject, checked, present, without_neutral
from model_server.server.errors import ApiError
from model_server.server.placement_fields import PlacementFields
from model_server.server.sampling_fields import SamplingFields
from model_server.server.schemas import MAX_MESSAGES, MAX_TOOLS, ChatRequest, check_request

_IGNORED = (
    "betas",
    "cache_control",
    "compaction",
    "context_management",
    "diagnostics",
    "inference_geo",
    "metadata",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
)
"""Fields that change nothing about an answer here."""

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {"container": (), "mcp_servers": ([],)}

_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Lenient(Fields):
    model_config = ConfigDict(extra="ignore")


class TextBlock(_Lenient):
    type: Literal["text"]
    text: str


class ThinkingBlock(_Lenient):
    """Earlier thinking, sent back. Its signature says nothing: whoever has the key may write any history."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(_Lenient):
    """Thinking of another model that nobody here can read."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(_Lenient):
    type: Literal["tool_use"]
    id: _Name
    name: _Name
    input: dict[str, Any]


def _as_blocks(content: object) -> object:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Texts = Annotated[list[TextBlock], BeforeValidator(_as_blocks)]


class ToolResultBlock(_Lenient):
    """``is_error`` has no place in the model's format: what went wrong is in the content."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts = Field([])


Block = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]


class BlockMessage(_Lenient):
    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], BeforeValidator(_as_blocks)]


class ClientTool(_Lenient):
    """A tool that the caller runs; this server has none of its own."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]


class Choice(_Lenient):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(_Lenient):
    """``adaptive`` is thinking without a budget."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, gt=0)


class OutputFormat(_Lenient):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(_Lenient):
    format: OutputFormat | None = None


class MessagesRequest(SamplingFields, PlacementFields):
    """The fields as they come. Those that are null are treated as absent."""

    model: str
    messages: list[BlockMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: Texts = Field([])
    max_tokens: int | None = Field(gt=0)
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]] = Field(
        [], max_length=16, alias="stop_sequences"
    )
    stream: bool = False
    tools: list[ClientTool] = Field([], max_length=MAX_TOOLS)
    tool_choice: Choice = Choice(type="auto")
    thinking: Thinking = Thinking(type="disabled")
    output_config: OutputConfig = OutputConfig()


class ConversationRequest(ChatRequest):
    """The same conversation as a chat completion. Its limit may be larger than the context: clients of this protocol
    send one that fits another model."""

    clips_limit: ClassVar[bool] = True


def parse_countable(fields: JsonObject) -> ConversationRequest:
    """The same for ``count_tokens``, where nothing is generated. Raises ApiError, as :func:`parse_messages`."""
    return parse_messages({"max_tokens": 1} | fields)


def parse_messages(fields: JsonObject) -> ConversationRequest:
    """Check a request.

    Raises:
        ApiError: what is wrong, where, and what to do.
    """
    request = checked(MessagesRequest, without_neutral(present(fields, _IGNORED), _UNSUPPORTED))
    _check_order(request.messages)
    return check_request(checked(ConversationRequest, _chat_fields(request)))


def _chat_fields(request: MessagesRequest) -> JsonObject:
    """The request as a chat completion has it."""
    system = [{"role": "system", "content": _joined(request.system)}] if request.system else []
    return {
        **request.model_dump(include={*SamplingFields.model_fields, *PlacementFields.model_fields, "model", "stream"}),
        "messages": [*system, *(each for message in request.messages for each in _chat_messages(message))],
        "tools": [{"type": "function", "function": _function(tool)} for tool in request.tools],
        "tool_choice": _choice(request.tool_choice),
        "parallel_tool_calls": not request.tool_choice.disable_parallel_tool_use,
        "chat_template_kwargs": {"enable_thinking": request.thinking.type != "disabled"},
        "max_thinking_tokens": request.thinking.budget_tokens,
        "response_format": _response_format(request.output_config.format),
    }


def _chat_messages(message: BlockMessage) -> Iterator[JsonObject]:
    """Results go before what the user says beside them: they answer the calls of the turn before."""
    if message.role == "assistant":
        yield _assistant_message(message.content)
        return
    for block in message.content:
        if isinstance(block, ToolResultBlock):
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _joined(block.content)}
    texts = [block for block in message.content if isinstance(block, TextBlock)]
    if texts or not message.content:
        yield {"role": message.role, "content": _joined(texts)}


def _assistant_message(content: Sequence[Block]) -> JsonObject:
    """Thinking goes back exactly as it came; without any the turn had none, whatever its text looks like."""
    return {
        "role": "assistant",
        "content": _joined([block for block in content if isinstance(block, TextBlock)]),
        "reasoning_content": "".join(block.thinking for block in content if isinstance(block, ThinkingBlock)),
        "tool_calls": [
            {"id": block.id, "function": {"name": block.name, "arguments": block.input}}
            for block in content
            if isinstance(block, ToolUseBlock)
        ],
    }


def _joined(blocks: Sequence[TextBlock]) -> str:
    return "".join(block.text for block in blocks)


def _function(tool: ClientTool) -> JsonObject:
    described = {} if tool.description is None else {"description": tool.description}
    return {"name": tool.name, **described, "parameters": tool.input_schema}


def _choice(choice: Choice) -> str | JsonObject:
    match choice.type:
        case "any":
            return "required"
        case "tool":
            return {"type": "function", "function": {"name": choice.name or ""}}
        case _:
            return choice.type


def _response_format(wanted: OutputFormat | None) -> JsonObject:
    if wanted is None:
        return {"type": "text"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted.schema_}}


def _check_order(messages: Sequence[BlockMessage]) -> None:
    """Every block is where the conversation can have it, and the last turn is not the model's own."""
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        for place, block in enumerate(message.content):
            _check_block(block, message.role, open_calls, f"messages[{index}].content[{place}]")
        open_calls = {block.id for block in message.content if isinstance(block, ToolUseBlock)}
    if messages[-1].role == "assistant":
        problem = "The last message is the assistant's, which cannot be continued. End with a message of the user."
        raise ApiError(problem, param=f"messages[{len(messages) - 1}]")


def _check_block(block: Block, role: str, open_calls: set[str], path: str) -> None:
    match block:
        case TextBlock():
            return
        case ToolResultBlock() if role == "user":
            if block.tool_use_id not in open_calls:
                raise ApiError(
                    f"{path} answers no tool call. A tool_result must follow the assistant message that made the "
                    "call, and carry its id as tool_use_id, once.",
                    param=f"{path}.tool_use_id",
                )
            open_calls.discard(block.tool_use_id)
        case _ if role != "assistant" or isinstance(block, ToolResultBlock):
            raise ApiError(f"{path}: a message of the {role} has no {block.type} block. Move it.", param=path)
