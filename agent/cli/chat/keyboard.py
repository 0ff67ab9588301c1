"""The keys of the user's terminal, while lines are printed too."""

import sys
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

from prompt_toolkit.input.vt100 import Vt100Input

_only_prints: ContextVar[bool] = ContextVar("_only_prints", default=False)


def keep_keys() -> None:
    """What this task, and those that it starts, do above the screen only prints: keys stay keys meanwhile."""
    _only_prints.set(True)


class Keyboard(Vt100Input):
    """Whoever has the terminal for itself, such as an editor, gets it as programs expect it. There an Enter is the end
    of a line and Ctrl-C a signal, so for a line that is printed it stays as it is."""

    def __init__(self) -> None:
        super().__init__(sys.stdin)

    def cooked_mode(self) -> AbstractContextManager[None]:
        return nullcontext() if _only_prints.get() else super().cooked_mode()
