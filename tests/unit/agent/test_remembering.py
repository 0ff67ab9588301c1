"""What was said before stands in front, in the form that endpoints of the model take."""

import pytest

from agent.remembering import Remembering
from agent.testing import ScriptedModel, call
from agent.types import Message, ModelOptions

pytestmark = pytest.mark.anyio

PROMPT: Message = {"role": "system", "content": "S"}
PROBLEM: Message = {"role": "user", "content": "P"}


async def test_earlier_answers_carry_reasoning_even_where_none_was_handed_over() -> None:
    model = ScriptedModel(lambda messages: call("finish"))
    asked: Message = {"role": "user", "content": "What is wrong?"}
    thought: Message = {"role": "assistant", "content": "It subtracts.", "reasoning_content": "a - b"}
    plain: Message = {"role": "assistant", "content": "Yes."}

    await Remembering(model, [asked, thought, asked, plain]).complete([PROMPT, PROBLEM], [], ModelOptions())

    ((sent, _),) = model.requests
    assert sent == [PROMPT, asked, thought, asked, plain | {"reasoning_content": ""}, PROBLEM]
