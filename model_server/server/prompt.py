"""What a request asks the model to continue, as spans and as token ids."""

from collections.abc import Sequence

from model_server.chat.template import ChatFormatError, JsonObject, Span, UnsupportedContent, render
from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import AssistantTurn
from model_server.server.errors import ApiError
from model_server.server.schemas import ChatRequest, template_messages

_LONG_CHARS = 2**20
"""A text beyond this is looked at piece by piece: all of its tokens together may take 200 times its bytes of memory."""


def prompt_spans(request: ChatRequest, tokenizer: ChatTokenizer, context_length: int) -> list[Span]:
    """The request's conversation, up to where the model goes on.

    Raises:
        ApiError: the format cannot express a message or a tool, or the conversation is many times too long.
    """
    try:
        spans = _rendered(request, template_messages(request.messages), add_generation_prompt=True)
    except UnsupportedContent as error:
        raise ApiError(f"{error.param}: {error}.", code="unsupported_content", param=error.param) from error
    except ChatFormatError as error:
        raise ApiError(f"{error.param}: {error}.", param=error.param) from error
    text = "".join(span.text for span in spans)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError("The messages hold half a surrogate pair, which is not text. Remove it.") from error
    _check_length(text, tokenizer, context_length, request.prompt_field)
    return spans


def answered_spans(request: ChatRequest, turn: AssistantTurn) -> list[Span]:
    """The conversation with its answer, as it is when the answer comes back in the next request."""
    calls = [{"function": {"name": call.name, "arguments": call.arguments}} for call in turn.calls]
    answer = {"role": "assistant", "content": turn.content, "reasoning_content": turn.reasoning, "tool_calls": calls}
    return _rendered(request, [*template_messages(request.messages), answer], add_generation_prompt=False)


def encode_prompt(request: ChatRequest, tokenizer: ChatTokenizer, context_length: int) -> tuple[int, ...]:
    """Token ids of the request's conversation. Raises ApiError, as :func:`prompt_spans`."""
    return tuple(tokenizer.encode(prompt_spans(request, tokenizer, context_length)))


def encode_text(text: str, tokenizer: ChatTokenizer, context_length: int) -> tuple[int, ...]:
    """Token ids of the field ``prompt``, in which markers mean nothing.

    Raises:
        ApiError: it is no text, or many times too long.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError("prompt holds half a surrogate pair, which is not text. Remove it.", param="prompt") from error
    _check_length(text, tokenizer, context_length, "prompt")
    return tuple(tokenizer.encode_text(text))


def check_ids(ids: Sequence[int], tokenizer: ChatTokenizer, param: str) -> tuple[int, ...]:
    """The ids of a prompt, all of them in the vocabulary.

    Raises:
        ApiError: one is not.
    """
    vocab_size = tokenizer.vocab_size
    index = next((index for index, token in enumerate(ids) if token >= vocab_size), None)
    if index is not None:
        raise outside_vocabulary(ids[index], tokenizer, f"{param}[{index}]")
    return tuple(ids)


def outside_vocabulary(token_id: int, tokenizer: ChatTokenizer, param: str) -> ApiError:
    """What is wrong with an id that no token has."""
    return ApiError(f"Token {token_id} is outside the vocabulary of {tokenizer.vocab_size}.", param=param)


def _check_length(text: str, tokenizer: ChatTokenizer, context_length: int, param: str) -> None:
    """Raises ApiError where the beginning of a text alone has more than twice the tokens there may be."""
    num_chars = max(_LONG_CHARS, 4 * context_length)
    while num_chars < len(text):
        num_tokens = len(tokenizer.encode_text(text[:num_chars]))
        if num_tokens > 2 * context_length:
            raise ApiError(
                f"The first {num_chars} characters of the prompt have {num_tokens} tokens, but the context holds "
                f"{context_length}. Shorten {param}.",
                code="context_length_exceeded",
                param=param,
            )
        num_chars *= 2


def _rendered(request: ChatRequest, messages: Sequence[JsonObject], *, add_generation_prompt: bool) -> list[Span]:
    return render(
        messages,
        request.offered_tools,
        enable_thinking=request.enable_thinking,
        keep_all_reasoning=request.chat_template_kwargs.keep_all_reasoning,
        add_generation_prompt=add_generation_prompt,
    )
