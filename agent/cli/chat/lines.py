"""What a conversation prints: each thing once, when it is over, so that the scrollback stays true."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from agent.cli.chat.indented import Indented
from agent.cli.progress import describe, ending
from agent.cli.terminal import diff_style, one_line, printable
from agent.events import GuardTripped, MessageTaken, QuestionAsked, StepMessage, ToolCompleted, ToolIntent
from agent.types import Event, ToolCall, Usage

if TYPE_CHECKING:
    from agent.api.schemas import EventView

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
        """By the id of the intent, until they are over."""
        self._said: dict[str, ToolCall] = {}
        """By the id that the model gave them, in its newest answer."""

    def of(
        self, event: "Event | EventView", *, streamed: bool = False, thought_shown: bool = False
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
                reason = one_line(event.body["reason"] or "no reason given", self.width)
                yield Indented(Text(f"not allowed: {reason}", "red"), "  ✗ ", "red")
            case "question.asked":
                asked = QuestionAsked.model_validate(event.body)
                yield Indented(Text(printable(asked.text), "bold"), "  ? ", "bold")
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
        self._said = {call.id: call for call in message.tool_calls}
        if message.reasoning_content:
            self.last_thought = message.reasoning_content
            if not thought_shown:
                num_tokens = said_.usage.reasoning_tokens or said_.usage.completion_tokens
                yield thought(said_.duration_s, num_tokens, self.width)
        if message.content.strip() and not streamed and said_.aborted is None:
            yield answer(message.content)

    def _completed(self, done: ToolCompleted) -> Iterator[RenderableType]:
        observation = done.observation
        call = self._calls.pop(done.intent_id or "", None)
        if call is None:
            yield from self._not_made(done)
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
            yield from (Indented(line, " " * 6) for line in edited(call, self.width - 8, "/diff"))

    def _not_made(self, done: ToolCompleted) -> Iterator[RenderableType]:
        """The user answered, or refused it, which is said already, or it was no call that can be made."""
        observation = done.observation
        if not observation.error:
            yield said(observation.text)
        elif observation.call_id and not done.denied:
            meant = self._said.get(observation.call_id)
            what = f"{named(meant, self.width // 2)}: " if meant else ""
            why = one_line(observation.text.removeprefix("[error] "), max(self.width - cell_len(what) - 6, 16))
            yield Indented(Text(f"{what}{why}", "red"), "  ✗ ", "red")

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
    return Group("", Indented(Text("\n".join(shown), "bold"), "> ", "bold"), "")


def thought(seconds: float, num_tokens: int, width: int) -> Text:
    """Thinking in one line; ``/thinking`` shows all of it."""
    took = f" for {seconds:.1f} s" if seconds >= 0.1 else ""
    line = f"  ✻ thought{took} · {tokens(num_tokens)}"
    speed = f" · {num_tokens / seconds:.0f} tokens/s" if seconds >= 1 else ""
    return Text(line + (speed if cell_len(line + speed) <= width else ""), "dim")


def tokens(number: int) -> str:
    return f"{number} token{'' if number == 1 else 's'}"


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
    if changed := edit(call):
        return "\n".join([named(call, 400), *changed])
    return f"{call.name} {json.dumps(given, indent=2, ensure_ascii=False) if given else call.arguments}"


def diff_lines(patch: str) -> Iterator[Text]:
    for line in printable(patch).splitlines():
        if not line.startswith("index "):  # It says nothing to people, in 90 letters.
            yield Text(line, diff_style(line))


def spent(usage: Usage) -> str:
    return f"{usage.prompt_tokens:,} tokens read ({usage.cached_tokens:,} cached), {usage.completion_tokens:,} written"


def _summary(call: ToolCall) -> Iterator[RenderableType]:
    summary = _arguments(call).get("summary")
    if isinstance(summary, str) and summary.strip():
        yield answer(summary)
    else:
        yield Text("  ✓ finished", "green")


def edit(call: ToolCall) -> list[str]:
    """What an edit takes away and adds, line by line; nothing for other calls."""
    given = _arguments(call)
    if "new_str" not in given:
        return []
    old, new = str(given.get("old_str", "")).splitlines(), str(given.get("new_str", "")).splitlines()
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return [*(f"- {line}" for line in old), *(f"+ {line}" for line in new)]


def edited(call: ToolCall, width: int, rest: str) -> Iterator[Text]:
    """The same in a few lines of at most ``width`` columns.

    Args:
        rest: what shows the others.
    """
    lines = edit(call)
    for line in lines[:_DIFF_LINES]:
        yield Text(one_line(line, width), diff_style(line))
    if len(lines) > _DIFF_LINES:
        yield Text(f"… {len(lines) - _DIFF_LINES} lines more: {rest}", "dim")


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
