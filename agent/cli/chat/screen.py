"""The terminal of a conversation: what is over goes into the scrollback, what goes on stands in a few lines below it.

Nothing above those lines is ever drawn again, so scrolling, selecting and tmux work as with any other program.
"""

import asyncio
import io
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, has_completions
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Layout,
    VSplit,
    Window,
)
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.styles import Style
from rich.console import Console, RenderableType
from rich.text import Text

from agent.cli.chat.conversation import MAX_WORDS_CHARS, Audience, Consent, Conversation
from agent.cli.chat.entry import Pastes, Words, list_files
from agent.cli.chat.lines import Lines, Stream, answer, named, said, shown_edit, thought
from agent.cli.chat.turn import Ended, Question
from agent.cli.terminal import one_line, printable
from agent.errors import AgentError
from agent.events import StepMessage, ToolIntent
from agent.model import Delta
from agent.permissions.kinds import Kind
from agent.permissions.policy import Asked, Mode, Part
from agent.types import Event, StopReason, ToolCall

_LIVE_LINES = 6
"""Most lines of what goes on: a fixed budget, so that nothing jumps."""

_QUEUE_LINES = 4
_REFRESH_S = 0.5

_MODES = tuple(Mode)

_STYLE = Style.from_dict(
    {
        "plan": "bg:ansiblue fg:ansiwhite bold",
        "ask": "bg:ansigreen fg:ansiblack bold",
        "edits": "bg:ansiyellow fg:ansiblack bold",
        "auto": "bg:ansimagenta fg:ansiwhite bold",
        "open": "bg:ansired fg:ansiwhite bold",
        "dim": "fg:ansibrightblack",
        "rule": "fg:ansibrightblack",
        "title": "bold",
    }
)


@dataclass(slots=True)
class _Menu:
    """A question with numbered answers."""

    title: StyleAndTextTuples
    options: Sequence[str]
    answer: "asyncio.Future[int | None]"
    chosen: int = 0


