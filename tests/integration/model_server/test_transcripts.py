"""A session's next prompt begins with the very tokens that were sampled, however else its text could be encoded."""

from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from model_server.chat.markers import IM_END
from model_server.chat.template import render
from model_server.engine.engine import EmbeddedEngine
from model_server.engine.scripted import ScriptedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from tests.integration.model_server.scripted_service import MODEL, TOKENIZER, ids, service
from tests.integration.model_server.serving import serving
from tests.integration.model_server.tiny_model import tiny_model

pytestmark = pytest.mark.anyio

USER: Any = {"role": "user", "content": "hi"}
END = ids(IM_END)[0]
CALL = "<tool_call>\n<function=f>\n<parameter=a>assistant</parameter>\n</function>\n</tool_call>"
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}
IN_SESSION = {"session_id": "s", "chat_template_kwargs": {"enable_thinking": True}}


def letters(text: str) -> list[int]:
    """One token for each letter, where encoding would give fewer."""
    sampled: list[int] = []
    for token in ids(text):
        letters_of_it = "" if TOKENIZER.marker(token) else TOKENIZER.token_bytes(token).decode()
        sampled += [ids(letter)[0] for letter in letters_of_it] or [token]
    return sampled


def sampling(*turns: list[int]) -> ScriptedEngine:
    return ScriptedEngine.replaying(*turns, *[ids(f"x{IM_END}")] * 2)


async def conversation(engine: ScriptedEngine, **second: Any) -> Any:
    """Two turns; returns the message of the first."""
    asked: dict[str, Any] = {"model": MODEL, "tools": [TOOL]}
    async with service(engine) as (client, _):
        first = await client.chat.completions.create(**asked, messages=[USER], extra_body=IN_SESSION)
        said = first.choices[0].message.model_dump(exclude_none=True)
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "r"} for call in said.get("tool_calls", ())]
        turns = {"messages": [USER, said, *results, USER], "extra_body": IN_SESSION} | second
        await client.chat.completions.create(**asked | turns)
    return said


@pytest.mark.parametrize("text", ["<think>assistant</think>assistant", "assistant", f"assistant{CALL}assistant"])
async def test_an_answer_that_comes_back_stands_for_its_tokens(text: str) -> None:
    sampled = letters(text)
    assert sampled != ids(text)
    engine = sampling([*sampled, END])
    await conversation(engine)
    first, second = (list(request.prompt_ids) for request in engine.requests)
    assert second[: len(first) + len(sampled) + 1] == [*first, *sampled, END]


async def test_an_answer_that_was_cut_short_ends_its_turn_in_the_next_prompt() -> None:
    engine = sampling(letters("assistant"))
    async with service(engine) as (client, _):
        first = await client.chat.completions.create(
            model=MODEL, messages=[USER], max_tokens=4, extra_body=IN_SESSION | {"chat_template_kwargs": {}}
        )
        said: Any = {"role": "assistant", "content": first.choices[0].message.content}
        await client.chat.completions.create(model=MODEL, messages=[USER, said, USER], extra_body={"session_id": "s"})
    assert said["content"] == "assi"
    first_ids, second_ids = (list(request.prompt_ids) for request in engine.requests)
    assert second_ids[: len(first_ids) + 5] == [*first_ids, *letters("assi"), END]


@pytest.mark.parametrize(
    "second",
    [
        {"extra_body": IN_SESSION | {"session_id": "other"}},
        {"extra_body": IN_SESSION | {"cache_salt": "other"}},
        {"messages": [USER, {"role": "assistant", "content": "assistants"}, USER]},
        {"messages": [USER | {"content": "ho"}, {"role": "assistant", "content": "assistant"}, USER]},
        {"tools": []},
    ],
)
async def test_anything_else_is_encoded_anew(second: dict[str, Any]) -> None:
    engine = sampling([*letters("assistant"), END])
    said = await conversation(engine, **second)
    turns = second.get("messages", [USER, said, USER])
    spans = render(turns, second.get("tools", [TOOL]), enable_thinking=True)
    assert list(engine.requests[1].prompt_ids) == TOKENIZER.encode(spans)


async def test_a_second_function_that_was_cut_off_is_not_put_back() -> None:
    block = CALL.replace("</function>\n", "</function>\n<function=f>\n</function>\n")
    engine = sampling([*letters(block), END])
    async with service(engine) as (client, _):
        asked: dict[str, Any] = {"model": MODEL, "tools": [TOOL], "parallel_tool_calls": False}
        first = await client.chat.completions.create(**asked, messages=[USER], extra_body={"session_id": "s"})
        said: Any = first.choices[0].message.model_dump(exclude_none=True)
        result: Any = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "r"}
        await client.chat.completions.create(**asked, messages=[USER, said, result], extra_body={"session_id": "s"})
    assert len(said["tool_calls"]) == 1
    spans = render([USER, said, result], [TOOL], enable_thinking=False)
    assert list(engine.requests[1].prompt_ids) == TOKENIZER.encode(spans)


async def test_a_conversation_in_both_protocols_stays_one_text_on_a_real_engine() -> None:
    model = tiny_model()
    app = create_app(EmbeddedEngine(model, max_running=2), TOKENIZER, ServerSettings(model_name=MODEL), model.config)
    async with (
        serving(app) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as openai,
        AsyncAnthropic(base_url=url, api_key="none") as anthropic,
    ):
        messages: list[Any] = [USER]
        for turn in range(3):
            answer = await openai.chat.completions.create(
                model=MODEL, messages=messages, max_tokens=20, seed=turn, extra_body={"session_id": "s"}
            )
            assert (answer.model_extra or {})["mimo"]["segment"] == 0
            messages += [{"role": "assistant", "content": answer.choices[0].message.content}, USER]
        last: Any = await anthropic.messages.create(
            model=MODEL, messages=messages, max_tokens=20, extra_body={"session_id": "s"}
        )
    assert last.mimo["segment"] == 0
    assert last.usage.cache_read_input_tokens > 60
