"""How the two ends of a sandbox's socket speak: frames of a small JSON head and a run of bytes.

    4 bytes length of the head | 4 bytes length of the body | head (JSON object) | body

Both lengths are bounded, so that whoever reads decides how much the other end can make it hold.
"""

import asyncio
import json
import struct
from collections.abc import Mapping

MAX_HEAD = 64 * 1024
MAX_BODY = 4 * 1024 * 1024
_LENGTHS = struct.Struct("!II")


class BadFrame(Exception):
    """The other end does not keep to the format."""


def encode(head: Mapping[str, object], body: bytes | memoryview = b"") -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode()
    if len(text) > MAX_HEAD or len(body) > MAX_BODY:
        raise BadFrame(f"a frame of {len(text)} + {len(body)} bytes is too large")
    return b"".join((_LENGTHS.pack(len(text), len(body)), text, body))


async def read(reader: asyncio.StreamReader, max_head: int = MAX_HEAD, max_body: int = MAX_BODY) -> tuple[bytes, bytes]:
    """The next frame, its head not yet parsed.

    Raises:
        asyncio.IncompleteReadError: the connection ended.
        BadFrame: what came is not a frame.
    """
    head, body = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    if head > max_head or body > max_body:
        raise BadFrame(f"a frame of {head} + {body} bytes is too large")
    return await reader.readexactly(head), await reader.readexactly(body)