class Screen(Audience):
    """One terminal. :meth:`run` shows a conversation until the user leaves."""

    def __init__(
        self,
        *,
        model: str,
        context_tokens: int | None,
        history: Path,
        no_color: bool,
        input: Input | None = None,  # noqa: A002 - prompt_toolkit's name
        output: Output | None = None,
    ) -> None:
        """
        Args:
            model: name to show.
            context_tokens: of the model; None where it is not known.
            history: file of what was typed before.
        """
        self._model = model
        self._context_tokens = context_tokens
        self._no_color = no_color
        self._lines = Lines(80)
        self._menu: _Menu | None = None
        self._asking_words: asyncio.Future[str] | None = None
        self._asking_what = ""
        self._live: list[str] = []
        self._doing = ""
        self._doing_since = time.monotonic()
        self._num_pieces = 0
        self._stream = Stream()
        self._streamed = self._thought = False
        """Of the answer that is being written, text or thinking was printed."""
        self._read_tokens = 0
        self._to_print: list[str] = []
        self._printing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._notice = ""
        self._leaving_since = 0.0
        self._escaped_at = 0.0
        self._files: list[str] = []
        self._pastes = Pastes()
        self._later_tasks: set[asyncio.Task[None]] = set()
        self._editing: asyncio.Task[None] | None = None
        self._handle: Callable[[str], Awaitable[None]] | None = None
        self._conversation: Conversation | None = None
        self._commands: Sequence[tuple[str, str]] = ()
        self._buffer = Buffer(
            multiline=True,
            history=FileHistory(str(history)),
            completer=Words(lambda: self._commands, lambda: self._files),
            complete_while_typing=True,
        )
        self._app: Application[None] = Application(
            Layout(self._container(), focused_element=self._buffer),
            key_bindings=self._keys(),
            style=_STYLE,
            color_depth=ColorDepth.DEPTH_1_BIT if no_color else None,
            refresh_interval=_REFRESH_S,
            erase_when_done=True,
            input=input,
            output=output,
        )
        self._app.ttimeoutlen = 0.05
        self._app.timeoutlen = 0.2

    # What others may do.

    @property
    def width(self) -> int:
        return max(self._app.output.get_size().columns, 20)

    @property
    def lines(self) -> Lines:
        """What was folded away."""
        return self._lines

    async def run(
        self,
        conversation: Conversation,
        commands: Sequence[tuple[str, str]],
        handle: Callable[[str], Awaitable[None]],
        begin: Callable[[], Awaitable[None]],
    ) -> None:
        """Show the conversation until the user leaves.

        Args:
            commands: names and meanings, for completion.
            handle: does what begins with a slash or an exclamation mark.
            begin: is called once the screen stands.
        """
        self._conversation = conversation
        self._commands = commands
        self._handle = handle
        self._lines = Lines(self.width)
        serving: asyncio.Task[None] | None = None

        def start() -> None:
            nonlocal serving
            serving = self._app.create_background_task(self._serve(begin))

        try:
            await self._app.run_async(pre_run=start)
        finally:
            if serving is not None:
                serving.cancel()
                await asyncio.wait({serving})
            self._flush_now()
        if serving is not None and not serving.cancelled() and (error := serving.exception()):
            raise error

    def leave(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    def print(self, *things: RenderableType) -> None:
        """Into the scrollback."""
        out = io.StringIO()
        console = Console(
            file=out,
            width=self.width,
            force_terminal=True,
            no_color=self._no_color,
            color_system=None if self._no_color else "auto",
            highlight=False,
            legacy_windows=False,
        )
        for thing in things:
            console.print(thing, soft_wrap=False)
        self._to_print.append(out.getvalue())
        if self._printing is None or self._printing.done():
            self._printing = asyncio.ensure_future(self._flush())

    def note(self, text: str, style: str = "dim") -> None:
        self.print(Text(f"  {printable(text)}", style))

    async def choose(self, title: str, options: Sequence[str], *, detail: Sequence[str] = ()) -> int | None:
        """Ask for one of the options, by number or by the arrow keys; None where the user leaves it."""
        head: StyleAndTextTuples = [("class:title", title)]
        head.extend(("", f"\n  {line}") for line in detail)
        self._menu = _Menu(head, options, asyncio.get_running_loop().create_future())
        self._app.invalidate()
        try:
            return await self._menu.answer
        finally:
            self._menu = None
            self._app.invalidate()

    async def ask_words(self, what: str) -> str:
        """Ask for a line of text in the input."""
        self._asking_words = asyncio.get_running_loop().create_future()
        self._asking_what = what
        self._app.invalidate()
        try:
            return await self._asking_words
        finally:
            self._asking_words = None

    async def outside(self, command: Sequence[str], cwd: Path, text: str = "") -> int:
        """Run a program that has the terminal for itself, such as a pager."""

        def execute() -> int:
            # The user's own shell, editor or pager: what they start themselves has their rights.
            return subprocess.run(command, cwd=cwd, input=text or None, text=True, check=False).returncode

        return await run_in_terminal(execute)

    # An audience.

    def event(self, event: Event) -> None:
        if event.type == "step.message":
            message = StepMessage.model_validate(event.body)
            self._read_tokens = message.usage.prompt_tokens + message.usage.completion_tokens
            self._end_stream(keep=message.aborted is None)
        self._lines.width = self.width  # the window may have been resized
        things = list(self._lines.of(event, streamed=self._streamed, thought_shown=self._thought))
        if event.type == "step.message":
            self._streamed = self._thought = False
        if things:
            self.print(*things)
        match event.type:
            case "step.started":
                self._do("asking the model")
            case "tool.intent":
                self._do(named(ToolIntent.model_validate(event.body).call, max(self.width - 16, 16)))
            case "tool.completed":
                self._do("")

    def delta(self, step: int, delta: Delta) -> None:
        match delta.kind:
            case "restart":
                self._stream = Stream()
                if self._streamed:
                    self.note("(the answer is asked for again)")
                self._streamed = False
                self._do("asking again")
            case "content":
                self._say_thought()
                done = self._stream.add(delta.text)
                if done.strip():
                    self._streamed = True
                    self.print(answer(done))
                self._count("writing")
            case "reasoning":
                self._count("thinking")
            case "tool_call":
                self._say_thought()
                self._count("writing a call")

    def conflict(self, paths: tuple[str, ...]) -> None:
        names = ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
        self.note(f"! changed by you and by the agent, kept as you have it: {names}", "yellow")

    async def consent(self, call: ToolCall, asked: Asked) -> Consent:
        width = self.width - 4
        detail = [one_line(part.text, width - 18) + _meaning(part) for part in asked.parts[:8]]
        if call.name != "bash":
            detail = [named(call, width), *(str(line) for line in shown_edit(call, self.width))]
        grants = asked.grants
        is_edit = all(part.kind is Kind.EDIT for part in asked.parts)
        always = f"yes, and always: {', '.join(map(str, grants))}" if grants else None
        always = "yes, and accept all edits from now on" if is_edit else always
        options = ["yes", *([one_line(always, width)] if always else []), "no", "no, and tell it why"]
        self._bell()
        chosen = await self.choose("May it do this?", options, detail=detail)
        if chosen is None:
            assert self._conversation is not None
            self._conversation.interrupt()
            return Consent(False, reason="the user interrupted")
        match options[chosen]:
            case "yes":
                return Consent(True)
            case "no":
                return Consent(False)
            case "no, and tell it why":
                return Consent(False, reason=(await self.ask_words("Tell it why"))[:2000])
            case _ if is_edit:
                assert self._conversation is not None
                self._conversation.choose(Mode.ACCEPT_EDITS)
                return Consent(True)
            case _:
                return Consent(True, always=grants or ())

    async def answer(self, question: Question) -> str:
        self.print(Text(f"  ? {printable(question.text)}", "bold"))
        self._bell()
        if question.options:
            options = [one_line(option, self.width - 6) for option in question.options]
            chosen = await self.choose("Choose", [*options, "something else"])
            if chosen is not None and chosen < len(question.options):
                return question.options[chosen]
        return await self.ask_words("Your answer")

    # The work.

    async def _serve(self, begin: Callable[[], Awaitable[None]]) -> None:
        """Say what is in the queue, one after the other, for as long as the screen stands."""
        conversation = self._conversation
        assert conversation is not None
        try:
            await begin()
            self._later(self._refresh_files())
            while True:
                while (text := conversation.unqueue()) is not None:
                    self.print(said(text))
                    await self._work(conversation.say(text))
                self._wake.clear()
                await self._wake.wait()
        except Exception:
            self.leave()  # Whoever called us says what it was.
            raise

    async def work(self, work: Awaitable[Ended]) -> None:
        """See a turn to its end."""
        await self._work(work)

    async def _work(self, work: Awaitable[Ended]) -> None:
        self._do("reading the files")
        begun = time.monotonic()
        try:
            ended = await work
        except AgentError as error:
            self.note(f"! {error}", "red")
            return
        finally:
            self._do("")
            self._stream = Stream()
            self._streamed = False
        self._say_how(ended, time.monotonic() - begun)
        self._later(self._refresh_files())

    def _say_how(self, ended: Ended, seconds: float) -> None:
        match ended.stop_reason:
            case StopReason.FINISHED:
                if seconds > 10:
                    self.note(f"· {seconds:.0f} s")
            case StopReason.CANCELLED:
                self.note("interrupted; what was done stays (/rewind takes it back)", "yellow")
            case StopReason.CONTEXT_EXHAUSTED:
                self.note(f"! {ended.detail}; /compact sums up what was said", "red")
            case _:
                self.note(f"! {ended.detail or ended.stop_reason}", "red")

    async def _refresh_files(self) -> None:
        assert self._conversation is not None
        self._files = await list_files(self._conversation.history.root)

    async def submit(self, text: str, *, steer: bool) -> None:
        """Something the user typed and sent."""
        conversation = self._conversation
        assert conversation is not None
        assert self._handle is not None
        if text.startswith(("/", "!")):
            self.note(f"> {one_line(text, self.width - 6)}")
            await self._handle(text)
        elif steer and conversation.busy and not conversation.unfinished:
            await conversation.steer(text)
        else:
            conversation.queue(text)
        self._wake.set()

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Beside what goes on now; ends with the screen."""
        task = self._app.create_background_task(work)
        self._later_tasks.add(task)
        task.add_done_callback(self._later_tasks.discard)

    def _say_thought(self) -> None:
        """Thinking is over: one line of it stays."""
        if self._doing == "thinking":
            self.print(thought(time.monotonic() - self._doing_since, self._num_pieces))
            self._thought = True
            self._do("writing")

    def _do(self, what: str) -> None:
        self._doing = what
        self._doing_since = time.monotonic()
        self._num_pieces = 0
        self._app.invalidate()

    def _count(self, what: str) -> None:
        if not self._doing.startswith(what):
            self._do(what)
        self._num_pieces += 1
        if self._num_pieces % 8 == 1:
            self._app.invalidate()

    def _end_stream(self, *, keep: bool) -> None:
        rest = self._stream.rest()
        if self._streamed and keep and rest.strip():
            self.print(answer(rest))
        elif self._streamed and not keep:
            self.note("(the answer was given up)")

    def _bell(self) -> None:
        self._app.output.bell()

    async def _flush(self) -> None:
        while self._to_print:
            text = "".join(self._to_print)
            self._to_print.clear()
            if self._app.is_running and not self._app.is_done:
                await run_in_terminal(lambda text=text: self._write(text))  # type: ignore[misc]
            else:
                self._write(text)

    def _flush_now(self) -> None:
        if self._printing is not None:
            self._printing.cancel()
        if self._to_print:
            self._write("".join(self._to_print))
            self._to_print.clear()

    def _write(self, text: str) -> None:
        self._app.output.write_raw(text.replace("\n", "\r\n"))
        self._app.output.flush()

    # How it looks.

    def _container(self) -> HSplit:
        entering = Condition(lambda: self._menu is None)
        return HSplit(
            [
                _shown(self._live_lines),
                _shown(self._queue_lines),
                _shown(self._menu_lines),
                ConditionalContainer(
                    HSplit(
                        [
                            Window(height=1, char="─", style="class:rule"),
                            VSplit(
                                [
                                    Window(FormattedTextControl(self._prompt), dont_extend_width=True, width=2),
                                    Window(
                                        BufferControl(self._buffer),
                                        height=Dimension(min=1, max=8),
                                        dont_extend_height=True,
                                        wrap_lines=True,
                                    ),
                                ]
                            ),
                            ConditionalContainer(CompletionsMenu(max_height=8), has_completions),
                        ]
                    ),
                    entering,
                ),
                Window(FormattedTextControl(self._status), height=1),
            ]
        )

    def _prompt(self) -> StyleAndTextTuples:
        return [("class:title", "? " if self._asking_words else "> ")]

    def _live_lines(self) -> StyleAndTextTuples:
        if self._menu is not None or not (self._doing or self._asking_words):
            return []
        lines: StyleAndTextTuples = []
        room = self.width - 4
        text = [line for line in printable(self._stream.open).splitlines() if line.strip()]
        for line in text[-(_LIVE_LINES - 1) :]:
            lines.append(("", f"  {one_line(line, room)}\n"))
        if self._asking_words:
            lines.append(("class:title", f"  {self._asking_what}:"))
            return lines
        seconds = time.monotonic() - self._doing_since
        facts = [self._doing]
        if seconds >= 1:
            facts.append(f"{seconds:.0f} s")
        if self._num_pieces:
            facts.append(f"{self._num_pieces} tokens")
            if seconds >= 1:
                facts.append(f"{self._num_pieces / seconds:.0f} tokens/s")
        mark = _TURNING[int(time.monotonic() * 4) % len(_TURNING)]
        lines.append(("class:dim", one_line(f"  {mark} {' · '.join(facts)}", self.width - 1)))
        return lines

    def _queue_lines(self) -> StyleAndTextTuples:
        assert self._conversation is not None
        queue = self._conversation.state.queue
        lines = [f"  ⋯ {one_line(text, self.width - 6)}" for text in queue[:_QUEUE_LINES]]
        if len(queue) > _QUEUE_LINES:
            lines.append(f"  ⋯ and {len(queue) - _QUEUE_LINES} more")
        return [("class:dim", "\n".join(lines))] if lines else []

    def _menu_lines(self) -> StyleAndTextTuples:
        menu = self._menu
        if menu is None:
            return []
        lines: StyleAndTextTuples = [*menu.title]
        for at, option in enumerate(menu.options):
            mark = "❯" if at == menu.chosen else " "
            lines.append(("class:title" if at == menu.chosen else "", f"\n{mark} {at + 1}. {option}"))
        return lines

    def _status(self) -> StyleAndTextTuples:
        """What always has to be seen comes first; the rest as far as there is room."""
        conversation = self._conversation
        assert conversation is not None
        mode = conversation.state.mode
        parts: StyleAndTextTuples = [(f"class:{mode.split()[-1]}", f" {mode} ")]
        if not conversation.sandboxed:
            parts += [("", " "), ("class:open", " NO SANDBOX ")]
        if self._notice:
            parts.append(("class:title", f" {self._notice}"))
            return parts
        facts = [self._model]
        if self._read_tokens:
            share = f" ({100 * self._read_tokens // self._context_tokens}%)" if self._context_tokens else ""
            facts.append(f"{self._read_tokens:,} tokens{share}")
        facts.append("Esc interrupts" if conversation.busy else "/help")
        room = self.width - sum(len(text) for _, text, *_ in parts)
        for fact in facts:
            if len(fact) + 3 > room:
                break
            parts.append(("class:dim", f" · {fact}"))
            room -= len(fact) + 3
        return parts

    # What keys do.

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        menu = Condition(lambda: self._menu is not None)
        entering = ~menu

        @keys.add("enter", filter=entering & ~has_completions)
        def _(event: KeyPressEvent) -> None:
            self._send(steer=False)

        @keys.add("enter", filter=entering & has_completions)
        def _(event: KeyPressEvent) -> None:
            state = self._buffer.complete_state
            if state is not None and state.current_completion is not None:
                self._buffer.apply_completion(state.current_completion)
            else:
                self._buffer.cancel_completion()
                self._send(steer=False)

        @keys.add("c-s", filter=entering)
        def _(event: KeyPressEvent) -> None:
            self._send(steer=True)

        @keys.add("escape", "enter", filter=entering)
        @keys.add("c-j", filter=entering)
        def _(event: KeyPressEvent) -> None:
            self._buffer.insert_text("\n")

        @keys.add("s-tab")
        def _(event: KeyPressEvent) -> None:
            assert self._conversation is not None
            at = _MODES.index(self._conversation.state.mode)
            self._conversation.choose(_MODES[(at + 1) % len(_MODES)])

        @keys.add("tab", filter=entering)
        def _(event: KeyPressEvent) -> None:
            if self._buffer.complete_state:
                self._buffer.complete_next()
            else:
                self._buffer.start_completion(select_first=True)

        @keys.add("up", filter=entering & ~has_completions)
        def _(event: KeyPressEvent) -> None:
            assert self._conversation is not None
            if not self._buffer.text and (text := self._conversation.unqueue(newest=True)) is not None:
                self._buffer.text = text
                self._buffer.cursor_position = len(text)
            else:
                self._buffer.auto_up()

        @keys.add("down", filter=entering & ~has_completions)
        def _(event: KeyPressEvent) -> None:
            self._buffer.auto_down()

        @keys.add(Keys.BracketedPaste, filter=entering)
        def _(event: KeyPressEvent) -> None:
            self._buffer.insert_text(self._pastes.fold(event.data))

        @keys.add("c-g", filter=entering)
        def _(event: KeyPressEvent) -> None:
            self._buffer.text = self._pastes.unfold(self._buffer.text)
            self._editing = self._buffer.open_in_editor()

        @keys.add("c-o")
        def _(event: KeyPressEvent) -> None:
            self.print(Text(printable(self._lines.last_output or "(nothing to show)"), "dim"))

        @keys.add("c-l")
        def _(event: KeyPressEvent) -> None:
            self._app.renderer.clear()

        @keys.add("escape", filter=entering)
        def _(event: KeyPressEvent) -> None:
            self._escape()

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            self._interrupt_or_leave()

        @keys.add("c-d", filter=entering)
        def _(event: KeyPressEvent) -> None:
            if not self._buffer.text:
                self.leave()
            else:
                self._buffer.delete()

        @keys.add("up", filter=menu)
        @keys.add("down", filter=menu)
        def _(event: KeyPressEvent) -> None:
            assert self._menu is not None
            step = -1 if _key(event.key_sequence[0]) == Keys.Up else 1
            self._menu.chosen = (self._menu.chosen + step) % len(self._menu.options)

        @keys.add("enter", filter=menu)
        def _(event: KeyPressEvent) -> None:
            assert self._menu is not None
            self._choose(self._menu.chosen)

        @keys.add("escape", filter=menu)
        def _(event: KeyPressEvent) -> None:
            self._choose(None)

        for digit in "123456789":

            @keys.add(digit, filter=menu)
            def _(event: KeyPressEvent) -> None:
                assert self._menu is not None
                chosen = int(event.data) - 1
                if chosen < len(self._menu.options):
                    self._choose(chosen)

        return keys

    def _choose(self, chosen: int | None) -> None:
        if self._menu is not None and not self._menu.answer.done():
            self._menu.answer.set_result(chosen)

    def _send(self, *, steer: bool) -> None:
        text = self._pastes.unfold(self._buffer.text).strip()
        if not text and not self._asking_words:
            return
        if len(text) > MAX_WORDS_CHARS:
            self._say_briefly(f"{len(text):,} characters are too many ({MAX_WORDS_CHARS:,}): use a file and @")
            return
        if len(self._buffer.text) < MAX_WORDS_CHARS:
            self._buffer.append_to_history()
        self._buffer.reset()
        if self._asking_words is not None and not self._asking_words.done():
            self._asking_words.set_result(text)
            return
        self._later(self.submit(text, steer=steer))

    def _escape(self) -> None:
        assert self._conversation is not None
        now = time.monotonic()
        twice = now - self._escaped_at < 1.0
        self._escaped_at = now
        if self._buffer.complete_state:
            self._buffer.cancel_completion()
        elif self._conversation.busy:
            self._conversation.interrupt()
        elif twice and self._handle is not None:
            self._later(self.submit("/rewind", steer=False))

    def _interrupt_or_leave(self) -> None:
        assert self._conversation is not None
        now = time.monotonic()
        if self._menu is not None and not self._conversation.busy:
            self._choose(None)
        elif self._conversation.busy and not self._conversation.unfinished:
            self._conversation.interrupt()
        elif self._buffer.text:
            self._buffer.reset()
        elif now - self._leaving_since < 2.0:
            self.leave()
            return
        else:
            self._say_briefly("Ctrl-C again to leave")
        self._leaving_since = now

    def _say_briefly(self, notice: str) -> None:
        self._notice = notice
        self._app.invalidate()

        async def forget() -> None:
            await asyncio.sleep(2)
            if self._notice == notice:
                self._notice = ""
                self._app.invalidate()

        self._later(forget())


_TURNING = "⠋⠙⠹⠸⠼⠴⠦⠧"

_MEANINGS = {
    Kind.READ: "",
    Kind.EDIT: "  (edits)",
    Kind.OTHER: "",
    Kind.NETWORK: "  (network)",
    Kind.DESTRUCTIVE: "  (can lose work)",
}


def _meaning(part: Part) -> str:
    return _MEANINGS[part.kind] if part.command else "  (not understood)"


def _key(press: KeyPress) -> Keys | str:
    return press.key


def _shown(text: Callable[[], StyleAndTextTuples]) -> ConditionalContainer:
    """Lines that take no room while there are none."""
    window = Window(FormattedTextControl(text), dont_extend_height=True, wrap_lines=False)
    return ConditionalContainer(window, Condition(lambda: bool(text())))
