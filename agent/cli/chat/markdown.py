"""Markdown as a terminal shows it best."""

from collections.abc import Sequence
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.theme import Theme

from agent.cli.chat.indented import Indented

_THEME = Theme(
    {
        "markdown.code": "bold cyan",
        "markdown.link": "underline",
        "markdown.link_url": "cyan",
    }
)
"""Where rich takes a background to be dark, or takes dark blue, which cannot be read there."""

_CODE = ANSISyntaxTheme(
    {
        ("Comment",): Style(dim=True),
        ("Keyword",): Style(color="magenta"),
        ("String",): Style(color="green"),
        ("Number",): Style(color="cyan"),
        ("Name", "Function"): Style(bold=True),
        ("Name", "Class"): Style(bold=True),
        ("Generic", "Deleted"): Style(color="red"),
        ("Generic", "Inserted"): Style(color="green"),
    }
)
"""Colours that can be read on light and on dark."""


class _Heading(Heading):
    """Left, as all else in a terminal."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.stylize("bold")
        yield self.text


class _CodeBlock(CodeBlock):
    """On the terminal's own background, with nothing around it that would be copied too."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme=_CODE, word_wrap=True, padding=(0, 2))


class _Table(TableElement):
    """Without the blank lines that rich draws as its edges."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for drawn in super().__rich_console__(console, options):
            if isinstance(drawn, Table):
                drawn.show_edge = False
            yield drawn


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "table_open": _Table,
    }


class PlainMarkdown(Indented):
    """A text, or a part of one that came so far: between blank lines, whatever it begins and ends with."""

    def __init__(self, text: str) -> None:
        super().__init__(_Markdown(text, hyperlinks=False))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment.line()
        with console.use_theme(_THEME):
            yield from super().__rich_console__(console, options)
        yield Segment.line()

    def _lines(self, console: Console, options: ConsoleOptions) -> Sequence[list[Segment]]:
        lines = list(super()._lines(console, options))
        for end in (0, -1):
            while lines and not "".join(segment.text for segment in lines[end]).strip():
                lines.pop(end)
        return lines
