"""The terminal of a conversation: what is over goes into the scrollback, what goes on stands in a few lines below it.

Nothing above those lines is ever drawn again, so scrolling, selecting and tmux work as with any other program.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.application import Application
from prompt_toolkit.filters import Condition, has_completions, is_searching
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
from prompt_toolkit.layout import ConditionalContainer, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style
from rich.console import RenderableType
from rich.text import Text

from agent.cli.chat.consent import Choice, form
from agent.cli.chat.conversation import Audience, Consent, Conversation
from agent.cli.chat.entry import Vocabulary, list_files
from agent.cli.chat.images import clipboard, dropped
from agent.cli.chat.keyboard import Keyboard
from agent.cli.chat.lines import Lines, said, whole
from agent.cli.chat.live import Live
from agent.cli.chat.menu import Menu
from agent.cli.chat.narration import Narration
from agent.cli.chat.outside import Outside
from agent.cli.chat.prompt import Prompt
from agent.cli.chat.scrollback import Scrollback
from agent.cli.chat.status import Status
from agent.cli.chat.turn import Ended, Question
from agent.cli.failure import Failure
from agent.cli.images import read_image
from agent.cli.terminal import one_line
from agent.config import Prices
from agent.errors import GitError
from agent.model import Delta
from agent.permissions.policy import Asked, Mode
from agent.types import Event, ToolCall, Usage

_QUEUE_LINES = 4
_REFRESH_S = 0.5

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


class Screen(Audience):
    """One terminal. :meth:`run` shows a conversation until the user leaves."""

    def __init__(
        self, *, model: str, context_tokens: int | None, prices: Prices | None, history: Path, no_color: bool
    ) -> None:
        """
        Args:
            model: name to show.
            context_tokens: of the model; None where it is not known.
            prices: of its tokens; None where no cost is to be shown.
            history: file of what was typed before.
        """
        self._live = Live()
        self._status = Status(model, context_tokens, prices)

        def redraw() -> None:
            self._app.invalidate()

        self._vocabulary = Vocabulary()
        self._menu = Menu(redraw, lambda: bool(self._prompt.buffer.text))
        self._prompt = Prompt(
            history,
            self._vocabulary,
            redraw=redraw,
            on_send=self._sent,
            on_refusal=self._say_briefly,
            on_paste=self._attached,
        )
        self._outside = Outside()
        self._wake = asyncio.Event()
        self._left_at = self._escaped_at = 0.0
        self._later_tasks: set[asyncio.Task[None]] = set()
        self._handle: Callable[[str], Awaitable[None]] | None = None
        self._shown: Conversation | None = None
        typing = Condition(lambda: not self._menu.open)
        self._app: Application[None] = Application(
            Layout(self._container(typing), focused_element=self._prompt.buffer),
            input=Keyboard(),
            key_bindings=merge_key_bindings([self._prompt.keys(typing), self._menu.keys(), self._keys(typing)]),
            style=_STYLE,
            color_depth=ColorDepth.DEPTH_1_BIT if no_color else None,
            refresh_interval=_REFRESH_S,
            erase_when_done=True,
        )
        self._app.ttimeoutlen = 0.05
        self._app.timeoutlen = 0.2
        self._scrollback = Scrollback(self._app, no_color=no_color)
        self._narration = Narration(self._app, self._scrollback, self._live, self._status)

    # What others may do.

    @property
    def width(self) -> int:
        return self._scrollback.width

    @property
    def lines(self) -> Lines:
        """What was folded away."""
        return self._narration.lines

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
        self._shown = conversation
        self._vocabulary.commands = commands
        self._vocabulary.servers, self._vocabulary.ask = tuple(conversation.servers), conversation.resources
        self._handle = handle
        serving: asyncio.Task[None] | None = None

        def start() -> None:
            nonlocal serving
            serving = self._app.create_background_task(self._serve(begin))

        try:
            await self._to_its_end(asyncio.ensure_future(self._app.run_async(pre_run=start)))
        finally:
            if serving is not None:
                serving.cancel()
                await asyncio.wait({serving})
            self._scrollback.close()
        if serving is not None and not serving.cancelled() and (error := serving.exception()):
            raise error

    def put(self, text: str) -> None:
        """Into the line, as if the user had typed it."""
        self._prompt.put(text)

    def leave(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    def print(self, *things: RenderableType) -> None:
        """Into the scrollback."""
        self._scrollback.print(*things)

    def note(self, text: str, style: str = "dim") -> None:
        self._scrollback.note(text, style)

    async def choose(self, title: str, options: Sequence[str], *, detail: Sequence[Text] = ()) -> int | None:
        """Ask for one of the options; None where the user leaves it."""
        await self._pause()
        return await self._menu.choose(title, options, detail=detail)

    async def outside(self, command: Sequence[str], cwd: Path, text: str = "") -> int:
        """Run a program that has the terminal for itself, such as a pager; it has the user's own rights."""
        await self._scrollback.written()
        self._scrollback.interrupted()
        return await self._outside.run(command, cwd, text)

    def copy(self, text: str) -> None:
        """Into the clipboard of whoever sits before the terminal, also through ssh (xterm's control sequence 52)."""
        self._app.output.write_raw(f"\x1b]52;c;{b64encode(text.encode()).decode()}\x07")
        self._app.output.flush()

    async def attach(self, file: Path | None) -> None:
        """Write into the line what stands for the image of a file, or of the clipboard."""
        try:
            image, name = (await clipboard(), "clipboard") if file is None else (read_image(file), file.stem)
            self._prompt.insert(f"{self._conversation.attach(image, name)} ")
        except Failure as refused:
            self.note(f"! {refused.message}; {refused.remedy}", "red")

    async def submit(self, text: str, *, steer: bool) -> None:
        """Something the user typed and sent."""
        assert self._handle is not None
        conversation = self._conversation
        if text.startswith(("/", "!")):
            await self._handle(text)
        elif steer and conversation.busy and not conversation.unfinished:
            await conversation.steer(text)
        else:
            conversation.queue(text)
        self._wake.set()

    async def work(self, work: Awaitable[Ended]) -> None:
        """See a turn to its end."""
        await self._narration.follow(work)
        self._later(self._refresh_files())

    def show_again(self, events: Iterable[Event]) -> None:
        """What happened in a turn that is over."""
        for event in events:
            self._narration.event(event)
        self._narration.rest()

    def spent(self, usage: Usage) -> None:
        """What the whole conversation used so far."""
        self._status.spent = usage

    # An audience.

    def event(self, event: Event) -> None:
        self._narration.event(event)

    def delta(self, step: int, delta: Delta) -> None:
        self._narration.delta(delta)

    def conflict(self, paths: tuple[str, ...]) -> None:
        names = ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
        self.note(f"! changed by you and by the agent, kept as you have it: {names}", "yellow")

    async def consent(self, call: ToolCall, asked: Asked) -> Consent:
        asking = form(call, asked, self.width)
        self.lines.last_output = whole(call)  # Ctrl-O shows it
        self._bell()
        chosen = await self.choose("May it do this?", [text for _, text in asking.options], detail=asking.detail)
        if chosen is None:
            self._conversation.interrupt()
            return Consent(False, reason="the user interrupted")
        match asking.options[chosen][0]:
            case Choice.YES:
                return Consent(True)
            case Choice.ALWAYS:
                return Consent(True, always=asked.grants or ())
            case Choice.ALL_EDITS:
                self._conversation.choose(Mode.ACCEPT_EDITS)
                return Consent(True)
            case Choice.NO:
                return Consent(False)
            case Choice.NO_BECAUSE:
                return Consent(False, reason=(await self._prompt.ask("Tell it why"))[:2000])

    async def answer(self, question: Question) -> str:
        self._bell()
        if question.options:
            options = [one_line(option, self.width - 6) for option in question.options]
            chosen = await self.choose("Choose", [*options, "something else"])
            if chosen is not None and chosen < len(question.options):
                return question.options[chosen]
        await self._pause()
        return await self._prompt.ask("Your answer")

    # The work.

    @property
    def _conversation(self) -> Conversation:
        assert self._shown is not None, "not before run"
        return self._shown

    async def _to_its_end(self, showing: asyncio.Task[None]) -> None:
        """The application leaves the terminal as it found it once no other program has it, so whoever ends us ends
        such a program first."""
        try:
            await asyncio.wait({showing})
        finally:
            self._outside.end()
            showing.cancel()
            await asyncio.wait({showing})
        showing.result()

    async def _serve(self, begin: Callable[[], Awaitable[None]]) -> None:
        """Say what is in the queue, one after the other, for as long as the screen stands."""
        try:
            await begin()
            self._later(self._look_around())
            while True:
                while (text := self._conversation.unqueue()) is not None:
                    self.print(said(text))
                    await self.work(self._conversation.say(text))
                self._wake.clear()
                await self._wake.wait()
        except Exception:
            self.leave()  # Whoever called us says what it was.
            raise

    async def _look_around(self) -> None:
        """Read the folder while the user types: the first turn then finds most of it read."""
        await self._refresh_files()
        with suppress(GitError):  # The turn says what it is.
            await self._conversation.history.keep()

    async def _refresh_files(self) -> None:
        self._vocabulary.forget()
        self._vocabulary.files = await list_files(self._conversation.history.root)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Beside what goes on now; ends with the screen."""
        task = self._app.create_background_task(work)
        self._later_tasks.add(task)
        task.add_done_callback(self._later_tasks.discard)

    def _attached(self, pasted: str) -> str | None:
        """What stands for an image whose file was dropped; None where that was none, or the model takes none."""
        file = dropped(pasted)
        if file is None:
            return None
        try:
            return f"{self._conversation.attach(read_image(file), file.stem)} "
        except Failure as refused:
            self._say_briefly(f"a path as it is: {refused.message}")
            return None

    async def _edit(self) -> None:
        try:
            text = await self._outside.edit(self._prompt.whole, self._conversation.history.root)
        except OSError:
            text = None
        if text is None:
            self._say_briefly("the editor failed, or there is none; EDITOR names one")
        else:
            self._prompt.put(text)

    def _sent(self, text: str, steer: bool) -> None:
        self._later(self.submit(text, steer=steer))

    async def _pause(self) -> None:
        """Ask nothing in the middle of what the user types."""
        await self._scrollback.written()
        if self._prompt.buffer.text:
            self._status.notice = "a question waits until you stop typing"
            self._app.invalidate()
        try:
            await self._prompt.pause()
        finally:
            self._status.notice = ""

    def _bell(self) -> None:
        self._app.output.bell()

    def _say_briefly(self, notice: str) -> None:
        self._status.notice = notice
        self._app.invalidate()

        async def forget() -> None:
            await asyncio.sleep(2)
            if self._status.notice == notice:
                self._status.notice = ""
                self._app.invalidate()

        self._later(forget())

    # How it looks.

    def _container(self, typing: Condition) -> HSplit:
        status = FormattedTextControl(lambda: self._status.line(self._conversation, self.width))
        return HSplit(
            [
                _lines(self._live_lines),
                _lines(self._queue_lines),
                _lines(lambda: self._menu.lines(self.width)),
                ConditionalContainer(self._prompt.container(), typing),
                Window(status, height=1),
            ]
        )

    def _live_lines(self) -> StyleAndTextTuples:
        return [] if self._menu.open else self._live.lines(self.width, self._prompt.question)

    def _queue_lines(self) -> StyleAndTextTuples:
        queue = self._conversation.state.queue
        lines = [f"  ⋯ {one_line(text, self.width - 6)}" for text in queue[:_QUEUE_LINES]]
        if len(queue) > _QUEUE_LINES:
            lines.append(f"  ⋯ and {len(queue) - _QUEUE_LINES} more")
        return [("class:dim", "\n".join(lines))] if lines else []

    # What keys do, beside those of the prompt and the menu.

    def _keys(self, shown: Condition) -> KeyBindings:
        keys, typing = KeyBindings(), shown & ~is_searching

        @keys.add("s-tab")
        def _(event: KeyPressEvent) -> None:
            modes = tuple(Mode)
            at = modes.index(self._conversation.state.mode)
            self._conversation.choose(modes[(at + 1) % len(modes)])

        @keys.add("up", filter=typing & ~has_completions)
        def _(event: KeyPressEvent) -> None:
            buffer = self._prompt.buffer
            if not buffer.text and (text := self._conversation.unqueue(newest=True)) is not None:
                self._prompt.put(text)
            else:
                buffer.auto_up()

        @keys.add("c-o")
        def _(event: KeyPressEvent) -> None:
            self.note(self.lines.last_output or "(nothing to show)")

        @keys.add("c-l")
        def _(event: KeyPressEvent) -> None:
            self._app.renderer.clear()

        @keys.add("escape", filter=typing)
        def _(event: KeyPressEvent) -> None:
            self._escape()

        @keys.add("c-c", filter=~is_searching)
        @keys.add("<sigint>", filter=Condition(lambda: not self._outside.busy))
        def _(event: KeyPressEvent) -> None:
            self._interrupt_or_leave()

        @keys.add("c-v", filter=typing)
        def _(event: KeyPressEvent) -> None:
            self._later(self.attach(None))

        @keys.add("c-g", filter=typing)
        def _(event: KeyPressEvent) -> None:
            self._later(self._edit())

        @keys.add("c-d", filter=typing)
        def _(event: KeyPressEvent) -> None:
            if not self._prompt.buffer.text:
                self.leave()
            else:
                self._prompt.buffer.delete()

        return keys

    def _escape(self) -> None:
        now = time.monotonic()
        twice = now - self._escaped_at < 1.0
        self._escaped_at = now
        if self._prompt.buffer.complete_state:
            self._prompt.buffer.cancel_completion()
        elif self._conversation.busy:
            self._conversation.interrupt()
        elif twice:
            self._sent("/rewind", False)

    def _interrupt_or_leave(self) -> None:
        now = time.monotonic()
        if self._menu.open and not self._conversation.busy:
            self._menu.answer(None)
        elif self._conversation.busy and not self._conversation.unfinished:
            self._conversation.interrupt()
        elif self._prompt.buffer.text:
            self._prompt.buffer.reset()
        elif now - self._left_at < 2.0:
            self.leave()
            return
        else:
            self._say_briefly("Ctrl-C again to leave")
        self._left_at = now


def _lines(text: Callable[[], StyleAndTextTuples]) -> ConditionalContainer:
    """Lines that take no room while there are none."""
    window = Window(FormattedTextControl(text), dont_extend_height=True)
    return ConditionalContainer(window, Condition(lambda: bool(text())))
