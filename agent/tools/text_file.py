"""Text files in a sandbox: a path as the model writes it, and what it reads where a file cannot be had."""

from collections.abc import Callable

from agent.tools.base import ToolContext, ToolResult, unknown
from sandbox.errors import SandboxRejected
from sandbox.types import Sandbox

Change = Callable[[str], tuple[ToolResult, str | None]]
"""From a text to what the model reads of the edit, and the new text; None where nothing is changed."""


async def edit_text(context: ToolContext, tool: str, path: str, change: Change) -> ToolResult:
    """Change a file, once: a call that may have been made before is compared with what the file held before it."""
    text = await read_text(context.sandbox, path)
    if isinstance(text, ToolResult):
        return text
    if context.again:
        before = await context.before(path) if context.before else None
        if before is None:
            return unknown(tool)
        result, changed = change(before)
        if changed == text:
            return result
        if before != text:
            return unknown(tool)
    result, changed = change(text)
    if changed is None:
        return result
    return await write_text(context.sandbox, path, changed) or result


async def foresee_edit(context: ToolContext, path: str, change: Change) -> ToolResult | None:
    """Why the change cannot be made as the file is now; None where it can."""
    text = await read_text(context.sandbox, path)
    if isinstance(text, ToolResult):
        return text
    result, changed = change(text)
    return result if changed is None else None


async def read_text(sandbox: Sandbox, path: str) -> str | ToolResult:
    """The text of a file; a :class:`ToolResult` says why there is none."""
    try:
        data = await sandbox.read(_absolute(path))
    except FileNotFoundError:
        return ToolResult(f"[error] {path}: no such file", error=True)
    except (SandboxRejected, OSError) as error:
        return ToolResult(f"[error] {path}: {error}", error=True)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ToolResult(f"[error] {path}: not UTF-8 text; edit it with bash", error=True)


async def write_text(sandbox: Sandbox, path: str, text: str) -> ToolResult | None:
    """Replace a file as a whole; a :class:`ToolResult` says why that could not be done."""
    try:
        await sandbox.write(_absolute(path), text.encode("utf-8"))
    except OSError as error:
        return ToolResult(f"[error] {path}: {error.strerror}", error=True)
    return None


def numbered(lines: list[str], first: int) -> str:
    """
    >>> numbered(["a", "b"], first=9)
    ' 9: a\\n10: b'
    """
    width = len(str(first + len(lines) - 1))
    return "\n".join(f"{number:>{width}}: {line}" for number, line in enumerate(lines, start=first))


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/workspace/{path}"
