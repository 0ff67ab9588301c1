"""How the two ends of a sandbox's socket speak: frames of a small JSON head and a run of bytes.

    4 bytes length of the head | 4 bytes length of the body | head (JSON object) | body

Both lengths are bounded, so that whoever reads decides how much the other end can make it hold.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping

MAX_HEAD = 4 * 1024 * 1024
"""A command line and its environment travel in the head."""
MAX_BODY = 1024 * 1024
_LENGTHS = struct.Struct("!II")


class BadFrame(Exception):
    """The other end does not keep to the format."""


def encode(head: Mapping[str, object], body: bytes | memoryview = b"", max_body: int = MAX_BODY) -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode()
    if len(text) > MAX_HEAD or len(body) > max_body:
        raise BadFrame(f"a frame of {len(text)} + {len(body)} bytes is too large")
    return b"".join((_LENGTHS.pack(len(text), len(body)), text, body))


async def read(reader: asyncio.StreamReader, max_head: int = MAX_HEAD) -> tuple[dict[str, object], bytes]:
    """The next frame.

    Raises:
        asyncio.IncompleteReadError: the connection ended.
        BadFrame: what came is not a frame.
    """
    text, body = await read_raw(reader, max_head, MAX_BODY)
    return _parse(text), body


async def read_raw(reader: asyncio.StreamReader, max_head: int, max_body: int) -> tuple[bytes, bytes]:
    """The next frame, its head not yet parsed; raises as :func:`read` does."""
    head, body = _lengths(await reader.readexactly(_LENGTHS.size), max_head, max_body)
    return await reader.readexactly(head), await reader.readexactly(body)


def read_blocking(connection: socket.socket) -> dict[str, object]:
    """The head of the next frame, for a process without an event loop."""
    head, body = _lengths(_exactly(connection, _LENGTHS.size), MAX_HEAD, MAX_BODY)
    return _parse(_exactly(connection, head + body)[:head])


def _lengths(data: bytes, max_head: int, max_body: int) -> tuple[int, int]:
    head, body = _LENGTHS.unpack(data)
    if head > max_head or body > max_body:
        raise BadFrame(f"a frame of {head} + {body} bytes is too large")
    return head, body


def _parse(text: bytes) -> dict[str, object]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFrame("the head of a frame is not JSON") from error
    if not isinstance(head, dict):
        raise BadFrame("the head of a frame is not an object")
    return head


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise BadFrame("the connection ended in the middle of a frame")
        data += more
    return bytes(data)
