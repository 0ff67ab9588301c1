"""What the user types: words, folded pastes, files by ``@``, commands by ``/``."""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from agent.errors import GitError
from agent.git import git

_FOLD_LINES = 6
_FOLD_CHARS = 600
_MOST_FILES = 500_000
_MOST_SHOWN = 12

_PLACEHOLDER = re.compile(r"\[[a-z ]+ \d+: [\d,]+ (?:lines|characters)\]")

_CURSOR = re.compile(r"\x1b\[\d+;\d+R")
"""Where the cursor is: a terminal that was asked says so in the middle of what is pasted."""


class Pastes:
    """Long pastes stand in the input as a few words, and are put back when it is sent."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._num_named: Counter[str] = Counter()

    def fold(self, text: str, name: str = "paste") -> str:
        """What to show for a pasted text: itself, where it is short."""
        text = _CURSOR.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        lines = text.count("\n") + 1
        if lines < _FOLD_LINES and len(text) < _FOLD_CHARS:
            return text
        size = f"{lines} lines" if lines > 1 else f"{len(text):,} characters"
        self._num_named[name] += 1
        placeholder = f"[{name} {self._num_named[name]}: {size}]"
        self._texts[placeholder] = text
        return placeholder

    def unfold(self, text: str, before: str = "", after: str = "") -> str:
        """The text with what was pasted in it, each paste between ``before`` and ``after``."""
        return _PLACEHOLDER.sub(
            lambda found: f"{before}{self._texts[found[0]]}{after}" if found[0] in self._texts else found[0], text
        )


@dataclass(slots=True)
class Vocabulary:
    """What can be completed."""

    commands: Sequence[tuple[str, str]] = ()
    """Names with the slash, and what they do."""
    files: Sequence[str] = ()
    servers: Sequence[str] = ()
    """Names of programs that may have something to read."""
    ask: Callable[[str], Awaitable[Sequence[tuple[str, str]]]] | None = None
    """Asks one of them: addresses, and what each is."""
    _told: dict[str, Sequence[tuple[str, str]]] = field(default_factory=dict)

    async def resources(self, server: str) -> Sequence[tuple[str, str]]:
        """What a server has to read, as it said when it was asked first."""
        if server not in self._told and self.ask is not None:
            self._told[server] = await self.ask(server)
        return self._told.get(server, ())

    def forget(self) -> None:
        """The servers may have something else by now."""
        self._told.clear()


class Words(Completer):
    """Completes commands, files, and what other programs have to read."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        if re.fullmatch(r"/\S*", before):
            for name, meaning in self._vocabulary.commands:
                if _letters_of(before[1:]).match(name[1:]):
                    yield Completion(name, -len(before), display_meta=meaning)
        elif found := re.search(r"(?:^|\s)@(\S*)$", before):
            for server in self._vocabulary.servers:
                if found[1] and server.lower().startswith(found[1].lower()):
                    yield Completion(f"{server}:", -len(found[1]))
            for name in _best(found[1], self._vocabulary.files):
                yield Completion(name, -len(found[1]))

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        found = re.search(r"(?:^|\s)@([^\s:]+):(\S*)$", document.text_before_cursor)
        if found is None or found[1] not in self._vocabulary.servers:
            for completion in self.get_completions(document, complete_event):
                yield completion
            return
        about = dict(await self._vocabulary.resources(found[1]))
        for uri in _best(found[2], about):
            yield Completion(uri, -len(found[2]), display_meta=about[uri])


def _best(wanted: str, names: Iterable[str]) -> list[str]:
    """Those that have the letters of ``wanted``: names that hold it as it is, then short ones."""
    letters = _letters_of(wanted)
    matching = [name for name in names if letters.match(name)]
    matching.sort(key=lambda name: (wanted.lower() not in name.lower(), len(name)))
    return matching[:_MOST_SHOWN]


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
