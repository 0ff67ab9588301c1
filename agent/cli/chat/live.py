"""What goes on now, in a few lines below the scrollback."""

import time

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.cells import cell_len

from agent.cli.chat.lines import Stream, tokens
from agent.cli.terminal import last_words, one_line, printable

_LINES = 6
"""Most lines of what goes on: a fixed budget, so that nothing jumps."""

_THOUGHT_CHARS = 400
"""Of what is thought, so much is kept: more than any line shows."""

_THOUGHT_WIDTH = 24
"""Columns that the words of a thought have before numbers have any."""

_TURNING = "⠋⠙⠹⠸⠼⠴⠦⠧"


class Live:
    """What the agent does, since when, and the part of its answer that is not complete enough to be printed."""

    def __init__(self) -> None:
        self.doing = ""
        """Empty where nothing goes on."""
        self.num_pieces = 0
        """Of the answer, that came since this began."""
        self.stream = Stream()
        self._thought = ""
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long this has gone on."""
        return time.monotonic() - self._since

    def begin(self, what: str) -> None:
        self.doing, self.num_pieces, self._thought, self._since = what, 0, "", time.monotonic()

    def count(self, what: str) -> None:
        """One more piece of an answer."""
        if not self.doing.startswith(what):
            self.begin(what)
        self.num_pieces += 1

    def think(self, text: str) -> None:
        """One more piece of a thought."""
        self.count("thinking")
        self._thought = (self._thought + text)[-_THOUGHT_CHARS:]

    def lines(self, width: int, question: str) -> StyleAndTextTuples:
        """
        Args:
            question: what the user is asked for in words; empty where nothing is asked.
        """
        if not (self.doing or question):
            return []
        text = [line for line in printable(self.stream.open).splitlines() if line.strip()]
        lines: StyleAndTextTuples = [("", f"  {one_line(line, width - 4)}\n") for line in text[-(_LINES - 1) :]]
        lines.append(("class:title", f"  {question}:") if question else ("class:dim", self._facts(width)))
        return lines

    def _facts(self, width: int) -> str:
        """What goes on, since when, and as much of the rest as there is room for."""
        seconds = self.seconds
        facts = [self.doing]
        if seconds >= 1:
            facts.append(f"{seconds:.0f} s")
        numbers = [tokens(self.num_pieces)] if self.num_pieces else []
        if self.num_pieces and seconds >= 1:
            numbers.append(f"{self.num_pieces / seconds:.0f} tokens/s")
        mark = _TURNING[int(time.monotonic() * 4) % len(_TURNING)]
        needed = _THOUGHT_WIDTH if self._thought else 0
        for number in numbers:
            if cell_len(f"  {mark} {' · '.join([*facts, number])} · ") + needed < width:
                facts.append(number)
        line = f"{mark} {' · '.join(facts)}"
        if self._thought:
            line += f" · {last_words(self._thought, width - len(line) - 6)}"
        return f"  {one_line(line, width - 3)}"
