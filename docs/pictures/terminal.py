"""``python -m docs.pictures.terminal``: a conversation with the shipped model, as a terminal shows it.

Writes docs/pictures/conversation-*.svg: the program runs on a real pseudo-terminal, and its screen is drawn as it is.
"""

import asyncio
import io
import re
import tempfile
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from evals.repository import write_repository
from evals.suite import eval_task, nano_heldout
from tests.integration.chat.terminal import ENTER, Terminal

_FOLDER = Path(__file__).parent
_COLUMNS, _ROWS = 96, 19


def main() -> None:
    exercise = eval_task(nano_heldout("heldout_names", 1)[0])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        asyncio.run(write_repository(exercise, root))
        options = {"home": Path(folder, "home"), "columns": _COLUMNS, "rows": _ROWS}
        with Terminal("--repo", root, **options) as terminal:  # type: ignore[arg-type]
            terminal.see("/help")
            terminal.type("\x1b[200~" + exercise.problem_statement.strip() + "\x1b[201~", ENTER)
            terminal.see("May it do this?")
            _draw(terminal, "conversation-question.svg")
            _say_yes_until_done(terminal)
            _draw(terminal, "conversation-answer.svg")


def _say_yes_until_done(terminal: Terminal) -> None:
    while "May it do this?" in terminal.screen:
        terminal.type("1")
        terminal.see_no_more("May it do this?")
        terminal.see_either("May it do this?", "tokens · /help")


def _draw(terminal: Terminal, name: str) -> None:
    console = Console(width=_COLUMNS, record=True, file=io.StringIO())
    for row in terminal.cells:
        console.print(_line(row), no_wrap=True, overflow="crop", crop=True)
    drawn = console.export_svg(title="mimo", unique_id="mimo")
    # A page that shows the picture must fetch nothing from elsewhere.
    (_FOLDER / name).write_text(re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL), "utf-8")


def _line(row: list[pyte.screens.Char]) -> Text:
    line = Text()
    for cell in row:
        line.append(cell.data, Style(color=_color(cell.fg), bgcolor=_color(cell.bg), bold=cell.bold))
    line.rstrip()
    return line


def _color(name: str) -> str | None:
    """As rich calls it; None is the terminal's own."""
    if name == "default":
        return None
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return name.replace("brown", "yellow").replace("bright", "bright_")


if __name__ == "__main__":
    main()
