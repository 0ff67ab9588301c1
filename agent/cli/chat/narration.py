"""Tells of a turn while it happens: what is over is printed, what goes on is shown live."""

import time
from collections.abc import Awaitable

from prompt_toolkit.application import Application

from agent.cli.chat.lines import Lines, Stream, answer, named, thought
from agent.cli.chat.live import Live
from agent.cli.chat.scrollback import Scrollback
from agent.cli.chat.status import Status
from agent.cli.chat.turn import Ended
from agent.errors import AgentError
from agent.events import StepMessage, ToolIntent
from agent.model import Delta
from agent.types import Event, StopReason


class Narration:
    """Of all turns of one screen, one after the other."""

    def __init__(self, app: Application[None], scrollback: Scrollback, live: Live, status: Status) -> None:
        self._app = app
        self._scrollback = scrollback
        self._live = live
        self._status = status
        self.lines = Lines(80)
        """What was folded away."""
        self._streamed = self._thought = False
        """Of the answer that is being written, text or thinking was printed."""

    async def follow(self, work: Awaitable[Ended]) -> None:
        """See a turn to its end, and say how it ended."""
        self._do("reading the files")
        begun = time.monotonic()
        try:
            ended = await work
        except AgentError as error:
            self._scrollback.note(f"! {error}", "red")
            return
        finally:
            self._do("")
            self._live.stream = Stream()
            self._streamed = False
        self._say_how(ended, time.monotonic() - begun)

    def event(self, event: Event) -> None:
        if event.type == "step.message":
            message = StepMessage.model_validate(event.body)
            self._status.count(message.usage)
            self._end_stream(keep=message.aborted is None)
        width = self._scrollback.width
        self.lines.width = width  # the window may have been resized
        things = list(self.lines.of(event, streamed=self._streamed, thought_shown=self._thought))
        if event.type == "step.message":
            self._streamed = self._thought = False
        if things:
            self._scrollback.print(*things)
        match event.type:
            case "step.started":
                self._do("asking the model")
            case "tool.intent":
                self._do(named(ToolIntent.model_validate(event.body).call, max(width - 16, 16)))
            case "tool.completed":
                self._do("")

    def rest(self) -> None:
        """Nothing goes on."""
        self._do("")

    def delta(self, delta: Delta) -> None:
        match delta.kind:
            case "restart":
                self._live.stream = Stream()
                if self._streamed:
                    self._scrollback.note("(the answer is asked for again)")
                self._streamed = False
                self._do("asking again")
            case "content":
                self._say_thought()
                done = self._live.stream.add(delta.text)
                if done.strip():
                    self._streamed = True
                    self._scrollback.print(answer(done))
                self._count("writing")
            case "reasoning":
                self._live.think(delta.text)
                self._redraw_now_and_then()
            case "tool_call":
                self._say_thought()
                self._count("writing a call")

    def _say_how(self, ended: Ended, seconds: float) -> None:
        note = self._scrollback.note
        match ended.stop_reason:
            case StopReason.FINISHED:
                if seconds > 10:
                    note(f"· {seconds:.0f} s")
            case StopReason.CANCELLED:
                note("interrupted; what was done stays (/rewind takes it back)", "yellow")
            case StopReason.CONTEXT_EXHAUSTED:
                note(f"! {ended.detail}; /compact sums up what was said", "red")
            case _:
                note(f"! {ended.detail or ended.stop_reason}", "red")

    def _say_thought(self) -> None:
        """Thinking is over: one line of it stays."""
        if self._live.doing == "thinking":
            self._scrollback.print(thought(self._live.seconds, self._live.num_pieces, self._scrollback.width))
            self._thought = True
            self._do("writing")

    def _end_stream(self, *, keep: bool) -> None:
        rest = self._live.stream.rest()
        if self._streamed and keep and rest.strip():
            self._scrollback.print(answer(rest))
        elif self._streamed and not keep:
            self._scrollback.note("(the answer was given up)")

    def _do(self, what: str) -> None:
        self._live.begin(what)
        self._app.invalidate()

    def _count(self, what: str) -> None:
        self._live.count(what)
        self._redraw_now_and_then()

    def _redraw_now_and_then(self) -> None:
        if self._live.num_pieces % 8 == 1:
            self._app.invalidate()
