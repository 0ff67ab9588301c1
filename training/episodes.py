"""Scripted experts: a repair task as the conversation a good agent would have had.

The strings are production's: the native profile's prompt and schemas, the observations of ``agent.tools`` and what
pytest prints. A test holds the imitation of pytest equal to the real one.
"""

import dataclasses
import json
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

from agent.profiles.native import native
from agent.tools.base import function_schema
from agent.tools.bash import observe
from agent.tools.str_replace import replace
from evals.synthesis.bugs import Edit, edits
from evals.synthesis.statements import NUM_STYLES, names_file, statement
from evals.synthesis.tasks import Bug, RepairTask, load_manifest
from sandbox.types import Exited
from training.pytest_text import pytest_output

VIEW = "sed -n '/^def {name}(/,/^$/p' {path}"
TEST_COMMAND = "python -m pytest -q --tb=no"


@dataclass(frozen=True, slots=True)
class Episode:
    """Messages in OpenAI's shape. ``weights`` has one entry per assistant message, its share in the loss: 0 for a
    mistake that must not be imitated. ``repairs`` has broken texts, each with what should stand there."""

    messages: list[dict[str, Any]]
    weights: list[float]
    repairs: tuple[tuple[str, str], ...] = ()


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

    wrong_edit: float = 0.3
    """A wrong edit or two, then the right one: with a failing test and the way back, or refused because nothing
    changes."""
    refused_edit: float = 0.05
    """An edit whose old text is not in the file, then the right one."""
    whole: float = 0.5
    """Share of episodes with several bugs that go on to the test and the end; the others stop at the last edit."""


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
        self._heldout_kinds = load_manifest().heldout_kinds

    def solve(self, task: RepairTask, mistake: Mistake | None = None) -> Episode:
        """The conversation that repairs ``task``, after the wrong edit ``mistake`` where one is given.

        Raises:
            evals.synthesis.tasks.Endless: a wrong edit made the tests run without end.
        """
        random = self._random
        desk = self._begin(task)
        first = task.bugs[0]
        kind = random.random()
        if mistake is not None:
            desk.go_wrong(first, mistake.thought, mistake.old, mistake.new)
        if kind < self._mix.wrong_edit * (0.5 if mistake else 1.0):
            for _ in range(random.choice((1, 1, 1, 2))):
                (self._hesitate if random.random() < 0.45 else self._stray)(desk, first)
        elif kind > 1 - self._mix.refused_edit:
            self._misquote(desk, first)
        for bug in task.bugs:
            if bug is not first:
                desk.view(bug)
            desk.repair(bug)
        if len(task.bugs) == 1 or random.random() < self._mix.whole:
            desk.test()
            desk.finish()
        return desk.episode()

    def drill(self, task: RepairTask) -> Episode:
        """Functions with a fault or two, looked at and repaired one after the other, without statement and tests: what
        is hard to learn comes nearly twice as often in as many tokens. One line of each is edited."""
        files = dict(task.files)
        for bug in task.bugs:
            files[bug.path] = self._worse(files[bug.path], task, bug)
        text = f"Review `{task.bugs[0].path}`."
        desk = _Desk(dataclasses.replace(task, files=files), conversation_start(text, date(2025, 1, 1)), self._random)
        for bug in task.bugs:
            desk.view(bug, weight=0.0)  # nothing says which function comes next
            desk.repair(bug)
        return desk.episode()

    def look(self, task: RepairTask) -> Episode:
        """The conversation up to where the first edit has to be found."""
        desk = self._begin(task)
        return desk.episode()

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
        return desk.episode()

    def _begin(self, task: RepairTask) -> "_Desk":
        """The statement, and the first broken function on the desk."""
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
        broken, wrong = down_to_fault(desk.passage(bug), self._other_passage(desk.task, bug))
        old, new = _last_line(broken), _last_line(wrong)
        if desk.files[bug.path].count(old) == 1 and desk.fails_with(bug.path, old, new):
            desk.go_wrong(bug, wrong, old, new)

    def _hesitate(self, desk: "_Desk", bug: Bug) -> None:
        """An edit that changes nothing, which is what a model writes that takes a line for mended."""
        lines = desk.passage(bug).split("\n")
        size = self._random.randrange(2, len(lines) + 1)
        old = lines[size - 1].strip()
        if desk.files[bug.path].count(old) == 1:
            desk.edit(bug, "\n".join(lines[:size]), old, old, weight=0.0)

    def _worse(self, text: str, task: RepairTask, bug: Bug) -> str:
        """The module with one more fault in the broken function, or as it is."""
        right = task.functions[bug.function].source
        before = source = source_of(text, bug.function).rstrip("\n") + "\n"
        for _ in range(self._random.choice((0, 0, 1))):
            options = [edit for edit in self._edits(source) if edit.apply(source) != right]
            source = self._random.choice(options).apply(source)
        return text.replace(before, source)

    def _edits(self, source: str) -> list[Edit]:
        """Of the kinds that training may know."""
        return [edit for edit in edits(source) if edit.kind not in self._heldout_kinds]

    def _other_passage(self, task: RepairTask, bug: Bug) -> str:
        """The broken function with another edit; often of the line at fault, but never the repair."""
        function = task.functions[bug.function]
        source = function.source.replace(bug.fixed_line, bug.broken_line, 1)
        lines = source.split("\n")
        options = [edit for edit in self._edits(source) if edit.apply(source) != function.source]
        near = [edit for edit in options if lines[edit.line].strip() == bug.broken_line]
        edit = self._random.choice(near if near and self._random.random() < 0.6 else options)
        return passage_of(edit.apply(source), bug.function)

    def _misquote(self, desk: "_Desk", bug: Bug) -> None:
        """An edit whose old text lacks a word, and the refusal that shows the line."""
        words = bug.broken_line.split(" ")
        index = self._random.randrange(len(words))
        old = " ".join(words[:index] + words[index + 1 :])
        if len(words) > 2 and old not in desk.files[bug.path]:
            _, mended = down_to_fault(desk.passage(bug), desk.fixed(bug))
            desk.edit(bug, mended, old, bug.fixed_line, weight=0.0)


