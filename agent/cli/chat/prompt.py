"""The line the user types in: history, completion, folded pastes, the editor; and questions answered in words."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Always, Filter, has_completions, is_searching
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
from prompt_toolkit.widgets import SearchToolbar

from agent.cli.chat.conversation import MAX_WORDS_CHARS
from agent.cli.chat.entry import Pastes, Vocabulary, Words
from agent.cli.chat.recall import Recall

_PAUSE_S = 1.0
"""Whoever has typed nothing for so long is not in the middle of a word."""


class Prompt:
    """What is typed, until it is sent."""

    def __init__(
        self,
        history: Path,
        vocabulary: Vocabulary,
        *,
        redraw: Callable[[], None],
        on_send: Callable[[str, bool], None],
        on_refusal: Callable[[str], None],
        on_paste: Callable[[str], str | None],
    ) -> None:
        """
        Args:
            history: file of what was typed before.
            vocabulary: for completion.
            on_send: is given what was sent, and whether it is for the turn that is under way.
            on_refusal: is told why something is not sent.
            on_paste: what to write in the place of something pasted; None where that is itself.
        """
        self._pastes = Pastes()
        self.buffer = Buffer(
            multiline=True,
            history=Recall(history, self._pastes),
            completer=Words(vocabulary),
            complete_while_typing=True,
            on_text_changed=self._touch,
        )
        self._touched_at = 0.0
        self._redraw = redraw
        self._on_send = on_send
        self._on_refusal = on_refusal
        self._on_paste = on_paste
        self._question = ""
        self._answer: asyncio.Future[str] | None = None

    @property
    def question(self) -> str:
        """What the next line answers; empty where nothing is asked."""
        return self._question

    @property
    def whole(self) -> str:
        """What stands in the line, with what was pasted."""
        return self._pastes.unfold(self.buffer.text)

    async def pause(self) -> None:
        """Wait until the user is not in the middle of words: a key that was meant for these answers no question."""
        # Keys that wait on the terminal are read between one turn of the loop and the next.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        while self.buffer.text:
            left_s = self._touched_at + _PAUSE_S - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(left_s)

    async def ask(self, what: str) -> str:
        """Have the next line answer this; one that was begun before is there again afterwards."""
        begun = self.buffer.text
        self.buffer.reset()
        self._question, self._answer = what, asyncio.get_running_loop().create_future()
        self._redraw()
        try:
            return await self._answer
        finally:
            self._question, self._answer = "", None
            if begun:
                self.put(begun)

    def put(self, text: str) -> None:
        """Into the line, to be changed and sent."""
        self.buffer.text = text
        self.buffer.cursor_position = len(text)

    def insert(self, text: str) -> None:
        """Into the line, where the cursor is."""
        self.buffer.insert_text(text)

    def container(self) -> HSplit:
        mark = FormattedTextControl(lambda: [("class:title", "? " if self._answer else "> ")])
        search = SearchToolbar(
            ignore_case=True, forward_search_prompt="typed later: ", backward_search_prompt="typed before: "
        )
        typed = Window(
            BufferControl(self.buffer, search_buffer_control=search.control, preview_search=True),
            height=Dimension(min=1, max=8),
            dont_extend_height=True,
            wrap_lines=True,
        )
        completions = CompletionsMenu(max_height=8)
        assert isinstance(completions.content, Window), completions.content
        completions.content.dont_extend_height = Always()  # A longer list before it leaves no empty lines.
        return HSplit(
            [
                Window(height=1, char="─", style="class:rule"),
                VSplit([Window(mark, dont_extend_width=True, width=2), typed]),
                ConditionalContainer(completions, has_completions),
                search,
            ]
        )

    def keys(self, shown: Filter) -> KeyBindings:
        """
        Args:
            shown: whether the keys are the prompt's now.
        """
        shown = shown & ~is_searching
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
            buffer.insert_text(self._on_paste(event.data) or self._pastes.fold(event.data))

        return keys

    def _touch(self, _: Buffer) -> None:
        self._touched_at = time.monotonic()

    def _send(self, *, steer: bool) -> None:
        text = self.whole.strip()
        if not text and not self._answer:
            return
        if len(text) > MAX_WORDS_CHARS:
            self._on_refusal(f"{len(text):,} characters are too many ({MAX_WORDS_CHARS:,}): use a file and @")
            return
        self.buffer.append_to_history()
        self.buffer.reset()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(text)
        else:
            self._on_send(text, steer)
