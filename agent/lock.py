"""One at a time, of all processes of a folder."""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_LOOK_S = 0.1


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Wait until nobody else has the file locked, which is made where it is missing; the kernel lets go of the lock
    however a process ends."""
    with path.open("ab") as lock:
        while not _taken(lock.fileno()):  # noqa: ASYNC110 - other processes tell nobody
            await asyncio.sleep(_LOOK_S)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
