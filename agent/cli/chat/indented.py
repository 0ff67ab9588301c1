"""Something with a mark before it, whose further lines stand below its first."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment


class Indented:
    """No line ends with spaces: whoever makes the window narrower would see them as blank lines."""

    def __init__(self, thing: RenderableType, mark: str = "  ", style: str = "") -> None:
        self._thing = thing
        self._mark = mark
        self._style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = cell_len(self._mark)
        narrow = options.update(width=max(options.max_width - width, 1))
        mark = Segment(self._mark, console.get_style(self._style))
        for line in self._lines(console, narrow):
            if line := _without_end(line):
                yield mark
                yield from line
            yield Segment.line()
            mark = Segment(" " * width)

    def _lines(self, console: Console, options: ConsoleOptions) -> Sequence[list[Segment]]:
        return console.render_lines(self._thing, options, pad=False)


def _without_end(line: list[Segment]) -> list[Segment]:
    while line:
        text, style, control = line[-1]
        if control or (style and (style.bgcolor or style.underline)):
            break
        line = line[:-1]
        if kept := text.rstrip(" "):
            return [*line, Segment(kept, style)]
    return line
