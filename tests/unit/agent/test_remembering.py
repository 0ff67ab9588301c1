"""What was said before stands between the prompt and the problem."""

import pytest

from agent.remembering import Remembering
from agent.testing import ScriptedModel, call
from agent.types import Message, ModelOptions

pytestmark = pytest.mark.anyio


async def test_earlier_messages_come_after_the_prompt_as_they_are() -> None:
    model = ScriptedModel(lambda messages: call("finish"))
    prompt: Message = {"role": "system", "content": "S"}
    problem: Message = {"role": "user", "content": "P"}
    asked: Message = {"role": "user", "content": "What is wrong?"}
    answered: Message = {"role": "assistant", "content": "It subtracts.", "reasoning_content": "a - b"}

    await Remembering(model, [asked, answered]).complete([prompt, problem], [], ModelOptions())

    ((sent, _),) = model.requests
    assert sent == [prompt, asked, answered, problem]
