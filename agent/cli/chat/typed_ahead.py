"""What was typed before there was a prompt to take it."""

import copy
import os
import re
import sys
import termios

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""What a key sends that writes no letter (ECMA-48, section 5.4)."""


class TypedAhead:
    """Collects it, so that it answers no question that was not read, and is sent by nobody but its user."""

    def __init__(self) -> None:
        self._text = ""

    @property
    def text(self) -> str:
        """All so far, without what ended its last line."""
        return self._text.rstrip("\n")

    def take(self) -> None:
        """Take in what waits on the terminal; nothing where there is none."""
        given = sys.stdin.fileno()
        if not os.isatty(given):
            return
        before = termios.tcgetattr(given)
        at_once = copy.deepcopy(before)
        at_once[3] &= ~termios.ICANON
        at_once[6][termios.VMIN] = at_once[6][termios.VTIME] = 0  # a read never waits (termios(3))
        termios.tcsetattr(given, termios.TCSANOW, at_once)
        try:
            data = b""
            while piece := os.read(given, 65_536):
                data += piece
        finally:
            termios.tcsetattr(given, termios.TCSANOW, before)
        text = _SEQUENCE.sub("", data.decode("utf-8", "ignore").replace("\r", "\n"))
        self._text += "".join(letter for letter in text if letter == "\n" or letter.isprintable())
