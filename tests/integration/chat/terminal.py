"""A terminal without a window: the program runs on a pseudo-terminal, and the screen is what a person would see."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

ENTER, ESCAPE, TAB, UP, SHIFT_TAB, BACKSPACE = "\r", "\x1b", "\t", "\x1b[A", "\x1b[Z", "\x7f"
CTRL_C, CTRL_D, CTRL_G, CTRL_O, CTRL_R, CTRL_S, CTRL_V = "\x03", "\x04", "\x07", "\x0f", "\x12", "\x13", "\x16"

_WRITE = ("1", "64")
"""Number of the system call, on x86-64 and arm64."""

_PATIENCE_S = 120.0
"""How long something may take to appear; machines are slow and busy."""


class Terminal:
    """``mimo`` with these arguments. Use in ``with``."""

    def __init__(self, *arguments: object, home: Path, columns: int = 100, rows: int = 40, **environment: str) -> None:
        self._screen = _Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        control, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._control = control
        self._screen.answer = lambda data: os.write(control, data.encode())
        self._process = subprocess.Popen(
            # Who runs the tests in the background of a shell has Ctrl-C ignored, and hands that on.
            ["env", "--default-signal=INT", sys.executable, "-m", "agent.cli.app", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("MIMO_", "NO_COLOR"))},
                "TERM": "xterm-256color",
                "MIMO_HOME": str(home),
                **environment,
            },
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._control)

    @property
    def text(self) -> str:
        """All there is to read, what was scrolled away included."""
        gone = [_line(row, self._screen.columns) for row in self._screen.history.top]
        return "\n".join([*gone, *(line.rstrip() for line in self._screen.display)])

    @property
    def screen(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def cells(self) -> list[list[pyte.screens.Char]]:
        """The screen, row by row."""
        return [
            [self._screen.buffer[row][column] for column in range(self._screen.columns)]
            for row in range(self._screen.lines)
        ]

    @property
    def colors(self) -> set[str]:
        cells = (cell for row in self._screen.buffer.values() for cell in row.values())
        return {color for cell in cells for color in (cell.fg, cell.bg)}

    def type(self, *keys: str) -> None:
        for key in keys:
            os.write(self._control, key.encode())

    def paste(self, text: str) -> None:
        """Any amount of it: it goes in while what comes out is read."""
        data = memoryview(f"\x1b[200~{text}\x1b[201~".encode())

        def write() -> None:
            at = 0
            while at < len(data):
                at += os.write(self._control, data[at : at + 4096])

        threading.Thread(target=write, daemon=True).start()

    def fill(self) -> None:
        """Read nothing until the program waits for room to write more."""
        syscall, deadline = Path(f"/proc/{self._process.pid}/syscall"), time.monotonic() + _PATIENCE_S
        seen = ""
        while time.monotonic() < deadline:
            time.sleep(0.2)
            before, seen = seen, syscall.read_text("ascii")
            if seen == before and seen.split()[0] in _WRITE:  # the same call, with the same arguments
                return
        raise AssertionError(f"the program never waits to write: {seen}")

    def see(self, text: str, *, times: int = 1) -> None:
        """Wait until it can be read."""
        for _ in self._reading():
            if self.text.count(text) >= times:
                return
        raise AssertionError(f"{text!r} does not appear:\n{self.text}")

    def see_either(self, *texts: str) -> str:
        """Wait until one of them is on the screen."""
        for _ in self._reading():
            if found := next((text for text in texts if text in self.screen), None):
                return found
        raise AssertionError(f"none of {texts} appears:\n{self.screen}")

    def see_no_more(self, text: str) -> None:
        """Wait until it is not on the screen."""
        for _ in self._reading():
            if text not in self.screen:
                return
        raise AssertionError(f"{text!r} stays:\n{self.screen}")

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        for _ in self._reading():
            pass
        return self._process.wait(_PATIENCE_S)

    def send(self, number: signal.Signals) -> None:
        """A signal, to the program alone."""
        self._process.send_signal(number)

    @property
    def settings(self) -> list[Any]:
        """Of the terminal, as termios(3) has them."""
        return termios.tcgetattr(self._control)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _reading(self) -> Iterator[None]:
        """Take in what comes, until there is no more or patience ends."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            yield
            if not select.select([self._control], [], [], 0.2)[0]:
                continue
            with contextlib.suppress(OSError):  # how Linux says that the other side is closed
                if data := os.read(self._control, 65_536):
                    self.raw += data
                    self._stream.feed(data)
                    continue
            yield
            return


class _Screen(pyte.HistoryScreen):
    def __init__(self, columns: int, rows: int) -> None:
        super().__init__(columns, rows, history=10_000)
        self.answer: Any = lambda data: None

    def write_process_input(self, data: str) -> None:
        self.answer(data)


def _line(row: Any, columns: int) -> str:
    return "".join(row[column].data for column in range(columns)).rstrip()
