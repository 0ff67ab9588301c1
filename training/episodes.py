"""Scripted experts: a repair task as the conversation a good agent would have had.

The strings are production's: the native profile's prompt and schemas, the observations of ``agent.tools`` and what
pytest prints. A test holds the imitation of pytest equal to the real one.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

from agent.profiles.native import native
from agent.tools.base import function_schema
from agent.tools.bash import observe
from agent.tools.str_replace import replace
from evals.synthesis.bugs import edits
from evals.synthesis.statements import NUM_STYLES, names_file, statement
from evals.synthesis.tasks import Bug, RepairTask
from sandbox.types import Exited
from training.pytest_text import pytest_output

VIEW = "sed -n '/^def {name}(/,/^$/p' {path}"
TEST_COMMAND = "python -m pytest -q --tb=no"


@dataclass(frozen=True, slots=True)
class Episode:
    """Messages in OpenAI's shape. ``weights`` has one entry per assistant message, its share in the loss: 0 for a
    mistake that must not be imitated."""

    messages: list[dict[str, Any]]
    weights: list[float]


Replacement = tuple[str, str]
"""Old text and new text of an edit."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong edit that the model made, and what it thought, in task ``number`` of ``samples.numbered_task``."""

    number: int
    thought: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class EpisodeMix:
    """Shares of the kinds of episodes."""

    wrong_edit: float = 0.5
    """Wrong edits, then the right one: either with a failing test and the way back, or refused because they change
    nothing, which is what a model that doubts its choice of a line writes."""
    refused_edit: float = 0.05
    """An edit whose old text is not in the file, then the right one."""
    whole: float = 0.5
    """Share of episodes with several bugs that go on to the test and the end; the others stop at the last edit."""


_WORDS = re.compile(r"\s*(?:\w+|[^\w\s]+|$)")
_PROFILE = native()
TOOLS = [function_schema(tool) for tool in _PROFILE.tools]


def conversation_start(text: str, today: date) -> list[dict[str, Any]]:
    """System and user message of a run, as the native profile begins."""
    return [
        {"role": "system", "content": _PROFILE.system_prompt(today)},
        {"role": "user", "content": text},
    ]


class Expert:
    """Writes episodes for repair tasks."""

    def __init__(self, random: Random, mix: EpisodeMix) -> None:
        self._random = random
        self._mix = mix

    def solve(self, task: RepairTask, mistake: Mistake | None = None) -> Episode:
        """The conversation that repairs ``task``, after the wrong edit ``mistake`` where one is given.

        Raises:
            evals.synthesis.tasks.Endless: a wrong edit made the tests run without end.
        """
        random = self._random
        desk = self._begin(task)
        bugs = task.bugs
        kind = random.random()
        if mistake is not None:
            desk.go_wrong(bugs[0], mistake.old, mistake.new, mistake.thought)
        if kind < self._mix.wrong_edit * (0.5 if mistake else 1.0):
            for _ in range(random.choice((1, 1, 2, 3))):
                (self._hesitate if random.random() < 0.45 else self._stray)(desk, bugs[0])
        elif kind > 1 - self._mix.refused_edit:
            self._misquote(desk, bugs[0])
        for bug in bugs:
            if bug is not bugs[0]:
                desk.view(bug)
            desk.edit(bug, bug.broken_line, bug.fixed_line)
        if len(bugs) == 1 or random.random() < self._mix.whole:
            desk.test()
            desk.finish()
        return Episode(desk.messages, desk.weights)

    def drill(self, task: RepairTask) -> Episode:
        """Every broken function looked at and repaired, one after the other, without statement and tests: the choice
        that is hard to learn comes twice as often in as many tokens."""
        text = f"Review `{task.bugs[0].path}`."
        desk = _Desk(task, conversation_start(text, date(2025, 1, 1)), self._random)
        for bug in task.bugs:
            desk.view(bug, weight=0.0)  # nothing says which function comes next
            desk.edit(bug, bug.broken_line, bug.fixed_line)
        return Episode(desk.messages, desk.weights)

    def look(self, task: RepairTask) -> Episode:
        """The conversation up to where the first edit has to be found."""
        desk = self._begin(task)
        return Episode(desk.messages, desk.weights)

    def read(self, task: RepairTask) -> Episode:
        """A repository in which nothing is broken: its first module is read, and that is all."""
        bug = task.bugs[0]
        desk = _Desk(
            dataclasses.replace(task, files=task.fixed),
            conversation_start(f"Read `{bug.path}`.", date(2025, 1, 1)),
            self._random,
        )
        desk.show(bug.path)
        desk.finish()
        return Episode(desk.messages, desk.weights)

    def _begin(self, task: RepairTask) -> "_Desk":
        """The statement, and the file with the bugs on the desk."""
        random = self._random
        style = random.randrange(NUM_STYLES)
        text = "\n".join(statement(bug, style) for bug in task.bugs)
        today = date(2025, 1, 1) + timedelta(days=random.randrange(1500))
        desk = _Desk(task, conversation_start(text, today), random)
        if not names_file(style):
            desk.find(task.bugs[0].function)
        desk.view(task.bugs[0])
        return desk

    def _stray(self, desk: "_Desk", bug: Bug) -> None:
        """Another edit of the broken function that does not repair it; nothing of it is imitated but the way back."""
        old, new = self._other_edit(desk.task, bug)
        if desk.files[bug.path].count(old) == 1 and desk.fails_with(bug.path, old, new):
            desk.go_wrong(bug, old, new)

    def _hesitate(self, desk: "_Desk", bug: Bug) -> None:
        """An edit that was thought of and not made: old and new text are the same."""
        old, new = self._other_edit(desk.task, bug)
        if desk.files[bug.path].count(old) == 1:
            desk.edit(bug, old, old, weight=0.0, thought_of=(old, new))

    def _other_edit(self, task: RepairTask, bug: Bug) -> Replacement:
        """Of the broken function; often of the line at fault, but never the repair."""
        function = task.functions[bug.function]
        source = function.source.replace(bug.fixed_line, bug.broken_line, 1)
        lines = source.split("\n")
        options = [edit for edit in edits(source) if edit.apply(source) != function.source]
        near = [edit for edit in options if lines[edit.line].strip() == bug.broken_line]
        edit = self._random.choice(near if near and self._random.random() < 0.6 else options)
        return lines[edit.line].strip(), edit.apply(source).split("\n")[edit.line].strip()

    def _misquote(self, desk: "_Desk", bug: Bug) -> None:
        """An edit whose old text lacks a word, and the refusal that shows the line."""
        words = bug.broken_line.split(" ")
        index = self._random.randrange(len(words))
        old = " ".join(words[:index] + words[index + 1 :])
        if len(words) > 2 and old not in desk.files[bug.path]:
            desk.edit(bug, old, bug.fixed_line, weight=0.0, thought_of=(bug.broken_line, bug.fixed_line))


