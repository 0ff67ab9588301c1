"""Ids that sort by the time they were made and say what they name."""

import secrets
import time
from typing import Literal

_VERSION_7 = 0x7
_VARIANT = 0b10


def new_id(prefix: Literal["task", "run", "msg", "sched", "eval"]) -> str:
    """A prefix and a version 7 UUID (RFC 9562, section 5.7) in 32 hexadecimal digits.

    >>> new_id("task").startswith("task_0")
    True
    """
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | _VERSION_7 << 76 | secrets.randbits(12) << 64 | _VARIANT << 62 | secrets.randbits(62)
    return f"{prefix}_{value:032x}"
