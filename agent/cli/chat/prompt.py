"""The line the user types in: history, completion, folded pastes, the editor; and questions answered in words."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Filter, has_completions
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    VSplit,
    Window,
)
from prompt_toolkit.layout.menus import CompletionsMenu

from agent.cli.chat.conversation import MAX_WORDS_CHARS
from agent.cli.chat.entry import Pastes, Words


class Prompt:
    """What is typed, until it is sent."""

    def __init__(
        self,
        history: Path,
        commands: Callable[[], Sequence[tuple[str, str]]],
        files: Callable[[], Iterable[str]],
        *,
        redraw: Callable[[], None],
        on_send: Callable[[str, bool], None],
        on_refusal: Callable[[str], None],
    ) -> None:
        """
        Args:
            history: file of what was typed before.
            commands: names and meanings, for completion.
            files: paths, for completion.
            on_send: is given what was sent, and whether it is for the turn that is under way.
            on_refusal: is told why something is not sent.
        """
        self.buffer = Buffer(
            multiline=True,
            history=FileHistory(str(history)),
            completer=Words(commands, files),
            complete_while_typing=True,
        )
        self._redraw = redraw
        self._on_send = on_send
        self._on_refusal = on_refusal
        self._pastes = Pastes()
        self._question = ""
        self._answer: asyncio.Future[str] | None = None
        self._editing: asyncio.Task[None] | None = None

    @property
    def question(self) -> str:
        """What the next line answers; empty where nothing is asked."""
        return self._question

    async def ask(self, what: str) -> str:
        """Have the next line answer this."""
        self._question, self._answer = what, asyncio.get_running_loop().create_future()
        self._redraw()
        try:
            return await self._answer
        finally:
            self._question, self._answer = "", None

    def put(self, text: str) -> None:
        """Into the line, to be changed and sent."""
        self.buffer.text = text
        self.buffer.cursor_position = len(text)

    def container(self) -> HSplit:
        mark = FormattedTextControl(lambda: [("class:title", "? " if self._answer else "> ")])
        typed = Window(
            BufferControl(self.buffer), height=Dimension(min=1, max=8), dont_extend_height=True, wrap_lines=True
        )
        return HSplit(
            [
                Window(height=1, char="─", style="class:rule"),
                VSplit([Window(mark, dont_extend_width=True, width=2), typed]),
                ConditionalContainer(CompletionsMenu(max_height=8), has_completions),
            ]
        )

    def keys(self, shown: Filter) -> KeyBindings:
        """
        Args:
            shown: whether the keys are the prompt's now.
        """
        keys = KeyBindings()
        buffer = self.buffer

        @keys.add("enter", filter=shown & ~has_completions)
        def _(event: KeyPressEvent) -> None:
            self._send(steer=False)

        @keys.add("enter", filter=shown & has_completions)
        def _(event: KeyPressEvent) -> None:
            state = buffer.complete_state
            if state is not None and state.current_completion is not None:
                buffer.apply_completion(state.current_completion)
            else:
                buffer.cancel_completion()
                self._send(steer=False)

        @keys.add("c-s", filter=shown)
        def _(event: KeyPressEvent) -> None:
            self._send(steer=True)

        @keys.add("escape", "enter", filter=shown)
        @keys.add("c-j", filter=shown)
        def _(event: KeyPressEvent) -> None:
            buffer.insert_text("\n")

        @keys.add("tab", filter=shown)
        def _(event: KeyPressEvent) -> None:
            if buffer.complete_state:
                buffer.complete_next()
            else:
                buffer.start_completion(select_first=True)

        @keys.add("down", filter=shown & ~has_completions)
        def _(event: KeyPressEvent) -> None:
            buffer.auto_down()

        @keys.add(Keys.BracketedPaste, filter=shown)
        def _(event: KeyPressEvent) -> None:
            buffer.insert_text(self._pastes.fold(event.data))

        @keys.add("c-g", filter=shown)
        def _(event: KeyPressEvent) -> None:
            buffer.text = self._pastes.unfold(buffer.text)
            self._editing = buffer.open_in_editor()

        return keys

    def _send(self, *, steer: bool) -> None:
        text = self._pastes.unfold(self.buffer.text).strip()
        if not text and not self._answer:
            return
        if len(text) > MAX_WORDS_CHARS:
            self._on_refusal(f"{len(text):,} characters are too many ({MAX_WORDS_CHARS:,}): use a file and @")
            return
        if len(self.buffer.text) < MAX_WORDS_CHARS:
            self.buffer.append_to_history()
        self.buffer.reset()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(text)
        else:
            self._on_send(text, steer)