def thought(text: str, function: str, old: str, new: str) -> str:
    """What the function in ``text`` shall do, the line at fault, and what has to change in it.

    Each is one choice among all there are. Where a choice is many small ones in a row instead (is this line wrong, is
    this word), a model that decodes greedily and is not sure passes over every one of them.
    """
    doc = source_of(text, function).split('"""')[1]
    wrong, right = change(old, new)
    return f"{doc}\n{old}\n{wrong} -> {right}"


def source_of(text: str, function: str) -> str:
    """From the function's ``def`` to the first empty line or the file's end: what :data:`VIEW` prints."""
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith(f"def {function}("))
    end = next((number for number in range(first, len(lines)) if lines[number] == "\n"), len(lines))
    return "".join(lines[first : end + 1])


def change(old: str, new: str) -> tuple[str, str]:
    """The words in which two lines differ.

    >>> change("if a < b[0]:", "if a <= b[0]:")
    ('<', '<=')
    >>> change("if a in b:", "if a not in b:")
    ('in', 'not in')
    """
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    tail = 0
    while tail < min(len(before), len(after)) - same - 1 and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    return "".join(before[same : len(before) - tail]).strip(), "".join(after[same : len(after) - tail]).strip()


class _Desk:
    """The state of one episode: files, messages, and what the tools answer."""

    def __init__(self, task: RepairTask, messages: list[dict[str, Any]], random: Random) -> None:
        self.task = task
        self.files = dict(task.files)
        self.messages = messages
        self.weights: list[float] = []
        self._random = random

    def find(self, function: str) -> None:
        hits = [
            f"./{path}:{number}:{line}"
            for path, text in self.files.items()
            for number, line in enumerate(text.split("\n"), 1)
            if f"def {function}(" in line
        ]
        self._bash(f"grep -rn 'def {function}(' .", "\n".join(hits) + "\n")

    def view(self, bug: Bug, weight: float = 1.0) -> None:
        """Look at the function alone: what stands around it only distracts."""
        shown = source_of(self.files[bug.path], bug.function)
        self._bash(VIEW.format(name=bug.function, path=bug.path), shown, weight=weight)

    def show(self, path: str) -> None:
        self._bash(f"cat {path}", self.files[path])

    def edit(self, bug: Bug, old: str, new: str, weight: float = 1.0, thought_of: Replacement | None = None) -> None:
        """Replace ``old`` by ``new`` in the module of ``bug``, after thinking of that or of something else."""
        why = thought(self.files[bug.path], bug.function, *(thought_of or (old, new)))
        self._replace(why, bug.path, old, new, weight)

    def go_wrong(self, bug: Bug, old: str, new: str, why: str | None = None) -> None:
        """A wrong edit; where it changes something, what the tests say and the way back."""
        self._replace(why or thought(self.files[bug.path], bug.function, old, new), bug.path, old, new, 0.0)
        if old != new:
            self.test()
            self.checkout(bug.path)

    def _replace(self, why: str, path: str, old: str, new: str, weight: float) -> None:
        result, changed = replace(self.files[path], old, new)
        self._act(why, "str_replace", {"path": path, "old_str": old, "new_str": new}, weight)
        self._answer(result.text)
        if changed is not None:
            self.files[path] = changed

    def fails_with(self, path: str, old: str, new: str) -> bool:
        files = {**self.files, path: self.files[path].replace(old, new, 1)}
        return pytest_output(self.task, files, self._random)[1] != 0

    def test(self) -> None:
        self._bash(TEST_COMMAND, *pytest_output(self.task, self.files, self._random))

    def checkout(self, path: str) -> None:
        self.files[path] = self.task.files[path]
        self._bash(f"git checkout {path}", "Updated 1 path from the index\n")

    def finish(self) -> None:
        self._act("", "finish", {}, 1.0)

    def _bash(self, command: str, output: str, code: int = 0, weight: float = 1.0) -> None:
        self._act("", "bash", {"command": command}, weight)
        data = output.encode()
        self._answer(observe(Exited(code=code, output=data, total_bytes=len(data))).text)

    def _act(self, thought: str, tool: str, arguments: dict[str, str], weight: float) -> None:
        """Append an assistant message with one call."""
        call = {
            "id": f"call_{len(self.weights)}",
            "type": "function",
            "function": {"name": tool, "arguments": json.dumps(arguments)},
        }
        message = {"role": "assistant", "content": "", "reasoning_content": thought, "tool_calls": [call]}
        self.messages.append(message)
        self.weights.append(weight)

    def _answer(self, text: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": f"call_{len(self.weights) - 1}", "content": text})
