"""Folders that nobody but the service's user may enter, for what is in them is open to the users of sandboxes."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from sandbox.errors import SandboxUnavailable


def private_folder(given: Path | None, name: str, setting: str) -> Path:
    """The folder given by ``setting``, or else one called ``name`` and the user's id among the temporary files; made
    where there is none.

    Raises:
        SandboxUnavailable: others may enter it.
    """
    folder = given or Path(tempfile.gettempdir(), f"{name}-{os.geteuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SandboxUnavailable(
            f"{folder} is not a folder that only this user may enter (mode 700); remove it, or name another in the "
            f"settings ({setting})"
        )
    return folder
