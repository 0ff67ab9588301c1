"""The line that the user types in, without a terminal around it."""

import asyncio
from pathlib import Path

import pytest

from agent.cli.chat.entry import Vocabulary
from agent.cli.chat.prompt import Prompt

pytestmark = pytest.mark.anyio


async def test_a_question_waits_for_whoever_is_in_the_middle_of_words(tmp_path: Path) -> None:
    prompt = Prompt(
        tmp_path / "typed",
        Vocabulary(),
        redraw=lambda: None,
        on_send=lambda text, steer: None,
        on_refusal=lambda why: None,
        on_paste=lambda text: None,
    )
    await prompt.pause()  # nothing was typed
    prompt.put("in 1")
    waiting = asyncio.ensure_future(prompt.pause())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    await waiting
    assert prompt.buffer.text == "in 1"
