"""The two streams of a command: results on standard output, everything else on standard error.

What a model or a repository wrote can hold escape sequences that would steer the reader's terminal; nothing of theirs
goes to a terminal except through :func:`printable`.
"""

import re
import sys
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

_BINARY = re.compile(r"^GIT binary patch\n(?:(?:literal|delta) \d+\n(?:.+\n)*\n?)+", re.MULTILINE)

_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Terminal:
    """``NO_COLOR``, ``FORCE_COLOR`` and redirection are honoured by rich itself."""

    out: Console
    err: Console
    quiet: bool = False
    """Nothing but results and errors."""

    def note(self, line: str | Text) -> None:
        """A line about what goes on."""
        if not self.quiet:
            line = line if isinstance(line, Text) else printable(line)
            self.err.print(line, highlight=False, markup=False, soft_wrap=True)

    def result(self, text: str) -> None:
        """The result, unchanged: for programs."""
        self.out.file.write(text if text.endswith("\n") or not text else f"{text}\n")
        self.out.file.flush()

    def patch(self, patch: str) -> None:
        """A diff: coloured for people and without the bytes of binary files, as it is into a pipe or file."""
        if not self.out.is_terminal:
            self.result(patch)
            return
        for line in readable(patch).splitlines():
            self.out.print(Text(printable(line), diff_style(line)), soft_wrap=True, highlight=False)


def open_terminal(*, quiet: bool = False, no_color: bool = False) -> Terminal:
    # None leaves it to NO_COLOR.
    colorless = True if no_color else None
    return Terminal(Console(file=sys.stdout, no_color=colorless), Console(file=sys.stderr, no_color=colorless), quiet)


def printable(text: str) -> str:
    """The text with every control character but tabs and line ends made visible.

    >>> printable("red: \\x1b[31m")
    'red: \\\\x1b[31m'
    """
    return "".join(
        c if c in "\n\t" or c.isprintable() or _joins(text, at) else ascii(c)[1:-1] for at, c in enumerate(text)
    )


def _joins(text: str, at: int) -> bool:
    """Whether this makes one emoji of two, or joins letters of a script that needs it: beside a letter of ASCII, or
    beside another one, it would only hide something."""
    around = text[max(at - 1, 0) : at] + text[at + 1 : at + 2]
    return text[at] in _JOINERS and len(around) == 2 and all(not c.isascii() and c.isprintable() for c in around)


def one_line(text: str, width: int) -> str:
    """The first line, printable, in at most ``width`` columns: of these a letter of Chinese takes two."""
    lines = text.strip().splitlines() or [""]
    line = printable(lines[0].replace("\t", " "))
    if cell_len(line) > width or len(lines) > 1:
        return f"{set_cell_size(line, min(cell_len(line), width - 1)).rstrip()}…"
    return line


def last_words(text: str, width: int) -> str:
    """The end of a text as one line, printable, in at most ``width`` columns."""
    line = printable(" ".join(text.split()))
    if cell_len(line) <= width:
        return line
    room, at = width - 1, len(line)
    while at and (room := room - cell_len(line[at - 1])) >= 0:
        at -= 1
    return f"…{line[at:]}"


def age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def readable(patch: str) -> str:
    """A diff for people: bytes of binary files say nothing to them, and there are many."""
    return _BINARY.sub("(a binary file)\n", patch)


def diff_style(line: str) -> str:
    """How a line of a diff looks."""
    if line.startswith(("+++ ", "--- ", "diff ", "index ", "new file", "deleted file")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
