"""What the programs in this folder share. They run inside a sandbox, and each tries to get out of it.

`python -m tests.security.attempts.kernel mount` prints one JSON object: what was tried -> "done", or the name of the
error that it met. So a test can tell a door that was closed from a program that did not run.
"""

import ctypes
import errno
import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conformance.sandbox.probe import CALLS

_LIBC = ctypes.CDLL(None, use_errno=True)


class Tries:
    """Keeps what was tried and how it ended."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def __call__(self, what: str, act: Callable[..., object], *arguments: object) -> None:
        try:
            act(*arguments)
        except OSError as error:
            self.said[what] = errno.errorcode.get(error.errno or 0, type(error).__name__)
        else:
            self.said[what] = "done"


def call(name: str, *arguments: object) -> int:
    """A system call, by the C library's own function where it has one."""
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    function = None if name in ("clone", "ioctl") else getattr(_LIBC, name, None)
    if function is None:
        number = CALLS[name][0 if platform.machine() == "x86_64" else 1]
        function, wide = _LIBC.syscall, [ctypes.c_long(number), *wide]
    result = int(function(*wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def put(path: str, text: str = "x") -> None:
    """Write to what is there; nothing is made."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def reach(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


def pids() -> list[int]:
    """Of all processes that are seen."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def quietly(act: Callable[..., object], *arguments: object) -> None:
    """For what is tried again and again, and counts by what it does outside."""
    with suppress(OSError):
        act(*arguments)


def main(attempts: dict[str, object]) -> None:
    name, *arguments = sys.argv[1:]
    tries = Tries()
    attempt = attempts[name]
    assert callable(attempt)
    attempt(tries, *arguments)
    print(json.dumps(tries.said))
