"""What of a local sandbox lies in this machine's file system: where it is reached, and how long it lives.

    <folder of all>/<id>/socket    sandboxd listens
                         holder    its holder listens: "end" ends the sandbox; what is connected closes when it is gone
                         ends_at   when its lifetime is over, in seconds since 1970
                         out/      has the socket that leads out of it, where one does; is seen inside
                         layer/    what bubblewrap lays over an image, where there are both; seen as that

The holder removes its sandbox's folder. Where nobody listens any more it was killed, and whoever looks does it.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

END = b"end"
_WAITING = 64
"""Connections that may wait until somebody takes them."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One sandbox's."""

    path: Path

    @property
    def address(self) -> Path:
        """Where sandboxd listens."""
        return self.path / "socket"

    @property
    def way_out(self) -> Path:
        return self.path / "out" / "socket"

    @property
    def made_at(self) -> float:
        return (self.path / "ends_at").stat().st_mtime

    @property
    def ends_at(self) -> float:
        return float((self.path / "ends_at").read_text())

    def call_holder(self) -> socket.socket | None:
        """A connection to whoever holds the sandbox; None where nobody does any more."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            _through_folder(self.path, "holder", line.connect)
        except (FileNotFoundError, ConnectionRefusedError):
            line.close()
            return None
        return line

    def remove(self) -> None:
        """Quiet where it is gone."""
        with suppress(FileNotFoundError):
            for place, _, files in os.walk(self.path, topdown=False):
                for name in files:
                    Path(place, name).unlink()
                Path(place).rmdir()


def make(parent: Path, lifetime_s: float) -> tuple[Folder, socket.socket, socket.socket]:
    """A new folder, and the sockets that listen in it: sandboxd's and the holder's."""
    name = f"mimo-sandbox-{secrets.token_hex(8)}"
    part = parent / f".{name}"  # until somebody listens in it: another service may look meanwhile
    part.mkdir(mode=0o700)
    (part / "out").mkdir()
    (part / "out").chmod(0o711)
    (part / "ends_at").write_text(str(time.time() + lifetime_s))
    sockets = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for file, each in zip(("socket", "holder"), sockets, strict=True):
        _through_folder(part, file, each.bind)
        each.listen(_WAITING)
    return Folder(part.rename(parent / name)), *sockets


def held(parent: Path) -> Iterator[Folder]:
    """Those that somebody holds; the others are removed."""
    for path in list(parent.glob("[!.]*")):
        folder = Folder(path)
        if (line := folder.call_holder()) is None:
            folder.remove()
        else:
            line.close()
            yield folder


def _through_folder(folder: Path, name: str, use: Callable[[str], object]) -> None:
    """By itself the kernel takes 107 bytes of a socket's path."""
    fd = os.open(folder, os.O_PATH)
    try:
        use(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)
