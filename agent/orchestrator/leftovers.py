"""Files that workers keep beside the store, and that nobody needs any more."""

import asyncio
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from agent.store.retention import Retention

_SHARED = ("remotes", "setups")
"""Folders of what tasks of a project share, by project."""

_MARK = "store"
"""File that names the store whose tasks these are."""

_OWN = re.compile(r"\.?((?:task|run)_[0-9a-f]{32})\..*")
"""The git directory of a task, one that a killed worker was making, the whole work trees of a run."""

_log = logging.getLogger(__name__)


class Leftovers:
    """Below the folder that the workers of one store share."""

    def __init__(self, folder: Path, retention: Retention) -> None:
        self._folder = folder
        self._retention = retention

    async def remove(self) -> None:
        """Delete what belongs to tasks and projects that were deleted, and to runs that ended.

        Raises:
            StoreUnavailable: the store cannot be asked.
        """
        if not await self._is_of_this_store():
            return
        # First the files: whatever is made later is of something that the store has.
        found = await asyncio.to_thread(lambda: dict(self._found()))
        needed = await self._retention.needed(set(found.values()))
        for path in (path for path, owner in found.items() if owner not in needed):
            try:
                await asyncio.to_thread(shutil.rmtree, path)
            except FileNotFoundError:
                continue  # another worker was faster
            except OSError as error:
                _log.warning("action=keep_leftover path=%s error=%r", path, str(error))
            else:
                _log.info("action=remove_leftover path=%s", path)

    async def _is_of_this_store(self) -> bool:
        """To a worker that was started with the wrong store, all of the folder would be left over."""
        mark, file = await self._retention.mark(), self._folder / _MARK
        if not self._folder.is_dir():
            return False
        if not (file.exists() and file.stat().st_size):  # Empty where its writer was killed, or had no room.
            file.write_text(mark, "ascii")
        same = file.read_text("ascii") == mark
        if not same:
            _log.warning("action=keep_leftovers path=%s reason='it is the folder of another store'", self._folder)
        return same

    def _found(self) -> Iterator[tuple[Path, str]]:
        """Folders, with the id of what they belong to."""
        for path in _folders(self._folder):
            if own := _OWN.fullmatch(path.name):
                yield path, own[1]
        for name in _SHARED:
            for path in _folders(self._folder / name):
                yield path, path.name


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
