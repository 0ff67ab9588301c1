"""A patch as the page shows it: per file, each line with its numbers before and after.

Names and counts are git's (:func:`agent.api.diff.changed_files`); here lines are only told apart by their first
character, which is all a unified diff has to say about them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from agent.api.diff import changed_files
from agent.api.schemas import FileChange

LINES_PER_FILE = 2000
"""More of a file are counted, not shown; the patch itself can be saved."""

Kind = Literal["added", "removed", "kept", "hunk", "note"]


@dataclass(frozen=True, slots=True)
class Line:
    kind: Kind
    text: str
    before: int | None = None
    """Its number in the file before the patch; None where it was not there."""
    after: int | None = None


@dataclass(frozen=True, slots=True)
class ChangedFile:
    change: FileChange
    lines: tuple[Line, ...]
    num_hidden: int
    """Lines that were left out."""


async def changes(patch: str) -> tuple[ChangedFile, ...]:
    """The files of a patch, in its order."""
    sections = re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE)[1:]
    files = await changed_files(patch)
    return tuple(_file(change, section) for change, section in zip(files, sections, strict=True))


def _file(change: FileChange, section: str) -> ChangedFile:
    lines = _lines(section)
    shown = tuple(islice(lines, LINES_PER_FILE))
    return ChangedFile(change, shown, sum(1 for _ in lines))


def _lines(section: str) -> Iterator[Line]:
    before = after = 0
    in_hunk = False
    for text in section.removesuffix("\n").split("\n"):
        if hunk := re.match(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@", text):
            before, after, in_hunk = int(hunk[1]), int(hunk[2]), True
            yield Line("hunk", text)
        elif not in_hunk:
            if text.startswith(("rename ", "old mode", "new mode", "new file", "deleted file", "GIT binary")):
                yield Line("note", text)
        elif text.startswith("+"):
            yield Line("added", text[1:], after=after)
            after += 1
        elif text.startswith("-"):
            yield Line("removed", text[1:], before=before)
            before += 1
        elif text.startswith("\\"):
            yield Line("note", text[2:])
        else:
            yield Line("kept", text[1:], before, after)
            before, after = before + 1, after + 1
