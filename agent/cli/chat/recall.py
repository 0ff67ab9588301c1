"""What was typed before, in this conversation and in others."""

import re
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory

from agent.cli.chat.entry import Pastes

_BEGIN, _END = "\x02", "\x03"
"""Around a paste in the file (STX and ETX); no terminal lets them through as text."""

_KEPT = re.compile(f"{_BEGIN}(.*?){_END}", re.DOTALL)


class Recall(FileHistory):
    """The file holds what was pasted in full; whoever goes back to a line sees it folded, as it was."""

    def __init__(self, file: Path, pastes: Pastes) -> None:
        super().__init__(str(file))
        self._file = file
        self._pastes = pastes

    def load_history_strings(self) -> Iterable[str]:
        for text in super().load_history_strings():
            yield _KEPT.sub(lambda found: self._pastes.fold(found[1], "earlier paste"), text)

    def store_string(self, string: str) -> None:
        self._file.touch(mode=0o600)  # it holds private words
        super().store_string(self._pastes.unfold(string, _BEGIN, _END))
