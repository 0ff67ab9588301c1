"""Markdown as a terminal shows it best."""

from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.syntax import Syntax

_INDENT = "  "


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


class PlainMarkdown:
    """A text, or a part of one that came so far: indented, and with one blank line after it, whatever it ends with."""

    def __init__(self, text: str) -> None:
        self._markdown = _Markdown(text, hyperlinks=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        narrow = options.update(width=max(options.max_width - len(_INDENT), 1))
        lines = console.render_lines(self._markdown, narrow, pad=False)
        for end in (0, -1):
            while lines and not "".join(segment.text for segment in lines[end]).strip():
                lines.pop(end)
        for line in lines:
            yield Segment(_INDENT)
            yield from line
            yield Segment.line()
        yield Segment.line()
