"""Hosts that a sandbox may reach by name."""

import re
from typing import Annotated

from pydantic import AfterValidator

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.(?={_LABEL}\.))?({_LABEL}\.)*(?P<last>{_LABEL})(:(?P<port>[1-9]\d{{0,4}}))?")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")
_MAX_NAME = 253


def _check(text: str) -> str:
    match = _HOST.fullmatch(text)
    port = match["port"] if match else None
    if match is None or len(text) > _MAX_NAME or int(port or 1) > 65_535:
        raise ValueError(
            f"{text[:300]!r} is no host that can be allowed; write a name in small letters (other scripts as xn--...), "
            "or *.name with a dot in the name for all hosts below it, either with :port"
        )
    if _NUMERIC.fullmatch(match["last"]):
        raise ValueError(f"{text!r} is an address; hosts are allowed by name only")
    return text


def is_host_name(text: str) -> bool:
    """
    >>> is_host_name("git.example.org"), is_host_name("*.example.org"), is_host_name("10.0.0.1")
    (True, False, False)
    """
    match = _HOST.fullmatch(text)
    if match is None or match["port"] or text.startswith("*.") or len(text) > _MAX_NAME:
        return False
    return not _NUMERIC.fullmatch(match["last"])


def _check_name(text: str) -> str:
    if not is_host_name(text):
        raise ValueError(f"{text[:300]!r} is no name of a host; write it in small letters, without a port or *.")
    return text


HostName = Annotated[str, AfterValidator(_check_name)]
"""``git.example.org``."""

AllowedHost = Annotated[str, AfterValidator(_check)]
"""``packages.example.org``, ``*.files.example.org`` (all hosts below, not the name itself), ``git.example.org:22``.

Without a port it is allowed for HTTP on port 80 and for TLS on port 443. With one it is allowed on that port alone, and
on any but 443 for whatever is said there.
"""
