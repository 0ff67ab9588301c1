"""Events as lines for people: one per tool call, and a moving line while the model thinks."""

import asyncio
import json
import re
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.status import Status
from rich.text import Text

from agent.cli.terminal import Terminal, one_line, printable
from agent.events import GuardTripped, StepMessage, ToolCompleted, ToolIntent
from agent.types import ToolCall

if TYPE_CHECKING:
    from agent.api.schemas import DraftView, EventView

_ENDING_WIDTH = 24

_HEARTBEAT_S = 30.0


class Progress:
    """Shows a task as it goes. Use in ``with``: the moving line must be taken away at the end."""

    def __init__(self, terminal: Terminal, heartbeat_s: float = _HEARTBEAT_S) -> None:
        """
        Args:
            heartbeat_s: longest silence where there is no terminal to move a line on, while :meth:`keep_on` runs.
        """
        self._terminal = terminal
        self._heartbeat_s = heartbeat_s
        self._calls: dict[tuple[str | None, str], ToolCall] = {}
        self._runs: set[str | None] = set()
        self._num_pieces = 0
        self._draft = ""
        self._doing = "working"
        self._spoke_at = self._started_at = time.monotonic()
        moving = terminal.err.is_terminal and not terminal.quiet
        self._status = Status("waiting", console=terminal.err, spinner="dots") if moving else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def event(self, event: "EventView") -> None:
        """Show one event of the log."""
        match event.type:
            case "task.submitted":
                self.say("waiting for a worker")
            case "run.claimed":
                self._claimed(event)
            case "run.resumed":
                self._note("↻", "another worker takes over", "yellow")
            case "step.started":
                self._num_pieces = 0
                self.say(f"step {event.body['step']} · asking the model")
            case "step.message":
                self._message(StepMessage.model_validate(event.body))
            case "tool.intent":
                self._intent(event.run_id, ToolIntent.model_validate(event.body))
            case "tool.completed":
                self._completed(event.run_id, ToolCompleted.model_validate(event.body))
            case "guard.tripped":
                tripped = GuardTripped.model_validate(event.body)
                self._note("!", f"guard: {tripped.pattern}, {_REMEDIES[tripped.action]}", "yellow")
            case "run.stopped":
                self.say("running the checks in a fresh sandbox")
            case "task.cancel_requested":
                self.say("stopping")

    async def keep_on(self) -> None:
        """Say that work goes on, where nothing was said for long. Never ends."""
        while True:
            await asyncio.sleep(self._heartbeat_s / 6)
            self.say(self._doing)

    def piece(self, step: int, kind: str) -> None:
        """Count a piece of an answer that is being written."""
        self._num_pieces = 0 if kind == "restart" else self._num_pieces + 1
        self.say(f"step {step} · {_DOING[kind]} · {self._num_pieces} tokens")

    def draft(self, piece: "DraftView") -> None:
        """Show the end of an answer that is being written."""
        self._draft = "" if piece.kind == "restart" else f"{self._draft}{piece.text}"[-self._width :]
        self.say(f"step {piece.step} · {_DOING[piece.kind]} · {printable(' '.join(self._draft.split()))}")

    def say(self, what: str) -> None:
        """Change the moving line; without a terminal, a line now and then says that work goes on."""
        self._doing = what
        if self._status:
            self._status.update(Text(what, "dim"))
        elif time.monotonic() - self._spoke_at >= self._heartbeat_s:
            self._print(Text(f"… {what} ({time.monotonic() - self._started_at:.0f} s)"))

    def _claimed(self, event: "EventView") -> None:
        attempt = event.body["attempt"]
        if attempt > 1 and event.run_id not in self._runs:
            self._note("→", f"attempt {attempt}", "bold")
        self._runs.add(event.run_id)
        self.say("preparing the sandbox")

    def _message(self, said: StepMessage) -> None:
        if said.aborted is None and not said.message.tool_calls:
            what = one_line(said.message.content, self._width) or "(nothing)"
            self._line(said.step, "✗", what, "no tool call", said.duration_s, "yellow")

    def _intent(self, run_id: str | None, intent: ToolIntent) -> None:
        self._calls[run_id, intent.intent_id] = intent.call
        self.say(f"step {intent.step} · {describe(intent.call, self._width)}")

    def _completed(self, run_id: str | None, done: ToolCompleted) -> None:
        call = self._calls.pop((run_id, done.intent_id or ""), None)
        observation = done.observation
        if call is None and not observation.call_id:
            return  # It answers a message without a call, which has its own line.
        what = describe(call, self._width) if call else "unusable tool call"
        mark, style = ("✗", "red") if observation.error else ("✓", "green")
        self._line(done.step, mark, what, ending(observation.text), observation.duration_s, style)

    def _line(self, step: int, mark: str, what: str, ending: str, duration_s: float | None, style: str) -> None:
        took = "" if duration_s is None else f"{duration_s:.1f} s"
        line = Text.assemble((f"{step:>4}  ", "dim"), (f"{mark} ", style), what.ljust(self._width), "  ")
        line.append_text(Text.assemble((ending.ljust(_ENDING_WIDTH), style), (f"{took:>8}", "dim")))
        self._print(line)

    def _note(self, mark: str, text: str, style: str) -> None:
        self._print(Text.assemble("      ", (f"{mark} {text}", style)))

    def _print(self, line: Text) -> None:
        self._spoke_at = time.monotonic()
        line.rstrip()
        self._terminal.note(line)

    @property
    def _width(self) -> int:
        """Room for what a call does, beside its number, mark, ending and time."""
        return max(min(self._terminal.err.width - _ENDING_WIDTH - 18, 64), 20)


def describe(call: ToolCall, width: int = 72) -> str:
    """A call in a few words."""
    arguments = _arguments(call)
    match call.name, arguments:
        case "bash", {"command": str(command)}:
            return one_line(f"$ {command}", width)
        case "str_replace", {"path": str(path)}:
            return one_line(f"edit {path}", width)
        case "finish", {"summary": str(summary)} if summary:
            return one_line(f"finish: {summary}", width)
        case _:
            return one_line(call.name, width)


_DOING = {
    "reasoning": "thinking",
    "content": "writing",
    "tool_call": "writing a call",
    "restart": "asking the model",
}
_REMEDIES = {
    "hotter": "asking again",
    "thinking_off": "asking again without thinking",
    "drop": "the step is taken back",
    "stop": "stopping",
}


def _arguments(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError:
        return None


def ending(observation: str) -> str:
    """The bracketed line that says how a call ended: a command's last, another tool's first."""
    lines = observation.splitlines() or [""]
    line = lines[-1] if lines[-1].startswith("[") else lines[0]
    words = line.removeprefix("[error] ").strip("[]").replace("exit code: ", "exit ")
    return one_line(re.split("; ", words)[0], _ENDING_WIDTH)
