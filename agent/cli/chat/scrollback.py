"""What is over: printed once above the live lines, and never drawn again."""

import asyncio
import io

from prompt_toolkit.application import Application, run_in_terminal
from rich.console import Console, RenderableType
from rich.text import Text

from agent.cli.chat.indented import Indented
from agent.cli.chat.keyboard import keep_keys
from agent.cli.terminal import printable


class Scrollback:
    """The terminal above the application."""

    def __init__(self, app: Application[None], *, no_color: bool) -> None:
        self._app = app
        self._no_color = no_color
        self._waiting: list[str] = []
        self._after_blank = False
        """The newest line is blank."""
        self._printing: asyncio.Task[None] | None = None

    @property
    def width(self) -> int:
        return max(self._app.output.get_size().columns, 20)

    def print(self, *things: RenderableType) -> None:
        """Below what was printed before; of blank lines between the two, one is kept."""
        out = io.StringIO()
        console = Console(
            file=out,
            width=self.width,
            force_terminal=True,
            no_color=self._no_color,
            color_system=None if self._no_color else "auto",
            highlight=False,
            legacy_windows=False,
        )
        for thing in things:
            console.print(thing, soft_wrap=False)
        text = out.getvalue()
        self._waiting.append(text.lstrip("\n") if self._after_blank else text)
        self._after_blank = f"\n{text}".endswith("\n\n")
        if self._printing is None or self._printing.done():
            self._printing = asyncio.ensure_future(self._flush())

    def note(self, text: str, style: str = "dim") -> None:
        """A line of ours."""
        self.print(Indented(Text(printable(text), style)))

    def interrupted(self) -> None:
        """Somebody else wrote to the terminal."""
        self._after_blank = False

    async def written(self) -> None:
        """Wait until all of it is on the screen."""
        if self._printing is not None:
            await self._printing

    def close(self) -> None:
        """Print what still waits, now that the application is gone."""
        if self._printing is not None:
            self._printing.cancel()
        self._write_waiting()

    async def _flush(self) -> None:
        keep_keys()
        while self._waiting:
            if not self._app.is_running:
                self._write_waiting()
            elif self._app.is_done:
                return  # Its lines stand there yet; close() prints the rest once it has taken them away.
            else:
                await run_in_terminal(self._write_waiting)

    def _write_waiting(self) -> None:
        text = "".join(self._waiting)
        self._waiting.clear()
        self._app.output.write_raw(text.replace("\n", "\r\n"))
        self._app.output.flush()
