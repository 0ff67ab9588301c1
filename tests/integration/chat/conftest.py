"""A folder, a scripted model, and conversations about them without a terminal."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agent.cli.chat.conversation import Audience, Consent, Conversation, Setting, open_conversation
from agent.cli.chat.turn import Question
from agent.model import Delta
from agent.permissions.policy import Asked
from agent.profiles.native import native
from agent.steps.settings import LoopSettings
from agent.testing import Script, ScriptedEndpoint, ScriptedModel, Stalled
from agent.tools.base import Tool
from agent.tools.hook import Hooked, Hooks
from agent.tools.skill import Skill, UseSkill
from agent.types import AssistantMessage, Event, Limits, ModelOptions, ToolCall
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from tests.integration.chat.terminal import Terminal


class Recorder(Audience):
    """Answers questions as it was told to, and writes down what it heard."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.asked: list[Asked] = []
        self.consents: list[Consent | None] = []
        """None: no answer ever comes."""
        self.conflicts: list[tuple[str, ...]] = []
        self.on_consent: Callable[[], None] = lambda: None

    def event(self, event: Event) -> None:
        self.events.append(event)

    def delta(self, step: int, delta: Delta) -> None:
        pass

    def conflict(self, paths: tuple[str, ...]) -> None:
        self.conflicts.append(paths)

    async def consent(self, call: ToolCall, asked: Asked) -> Consent:
        self.asked.append(asked)
        self.on_consent()
        answer = self.consents.pop(0)
        while answer is None:
            await anyio.sleep_forever()
        return answer

    async def answer(self, question: Question) -> str:
        return "blue"


Open = Callable[..., AbstractAsyncContextManager[Conversation]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / ".gitignore").write_text("secret\n")
    (folder / "secret").write_text("1234")
    return folder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def open_chat(tmp_path: Path, root: Path, recorder: Recorder) -> Open:
    """A conversation about ``root``; the same name is the same conversation."""

    @asynccontextmanager
    async def opened(
        script: Script,
        name: str = "one",
        *,
        sandboxed: bool = True,
        skills: tuple[Skill, ...] = (),
        hooks: Hooks | None = None,
        options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    ) -> AsyncIterator[Conversation]:
        chosen = native()
        tools: list[Tool] = [*chosen.tools, *([UseSkill(skills)] if skills else [])]
        if hooks is not None:
            tools = [Hooked(tool, hooks) for tool in tools]
        setting = Setting(
            ScriptedModel(script),
            replace(chosen, tools=tuple(tools)),
            options,
            Limits(),
            LoopSettings(),
            (lambda: open_backend("local", SandboxSettings())) if sandboxed else None,
            hooks=hooks,
            skills=skills,
        )
        async with open_conversation(tmp_path / "conversations" / name, root, setting, recorder) as conversation:
            yield conversation

    return opened


def say(text: str, reasoning: str = "") -> AssistantMessage:
    return AssistantMessage(content=text, reasoning_content=reasoning, finish_reason="stop")


Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path, root: Path) -> Iterator[Start]:
    """``mimo`` about ``root``, against an endpoint that answers by script."""
    endpoints, terminals = [], []

    def started(script: Script, *arguments: object, faults: Sequence[Stalled] = (), **more: object) -> Terminal:
        running = ScriptedEndpoint(script, faults).running()
        endpoints.append(running)
        url = running.__enter__()
        options = ("--repo", root, "--model-url", url, "--model", "scripted", *arguments)
        terminal = Terminal(*options, home=tmp_path / "home", **more)  # type: ignore[arg-type]
        terminals.append(terminal)
        return terminal

    yield started
    for terminal in terminals:
        terminal.__exit__(None, None, None)
    for running in endpoints:
        running.__exit__(None, None, None)


def ready(terminal: Terminal) -> Terminal:
    terminal.see("can be typed")
    terminal.see_either("· /help")  # The screen stands: what is typed before that is kept, and not sent.
    return terminal
