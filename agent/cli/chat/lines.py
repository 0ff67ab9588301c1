"""What a conversation prints: each thing once, when it is over, so that the scrollback stays true."""

import json
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from agent.api.schemas import EventView
from agent.cli.progress import describe, ending
from agent.cli.terminal import one_line, printable
from agent.events import GuardTripped, MessageTaken, StepMessage, ToolCompleted, ToolIntent
from agent.types import Event, ToolCall, Usage

_DIFF_LINES = 12
"""Of an edit, so many lines are shown; ``/diff`` shows all."""

_TAIL_LINES = 4
"""Of a command that failed."""


class Lines:
    """Turns events into what is printed. Keeps what is folded, for who wants to see it."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.last_output = ""
        """What the newest call gave back, whole."""
        self.last_thought = ""
        self._calls: dict[str, ToolCall] = {}

    def of(
        self, event: Event | EventView, *, streamed: bool = False, thought_shown: bool = False
    ) -> Iterator[RenderableType]:
        """
        Args:
            streamed: the text of the answer was printed while it came.
            thought_shown: so was that there were thoughts.
        """
        match event.type:
            case "task.submitted":
                yield said(event.body["request"]["problem_statement"])
            case "message.taken":
                yield said(MessageTaken.model_validate(event.body).text)
            case "step.message":
                message = StepMessage.model_validate(event.body)
                yield from self._message(message, streamed=streamed, thought_shown=thought_shown)
            case "tool.intent":
                intent = ToolIntent.model_validate(event.body)
                self._calls[intent.intent_id] = intent.call
            case "approval.decided" if event.body["decision"] == "deny":
                yield Text(f"  ✗ not allowed: {one_line(event.body['reason'] or 'no reason given', self.width)}", "red")
            case "tool.completed":
                yield from self._completed(ToolCompleted.model_validate(event.body))
            case "guard.tripped":
                tripped = GuardTripped.model_validate(event.body)
                yield Text(f"  ! the answer went in circles ({tripped.pattern.replace('_', ' ')}); mended", "yellow")
            case "view.compacted":
                yield Text("  ↧ the context was full: earlier steps are summed up", "yellow")
            case "sandbox.lost":
                yield Text("  ! the sandbox was lost; a new one is made", "yellow")

    def _message(self, said_: StepMessage, *, streamed: bool, thought_shown: bool) -> Iterator[RenderableType]:
        message = said_.message
        if message.reasoning_content:
            self.last_thought = message.reasoning_content
            if not thought_shown:
                yield thought(said_.duration_s, said_.usage.reasoning_tokens or said_.usage.completion_tokens)
        if message.content.strip() and not streamed and said_.aborted is None:
            yield answer(message.content)

    def _completed(self, done: ToolCompleted) -> Iterator[RenderableType]:
        observation = done.observation
        call = self._calls.pop(done.intent_id or "", None)
        if call is None:
            if observation.call_id and not done.denied:
                yield Text(f"  ✗ unusable call: {one_line(observation.text, self.width - 20)}", "red")
            return
        self.last_output = observation.text
        if done.finished:
            yield from _summary(call)
            return
        mark, style = ("✗", "red") if observation.error else ("✓", "green")
        ended = ending(observation.text) if observation.error or call.name == "bash" else ""
        took = f"{observation.duration_s:.1f} s" if observation.duration_s >= 0.1 else ""
        tail = "  ".join(part for part in (ended if ended != "exit 0" else "", took) if part)
        tail = one_line(tail, self.width - 22) if tail else ""
        room = max(self.width - len(tail) - 6, 16)
        line = Text.assemble("  ", (mark, style), " ", named(call, room), ("  " + tail if tail else "", "dim"))
        yield line
        if observation.error:
            yield from self._tail(observation.text)
        else:
            yield from shown_edit(call, self.width)

    def _tail(self, text: str) -> Iterator[RenderableType]:
        lines = [line for line in printable(text).splitlines() if line.strip() and not line.startswith("[exit")]
        for line in lines[-_TAIL_LINES:]:
            yield Text(f"      {one_line(line, self.width - 8)}", "dim")
        if len(lines) > _TAIL_LINES:
            yield Text(f"      … {len(lines) - _TAIL_LINES} lines more: Ctrl-O", "dim")


def said(text: str) -> RenderableType:
    """Something the user said."""
    lines = printable(text).splitlines() or [""]
    shown = lines if len(lines) <= 12 else [*lines[:10], f"… {len(lines) - 10} lines more"]
    return Group("", *(Text(f"{'> ' if at == 0 else '  '}{line}", "bold") for at, line in enumerate(shown)), "")


def thought(seconds: float, num_tokens: int) -> Text:
    """Thinking in one line; ``/thinking`` shows all of it."""
    speed = f" · {num_tokens / seconds:.0f} tokens/s" if seconds >= 1 else ""
    return Text(f"  ✻ thought for {seconds:.1f} s · {num_tokens} tokens{speed}", "dim")


def answer(text: str) -> RenderableType:
    """Markdown of the model; control characters in it stay visible and steer nothing."""
    from agent.cli.chat.markdown import PlainMarkdown  # Slow to import, and not needed before the first answer.

    return PlainMarkdown(printable(text))


def named(call: ToolCall, room: int) -> str:
    """A call in a few words: the tool, and what it is about."""
    words = describe(call, room)
    if words != call.name:
        return words
    about = next((value for value in _arguments(call).values() if isinstance(value, str)), "")
    return one_line(f"{call.name} {about}".strip(), room)


def whole(call: ToolCall) -> str:
    """All that a call would do."""
    given = _arguments(call)
    command = given.get("command")
    if call.name == "bash" and isinstance(command, str):
        return command
    return f"{call.name} {json.dumps(given, indent=2, ensure_ascii=False) if given else call.arguments}"


def diff_lines(patch: str) -> Iterator[Text]:
    for line in printable(patch).splitlines():
        yield Text(line, _DIFF.get(line[:1], ""))


def spent(usage: Usage) -> str:
    return f"{usage.prompt_tokens:,} tokens read ({usage.cached_tokens:,} cached), {usage.completion_tokens:,} written"


_DIFF = {"+": "green", "-": "red", "@": "cyan"}


def _summary(call: ToolCall) -> Iterator[RenderableType]:
    summary = _arguments(call).get("summary")
    if isinstance(summary, str) and summary.strip():
        yield answer(summary)
    else:
        yield Text("  ✓ finished", "green")


def shown_edit(call: ToolCall, width: int) -> Iterator[Text]:
    """What an edit takes away and adds, in a few lines; nothing for other calls."""
    given = _arguments(call)
    if "new_str" not in given:
        return
    old, new = str(given.get("old_str", "")).splitlines(), str(given.get("new_str", "")).splitlines()
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    lines = [*((f"- {line}", "red") for line in old), *((f"+ {line}", "green") for line in new)]
    for line, style in lines[:_DIFF_LINES]:
        yield Text(f"      {one_line(line, width - 8)}", style)
    if len(lines) > _DIFF_LINES:
        yield Text(f"      … {len(lines) - _DIFF_LINES} lines more: /diff", "dim")


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        given = json.loads(call.arguments)
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}


class Stream:
    """Markdown that comes piece by piece: what is complete may be printed, the rest is still being written."""

    def __init__(self) -> None:
        self.open = ""
        """What was not given out yet."""

    def add(self, text: str) -> str:
        """Take a piece in; the blocks that it completed, or nothing."""
        self.open += text
        at = 0
        for match in re.finditer(r"\n[ \t]*\n", self.open):
            if len(re.findall(r"^ {0,3}(?:```|~~~)", self.open[: match.end()], re.MULTILINE)) % 2 == 0:
                at = match.end()
        done, self.open = self.open[:at], self.open[at:]
        return done

    def rest(self) -> str:
        done, self.open = self.open, ""
        return done
