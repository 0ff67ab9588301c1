"""``mimo task logs``: what a task's agents did, as lines."""

from collections.abc import AsyncIterator, Iterator

from rich.console import RenderableType
from rich.text import Text

from agent.api.schemas import EventView
from agent.cli.chat.lines import Lines
from agent.cli.client import Client
from agent.cli.output import Format
from agent.cli.report import FILE_WIDTH
from agent.cli.terminal import Terminal, printable
from agent.events import RunStopped, StepMessage, ToolCompleted

_HEAD_WIDTH = 13
"""Of the time and the number of the attempt."""


async def logs(client: Client, task_id: str, terminal: Terminal, output: Format, *, follow: bool, whole: bool) -> None:
    """Print what happened so far, one event after the other.

    Args:
        follow: stay, and print what happens, until the task ends.
        whole: thoughts, and what calls gave back, in full.
    """
    told = _Told(terminal, whole=whole)
    async for event in client.watch(task_id) if follow else _so_far(client, task_id):
        if output is Format.JSON:
            terminal.result(event.model_dump_json())
        else:
            told.event(event)


async def _so_far(client: Client, task_id: str) -> AsyncIterator[EventView]:
    after = 0
    while (page := await client.events(task_id, after=after)).events:
        for event in page.events:
            yield event
        after = page.next_after


class _Told:
    """Each event as lines behind its time; attempts that work at once are told apart by their numbers."""

    def __init__(self, terminal: Terminal, *, whole: bool) -> None:
        self._terminal = terminal
        self._out = terminal.out
        self._whole = whole
        self._width = (terminal.out.width if terminal.out.is_terminal else FILE_WIDTH) - _HEAD_WIDTH
        self._out.width = self._width
        self._lines: dict[str | None, Lines] = {}
        self._attempts: dict[str | None, int] = {}

    def event(self, event: EventView) -> None:
        if event.type == "run.claimed":
            self._attempts[event.run_id] = event.body["attempt"]
        shown = self._lines.setdefault(event.run_id, Lines(self._width))
        things = [*shown.of(event, thought_shown=self._whole), *self._beside(event)]
        if not things:
            return
        with self._out.capture() as captured:
            self._out.print(*things, highlight=False)
        with self._out.capture() as head:
            at = f"{event.at.astimezone():%H:%M:%S} {self._attempts.get(event.run_id, '')}"
            self._out.print(Text(at.ljust(_HEAD_WIDTH), "dim"), end="")
        first, *more = [line for line in captured.get().splitlines() if line.strip()] or [""]
        lines = [head.get() + first, *(" " * _HEAD_WIDTH + line for line in more)]
        self._terminal.result("\n".join(line.rstrip() for line in lines))

    def _beside(self, event: EventView) -> Iterator[RenderableType]:
        """What a conversation does not show of an event, or shows otherwise."""
        body = event.body
        match event.type:
            case "run.claimed":
                yield Text(f"attempt {body['attempt']} is worked on", "bold")
            case "run.resumed":
                yield Text("another worker takes over", "yellow")
            case "step.message" if self._whole:
                if thought := StepMessage.model_validate(body).message.reasoning_content:
                    yield _indented(thought)
            case "tool.completed" if self._whole:
                yield _indented(ToolCompleted.model_validate(body).observation.text)
            case "run.stopped":
                stopped = RunStopped.model_validate(body)
                detail = f": {printable(stopped.detail)}" if stopped.detail else ""
                yield Text(f"stopped ({stopped.stop_reason.replace('_', ' ')}){detail}")
            case "run.finished" | "task.finished":
                what = f"attempt {body['attempt']}" if event.type == "run.finished" else "the task"
                proved = f", {body['verdict'].replace('_', ' ')}" if body["verdict"] else ""
                yield Text(f"{what}: {body['status']}{proved}", "bold")


def _indented(text: str) -> RenderableType:
    return Text("\n".join(f"      {line}" for line in printable(text).splitlines()), "dim")
