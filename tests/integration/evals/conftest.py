"""Sandboxes to grade in, and a model that knows the answers to the exam."""

from collections.abc import AsyncIterator, Iterator, Sequence
from difflib import unified_diff

import pytest

from agent.testing import ScriptedEndpoint, call
from agent.types import AssistantMessage, Message
from evals.suite import SPLITS, ExamTask, eval_task, nano_heldout
from evals.types import EvalTask
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.types import Backend

GIVEN_UP = "heldout_names-002"
"""The expert looks for the answer to this task in the repository's history, and then does nothing about it."""


@pytest.fixture(scope="module")
async def backend() -> AsyncIterator[Backend]:
    backend = open_backend("local", SandboxSettings())
    yield backend
    await backend.close()


@pytest.fixture
def expert() -> Iterator[tuple[ScriptedEndpoint, str]]:
    """An endpoint that repairs every task but one, and its address."""
    exam = [task for split in SPLITS for task in nano_heldout(split, 5)]
    asked = {eval_task(task).problem_statement: task for task in exam}

    def answer(messages: Sequence[Message]) -> AssistantMessage:
        said = next(message["content"] for message in messages if message["role"] == "user")
        return _repair(asked[said], sum(message["role"] == "assistant" for message in messages))

    endpoint = ScriptedEndpoint(answer)
    with endpoint.running() as url:
        yield endpoint, url


def gold_patch(task: EvalTask) -> str:
    """The right solution as a diff."""
    return "".join(
        line
        for path, text in task.answers.gold.items()
        for line in unified_diff(
            task.files[path].splitlines(keepends=True), text.splitlines(keepends=True), f"a/{path}", f"b/{path}"
        )
    )


def _repair(task: ExamTask, num_answers: int) -> AssistantMessage:
    bug = task.repair.bugs[0]
    if task.id == GIVEN_UP:
        return call("finish") if num_answers else call("bash", command="git log --all -p")
    answers = (
        call("str_replace", path=bug.path, old_str=bug.broken_line, new_str=bug.fixed_line),
        call("finish"),
    )
    return answers[num_answers]
