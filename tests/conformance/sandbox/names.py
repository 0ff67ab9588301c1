"""A name server of the tests' own: every name has the addresses that a test gives it."""

import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PUBLIC = "127.0.0.77"
"""An address of this machine that stands for the public ones."""
_ADDRESS = 1
_MISSING = 3


def missing() -> str:
    """Why no sandbox can be let out by name here; "" where one can."""
    go = shutil.which("go")
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout if go else ""
    number = re.match(r"go(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < (1, 24):
        return f"not installed: go 1.24 or newer ({version.strip() or 'none'})"
    return ""


class Names:
    """``known`` maps names to addresses; each question for a name takes the next of them, and the last one for ever."""

    def __init__(self, door: socket.socket) -> None:
        self.address = f"127.0.0.1:{door.getsockname()[1]}"
        self.known: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self._door = door

    def serve(self) -> None:
        while True:
            question, sender = self._door.recvfrom(2000)
            if question == b"end":
                return
            self._door.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        labels, place = [], 12
        while size := question[place]:
            labels.append(question[place + 1 : place + 1 + size].decode())
            place += 1 + size
        kind = struct.unpack_from("!H", question, place + 1)[0]
        name, asked = ".".join(labels).lower(), question[12 : place + 5]
        self.asked.append(name)
        addresses = self.known.get(name, [])
        if kind != _ADDRESS or not addresses:
            status = 0x8180 | (0 if addresses else _MISSING)
            return question[:2] + struct.pack("!5H", status, 1, 0, 0, 0) + asked
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        record = struct.pack("!HHHIH", 0xC00C, _ADDRESS, 1, 0, 4) + socket.inet_aton(address)
        return question[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + asked + record


@contextmanager
def served() -> Iterator[Names]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 0))
        names = Names(door)
        serving = threading.Thread(target=names.serve)
        serving.start()
        try:
            yield names
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"end", door.getsockname())
            serving.join()
