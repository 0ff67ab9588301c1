"""Speak to sandboxd as the service does (sandbox/sandboxd/PROTOCOL.md), without its key."""

import errno
import json
import socket
import struct
from contextlib import suppress

from tests.security.attempts.trying import Tries, main


def speak(tries: Tries, address: str, boot: str) -> None:
    key, nonce = "00" * 32, "11" * 32
    claim = {"id": 1, "op": "hello", "version": 1, "key": key, "lease_s": 60.0, "lifetime_s": 60.0, "memory_bytes": 0}
    start = {"id": 1, "op": "start", "job": "escaped", "texts": 2, "timeout_s": 9.0, "limit": 99, "last": True}
    conversations = {
        "claim": [(claim, b"")],
        "attach": [
            ({"id": 1, "op": "attach", "version": 1, "nonce": nonce}, b""),
            ({"id": 2, "op": "prove", "version": 1, "proof": boot * 2}, b""),
        ],
        "attach briefly": [({"id": 1, "op": "attach", "version": 1, "nonce": "11"}, b"")],
        "prove nothing": [({"id": 1, "op": "prove", "version": 1, "proof": ""}, b"")],
        "start": [(start, b"echo escaped\0/\0")],
        "end": [({"id": 1, "op": "end"}, b"")],
        "long": [({"id": 1, "op": "hello", "key": "0" * 60_000}, b"")],
    }
    for what, questions in conversations.items():
        try:
            tries.said[what] = _talk(address, questions)
        except OSError as error:
            tries.said[what] = errno.errorcode[error.errno or 0]


def _talk(address: str, questions: list[tuple[dict[str, object], bytes]]) -> str:
    """The last error that sandboxd answers with; "silent" where it says nothing and closes."""
    with socket.socket(socket.AF_UNIX if address.startswith("/") else socket.AF_INET) as link:
        link.settimeout(5)
        host, _, port = address.rpartition(":")
        link.connect(address if address.startswith("/") else (host, int(port)))
        for head, body in questions:
            text = json.dumps(head).encode()
            link.sendall(struct.pack(">II", len(text), len(body)) + text + body)
        return _errors(_everything(link)) or "silent"


def _everything(link: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionError):
        while part := link.recv(4096):
            data += part
    return data


def _errors(data: bytes) -> str:
    said = ""
    while data:
        size, rest = struct.unpack_from(">II", data)
        said = json.loads(data[8 : 8 + size]).get("error", "no error")
        data = data[8 + size + rest :]
    return said


if __name__ == "__main__":
    main(globals())
