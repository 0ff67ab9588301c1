"""A question with numbered answers, in the place of the prompt."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


@dataclass(slots=True)
class _Question:
    title: StyleAndTextTuples
    options: Sequence[str]
    answer: "asyncio.Future[int | None]"
    chosen: int
    """What Enter means; -1: nothing yet."""


class Menu:
    """Shown while something is asked."""

    def __init__(self, redraw: Callable[[], None], typing: Callable[[], bool]) -> None:
        """
        Args:
            typing: whether the user is in the middle of words; then Enter, which was meant for these, means nothing.
        """
        self._redraw = redraw
        self._typing = typing
        self._question: _Question | None = None

    @property
    def open(self) -> bool:
        return self._question is not None

    async def choose(self, title: str, options: Sequence[str], *, detail: Sequence[str] = ()) -> int | None:
        """Ask for one of the options, by number or by the arrow keys; None where the user leaves it."""
        head: StyleAndTextTuples = [("class:title", title)]
        head.extend(("", f"\n  {line}") for line in detail)
        first = -1 if self._typing() else 0
        self._question = _Question(head, options, asyncio.get_running_loop().create_future(), first)
        self._redraw()
        try:
            return await self._question.answer
        finally:
            self._question = None
            self._redraw()

    def answer(self, chosen: int | None) -> None:
        if self._question is not None and not self._question.answer.done():
            self._question.answer.set_result(chosen)

    def lines(self) -> StyleAndTextTuples:
        question = self._question
        if question is None:
            return []
        lines: StyleAndTextTuples = [*question.title]
        for at, option in enumerate(question.options):
            mark = "❯" if at == question.chosen else " "
            lines.append(("class:title" if at == question.chosen else "", f"\n{mark} {at + 1}. {option}"))
        return lines

    def keys(self) -> KeyBindings:
        keys = KeyBindings()
        open_ = Condition(lambda: self.open)

        @keys.add("up", filter=open_)
        def _(event: KeyPressEvent) -> None:
            self._move(-1)

        @keys.add("down", filter=open_)
        def _(event: KeyPressEvent) -> None:
            self._move(1)

        @keys.add("enter", filter=open_)
        def _(event: KeyPressEvent) -> None:
            assert self._question is not None
            if self._question.chosen >= 0:
                self.answer(self._question.chosen)

        @keys.add("escape", filter=open_)
        def _(event: KeyPressEvent) -> None:
            self.answer(None)

        for digit in "123456789":

            @keys.add(digit, filter=open_)
            def _(event: KeyPressEvent) -> None:
                assert self._question is not None
                if (chosen := int(event.data) - 1) < len(self._question.options):
                    self.answer(chosen)

        return keys

    def _move(self, step: int) -> None:
        assert self._question is not None
        at = self._question.chosen
        if at < 0 < step:
            self._question.chosen = 0
        else:
            self._question.chosen = (max(at, 0) + step) % len(self._question.options)
