"""A question with numbered answers, in the place of the prompt."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.text import Text

_STYLES = {"bold": "class:title", "dim": "class:dim", "red": "fg:ansired", "green": "fg:ansigreen"}
"""What rich's styles are called here."""


@dataclass(slots=True)
class _Question:
    title: Sequence[Text]
    options: Sequence[str]
    answer: "asyncio.Future[int | None]"
    pointed_at: int = 0
    moved: bool = False
    """By the arrow keys."""


class Menu:
    """Shown while something is asked."""

    def __init__(self, redraw: Callable[[], None], typing: Callable[[], bool]) -> None:
        """
        Args:
            typing: whether the user is in the middle of words, begun before the question or after; Enter, which was
                meant for these, then means nothing.
        """
        self._redraw = redraw
        self._typing = typing
        self._question: _Question | None = None

    @property
    def open(self) -> bool:
        return self._question is not None

    async def choose(self, title: str, options: Sequence[str], *, detail: Sequence[Text] = ()) -> int | None:
        """Ask for one of the options, by number or by the arrow keys; None where the user leaves it."""
        head = [Text(title, "bold"), *detail]
        self._question = _Question(head, options, asyncio.get_running_loop().create_future())
        self._redraw()
        try:
            return await self._question.answer
        finally:
            self._question = None
            self._redraw()

    def answer(self, chosen: int | None) -> None:
        if self._question is not None and not self._question.answer.done():
            self._question.answer.set_result(chosen)

    def lines(self, width: int) -> StyleAndTextTuples:
        question = self._question
        if question is None:
            return []
        title, *detail = question.title
        lines = [*_wrapped(title, width, ""), *(line for each in detail for line in _wrapped(each, width, "  "))]
        chosen = self._chosen(question)
        for at, option in enumerate(question.options):
            text = Text(option, "bold" if at == chosen else "")
            lines += _wrapped(text, width, f"{'❯' if at == chosen else ' '} {at + 1}. ")
        return [(style, line if at == 0 else f"\n{line}") for at, (style, line) in enumerate(lines)]

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
            if (chosen := self._chosen(self._question)) is not None:
                self.answer(chosen)

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
        question = self._question
        assert question is not None
        at = self._chosen(question)
        first = 0 if step > 0 else -1
        question.pointed_at = (first if at is None else at + step) % len(question.options)
        question.moved = True

    def _chosen(self, question: _Question) -> int | None:
        """What Enter means; None: nothing yet."""
        return question.pointed_at if question.moved or not self._typing() else None


def _wrapped(text: Text, width: int, mark: str) -> list[tuple[str, str]]:
    """The lines of a text with a mark before it, each with its style."""
    wrapped = text.wrap(Console(width=width), max(width - len(mark), 1))
    marks = (mark, " " * len(mark))
    return [(_STYLES.get(str(text.style), ""), f"{marks[at > 0]}{line.plain}") for at, line in enumerate(wrapped)]
