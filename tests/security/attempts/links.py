"""Change what a path means, between the moment when it is looked at and the moment when it is used."""

import time
from contextlib import suppress
from pathlib import Path

from tests.security.attempts.trying import Tries, call, main

_EXCHANGE = 2  # RENAME_EXCHANGE: never is the name without one of the two
_HERE = -100  # AT_FDCWD


def folder(tries: Tries, target: str, duration_s: str) -> None:
    """`/workspace/swapped` is a folder, and again and again a link to ``target``."""
    Path("/workspace/swapped").mkdir(exist_ok=True)
    _swap(tries, target, float(duration_s))


def file(tries: Tries, target: str, duration_s: str) -> None:
    Path("/workspace/swapped").touch()
    _swap(tries, target, float(duration_s))


def _swap(tries: Tries, target: str, duration_s: float) -> None:
    Path("/workspace/link").symlink_to(target)
    end, number = time.monotonic() + duration_s, 0
    while time.monotonic() < end:
        with suppress(FileNotFoundError):  # an upload is about to put something else there
            call("renameat2", _HERE, b"/workspace/link", _HERE, b"/workspace/swapped", _EXCHANGE)
            number += 1
    tries("swapped", _often, number)


def _often(number: int) -> None:
    if number < 100:
        raise BlockingIOError(11, "too rarely to mean anything")


if __name__ == "__main__":
    main(globals())
