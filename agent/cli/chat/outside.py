"""Programs that have the terminal for themselves: an editor, a pager, the user's shell."""

import asyncio
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
from prompt_toolkit.application.run_in_terminal import in_terminal

_EDITORS = ("editor", "nano", "pico", "vi", "emacs")


class Outside:
    """One after the other; the application below is not drawn meanwhile, and goes on otherwise."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    @property
    def busy(self) -> bool:
        """One of them has the terminal."""
        return self._process is not None

    async def run(self, command: Sequence[str], cwd: Path, text: str = "") -> int:
        """
        Args:
            text: for its standard input; empty leaves it the terminal.

        Returns:
            Its exit code; negative: the signal that ended it.

        Raises:
            OSError: it cannot be started.
        """
        async with in_terminal():
            stdin = asyncio.subprocess.PIPE if text else None
            self._process = process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdin=stdin)
            try:
                await process.communicate(text.encode() or None)
            finally:
                self.end()
                self._process = None
        return await process.wait()

    async def edit(self, text: str, cwd: Path, environment: Mapping[str, str] = os.environ) -> str | None:
        """The text as the user's editor left it; None where that failed, or there is none.

        Raises:
            OSError: it cannot be started, or took the file away.
        """
        command = _editor(environment)
        if command is None:
            return None
        with tempfile.TemporaryDirectory(prefix="mimo-") as folder:
            file = anyio.Path(folder, "message.md")
            await file.write_text(text, "utf-8")
            code = await self.run([*command, str(file)], cwd)
            return None if code else (await file.read_text("utf-8", errors="replace")).removesuffix("\n")

    def end(self) -> None:
        """End the one that has the terminal, if one has."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()


def _editor(environment: Mapping[str, str]) -> Sequence[str] | None:
    """The one that the user named, or else one that is there."""
    chosen = environment.get("VISUAL") or environment.get("EDITOR")
    for named in (chosen,) if chosen else _EDITORS:
        try:
            command = shlex.split(named)
        except ValueError:  # an open quotation
            return None
        if command and shutil.which(command[0]):
            return command
    return None