def source_of(text: str, function: str) -> str:
    """From the function's ``def`` to the first empty line or the file's end: what :data:`VIEW` prints."""
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith(f"def {function}("))
    end = next((number for number in range(first, len(lines)) if lines[number] == "\n"), len(lines))
    return "".join(lines[first : end + 1])


def passage_of(text: str, function: str) -> str:
    """Docstring and body of the function."""
    _, passage = source_of(text, function).split("\n", 1)
    return passage.strip()


def down_to_fault(broken: str, fixed: str) -> tuple[str, str]:
    """Two passages that differ, down to the first line in which they do. The second is thought of before an edit.

    To say first which line is at fault, and then what to change in it, asks for choices that nothing has prepared. To
    write the code that a docstring asks for is what a language model learns from every line it reads, and where that is
    not what stands there, the line is at fault. Written to the function's end, that line would have to be looked for
    again.
    """
    pairs = list(zip(broken.split("\n"), fixed.split("\n"), strict=True))
    size = next(number for number, (old, new) in enumerate(pairs, 1) if old != new)
    return "\n".join(old for old, _ in pairs[:size]), "\n".join(new for _, new in pairs[:size])


def _last_line(passage: str) -> str:
    return passage.rsplit("\n", 1)[-1].strip()


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

    def passage(self, bug: Bug) -> str:
        return passage_of(self.files[bug.path], bug.function)

    def fixed(self, bug: Bug) -> str:
        return passage_of(self.task.fixed[bug.path], bug.function)

    def repair(self, bug: Bug) -> None:
        """Write the function again down to its fault, and edit that line."""
        broken, mended = down_to_fault(self.passage(bug), self.fixed(bug))
        self.edit(bug, mended, _last_line(broken), _last_line(mended))

    def edit(self, bug: Bug, thought: str, old: str, new: str, weight: float = 1.0) -> None:
        """Replace ``old`` by ``new`` in the module of ``bug``."""
        result, changed = replace(self.files[bug.path], old, new)
        self._act("str_replace", {"path": bug.path, "old_str": old, "new_str": new}, weight, thought)
        self._answer(result.text)
        if changed is not None:
            self.files[bug.path] = changed

    def go_wrong(self, bug: Bug, thought: str, old: str, new: str) -> None:
        """A wrong edit; where it changes something, what the tests say and the way back."""
        self.edit(bug, thought, old, new, weight=0.0)
        if old != new:
            self.test()
            self.checkout(bug.path)

    def fails_with(self, path: str, old: str, new: str) -> bool:
        files = {**self.files, path: self.files[path].replace(old, new, 1)}
        return pytest_output(self.task, files, self._random)[1] != 0

    def test(self) -> None:
        self._bash(TEST_COMMAND, *pytest_output(self.task, self.files, self._random))

    def checkout(self, path: str) -> None:
        self.files[path] = self.task.files[path]
        self._bash(f"git checkout {path}", "Updated 1 path from the index\n")

    def finish(self) -> None:
        self._act("finish", {}, 1.0)

    def episode(self) -> Episode:
        """What was written so far."""
        repairs: list[tuple[str, str]] = []
        for bug in self.task.bugs:
            broken, fixed = passage_of(self.task.files[bug.path], bug.function), self.fixed(bug)
            if broken != fixed:
                repairs += [(broken, fixed), down_to_fault(broken, fixed)]
        return Episode(self.messages, self.weights, tuple(repairs))

    def _bash(self, command: str, output: str, code: int = 0, weight: float = 1.0) -> None:
        self._act("bash", {"command": command}, weight)
        data = output.encode()
        self._answer(observe(Exited(code=code, output=data, total_bytes=len(data))).text)

    def _act(self, tool: str, arguments: dict[str, str], weight: float, thought: str = "") -> None:
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
