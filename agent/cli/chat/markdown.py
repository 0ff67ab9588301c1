"""Markdown as a terminal shows it best."""

from collections.abc import Sequence
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.syntax import Syntax

from agent.cli.chat.indented import Indented


class _Heading(Heading):
    """Left, as all else in a terminal."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.stylize("bold")
        yield self.text


class _CodeBlock(CodeBlock):
    """In the terminal's own colours, on its own background, with nothing around it that would be copied too."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(
            code, self.lexer_name, theme="ansi_light", background_color="default", word_wrap=True, padding=(0, 2)
        )


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
    }


class PlainMarkdown(Indented):
    """A text, or a part of one that came so far: between blank lines, whatever it begins and ends with."""

    def __init__(self, text: str) -> None:
        super().__init__(_Markdown(text, hyperlinks=False))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment.line()
        yield from super().__rich_console__(console, options)
        yield Segment.line()

    def _lines(self, console: Console, options: ConsoleOptions) -> Sequence[list[Segment]]:
        lines = list(super()._lines(console, options))
        for end in (0, -1):
            while lines and not "".join(segment.text for segment in lines[end]).strip():
                lines.pop(end)
        return lines
