"""``str_replace``: replace one exact, unique text in a file."""

import difflib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult
from agent.tools.syntax import breaks
from agent.tools.text_file import edit_text, foresee_edit

_NEAREST_LINES = 3


class StrReplaceArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, StringConstraints(min_length=1)] = Field(description="File, absolute or below /workspace.")
    old_str: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="Text to replace; must occur exactly once."
    )
    new_str: str = Field(description="Text to put in its place.")


class StrReplace:
    """Edits a file; a miss answers with the lines that come nearest, so that the next call can be right."""

    name = "str_replace"
    description = "Replace a text in a file."
    arguments = StrReplaceArguments

    def __init__(self, *, checks_syntax: bool = False) -> None:
        """
        Args:
            checks_syntax: refuse an edit after which the file's language can no longer read it.
        """
        self._checks_syntax = checks_syntax

    async def run(self, arguments: StrReplaceArguments, context: ToolContext) -> ToolResult:
        return await edit_text(context, self.name, arguments.path, lambda text: self._edited(text, arguments))

    async def foresee(self, arguments: StrReplaceArguments, context: ToolContext) -> ToolResult | None:
        return await foresee_edit(context, arguments.path, lambda text: self._edited(text, arguments))

    def _edited(self, text: str, wanted: StrReplaceArguments) -> tuple[ToolResult, str | None]:
        result, changed = replace(text, wanted.old_str, wanted.new_str)
        if changed is not None and self._checks_syntax and (why := refusal(wanted.path, text, changed)):
            return why, None
        return result, changed


def refusal(path: str, before: str, after: str) -> ToolResult | None:
    """What the model reads of an edit that would break the file's syntax; None where it does not."""
    problem = breaks(path, before, after)
    return ToolResult(f"[error] nothing was edited: {problem}", error=True) if problem else None


def replace(text: str, old: str, new: str) -> tuple[ToolResult, str | None]:
    """The edit itself: what the model reads, and the new text, or None where nothing changed.

    >>> replace("a = 1\\nb = 2\\n", "b = 2", "b = 3")[0].text
    '[edited line 2]'
    """
    if old == new:
        return ToolResult("[error] old_str and new_str are equal", error=True), None
    count = text.count(old)
    if count > 1:
        lines = ", ".join(str(line) for line in _lines_of(text, old))
        return ToolResult(f"[error] old_str occurs {count} times, at lines {lines}; make it longer", error=True), None
    if count == 0:
        return ToolResult(f"[error] old_str was not found; nearest lines:\n{_nearest(text, old)}", error=True), None
    first = text[: text.index(old)].count("\n") + 1
    last = first + old.count("\n")
    where = f"line {first}" if first == last else f"lines {first}-{last}"
    return ToolResult(f"[edited {where}]"), text.replace(old, new, 1)


def _lines_of(text: str, part: str) -> list[int]:
    lines: list[int] = []
    start = text.find(part)
    while start >= 0:
        lines.append(text[:start].count("\n") + 1)
        start = text.find(part, start + len(part))
    return lines


def _nearest(text: str, old: str) -> str:
    """The numbered lines most like ``old``, at most three."""
    lines = text.splitlines()
    size = min(old.count("\n") + 1, _NEAREST_LINES)
    wanted = "\n".join(old.splitlines()[:size])
    windows = range(max(len(lines) - size + 1, 1))
    best = max(windows, key=lambda i: _likeness("\n".join(lines[i : i + size]), wanted), default=0)
    return "\n".join(f"{number}: {lines[number - 1]}" for number in range(best + 1, min(best + size, len(lines)) + 1))


def _likeness(a: str, b: str) -> float:
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() > 0.3 else 0.0
