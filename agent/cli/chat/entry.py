"""What the user types: words, folded pastes, files by ``@``, commands by ``/``."""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from agent.errors import GitError
from agent.git import git

_FOLD_LINES = 6
_FOLD_CHARS = 600
_MOST_FILES = 500_000
_MOST_SHOWN = 12

_CURSOR = re.compile(r"\x1b\[\d+;\d+R")
"""Where the cursor is: a terminal that was asked says so in the middle of what is pasted."""


class Pastes:
    """Long pastes stand in the input as a few words, and are put back when it is sent."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """What to show for a pasted text: itself, where it is short."""
        text = _CURSOR.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        lines = text.count("\n") + 1
        if lines < _FOLD_LINES and len(text) < _FOLD_CHARS:
            return text
        size = f"{lines} lines" if lines > 1 else f"{len(text):,} characters"
        placeholder = f"[paste {len(self._texts) + 1}: {size}]"
        self._texts[placeholder] = text
        return placeholder

    def unfold(self, text: str) -> str:
        for placeholder, pasted in self._texts.items():
            text = text.replace(placeholder, pasted)
        return text


class Words(Completer):
    """Completes commands and files."""

    def __init__(self, commands: Callable[[], Sequence[tuple[str, str]]], files: Callable[[], Iterable[str]]) -> None:
        """
        Args:
            commands: names with the slash, and what they do.
        """
        self._commands = commands
        self._files = files

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        if re.fullmatch(r"/\S*", before):
            for name, meaning in self._commands():
                if _letters_of(before[1:]).match(name[1:]):
                    yield Completion(name, -len(before), display_meta=meaning)
        elif found := re.search(r"(?:^|\s)@(\S*)$", before):
            yield from self._complete_file(found[1])

    def _complete_file(self, wanted: str) -> Iterable[Completion]:
        letters = _letters_of(wanted)
        matching = [name for name in self._files() if letters.match(name)]
        # Names that hold it as it is, then short ones.
        matching.sort(key=lambda name: (wanted.lower() not in name.lower(), len(name)))
        for name in matching[:_MOST_SHOWN]:
            yield Completion(name, -len(wanted))


def _letters_of(wanted: str) -> re.Pattern[str]:
    """Matches names that have all letters of ``wanted`` in their order; in C, for there may be 100,000 names."""
    return re.compile("".join(f"[^{letter}]*{letter}" for letter in map(re.escape, wanted)), re.IGNORECASE | re.DOTALL)


async def list_files(root: Path) -> list[str]:
    """Files that git would show, or simply files where there is no git; for completion only."""
    try:
        listing = await git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root)
    except GitError:
        return await asyncio.to_thread(_walk, root)
    return [name.decode(errors="replace") for name in listing.split(b"\0")[:-1]][:_MOST_FILES]


def _walk(root: Path) -> list[str]:
    looked_at = itertools.islice(root.rglob("*"), _MOST_FILES // 100)
    return [str(path.relative_to(root)) for path in looked_at if path.is_file()]
