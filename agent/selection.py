"""What tells several attempts at a task apart where its own checks do not: a test of the problem, and at last a judge.

Each is a model call of its own that has not seen what the agents said.
"""

import re
from collections.abc import Mapping, Sequence

from agent.model import Model
from agent.profiles.base import load_prompt
from agent.tools.base import fit
from agent.types import Check, Message, ModelOptions, Usage

_FILES = 200
"""So many names of files the writer of a test is shown."""
_PATCH_CHARS = 20_000
"""Of each patch that is judged."""
_SCRIPT = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TIMEOUT_S = 120.0


async def write_reproduction(
    model: Model, options: ModelOptions, problem: str, files: Sequence[str]
) -> tuple[Check | None, Usage]:
    """A check that should fail before the problem is solved and pass after, None where no usable one was written, and
    what the answer cost.

    Raises:
        ModelError: no answer could be had.
    """
    names = "\n".join(files[:_FILES])
    answer, usage = await _ask(model, options, "reproduction", f"{problem}\n\nFiles of the repository:\n{names}")
    found = _SCRIPT.search(answer)
    if found is None or not 0 < len(found[1].strip()) <= 4096:
        return None, usage
    return Check(command=found[1].strip(), timeout_s=_TIMEOUT_S), usage


async def judge(
    model: Model, options: ModelOptions, problem: str, patches: Mapping[int, str]
) -> tuple[int | None, str, Usage]:
    """The number of the patch that the model prefers, None where it names none of them, what it said, and what that
    cost.

    Raises:
        ModelError: no answer could be had.
    """
    shown = "\n\n".join(f"Patch {number}:\n{fit(patch, _PATCH_CHARS)[0]}" for number, patch in patches.items())
    answer, usage = await _ask(model, options, "judge", f"{problem}\n\n{shown}")
    lines = answer.strip().splitlines()
    number = re.search(r"\d+", lines[-1]) if lines else None
    return (int(number[0]) if number and int(number[0]) in patches else None), answer, usage


async def _ask(model: Model, options: ModelOptions, prompt: str, said: str) -> tuple[str, Usage]:
    messages: list[Message] = [{"role": "system", "content": load_prompt(prompt)}, {"role": "user", "content": said}]
    completion = await model.complete(messages, [], options)
    return completion.message.content, completion.usage
