"""How many of how many, and how sure that is."""

import math
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field


class Rate(BaseModel):
    """How many of how many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    total: int
    resolved: int
    rate: float
    interval: tuple[float, float] = Field(description="Wilson's, 95 %.")


def rate(outcomes: Iterable[bool]) -> Rate:
    """Count outcomes.

    >>> rate([True] * 8 + [False] * 2).interval
    (0.4902, 0.9433)
    """
    known = list(outcomes)
    total, resolved = len(known), sum(known)
    return Rate(
        total=total,
        resolved=resolved,
        rate=round(resolved / total, 4) if total else 0.0,
        interval=wilson(resolved, total),
    )


def wilson(resolved: int, total: int) -> tuple[float, float]:
    """Score interval of a share, 95 % (Wilson 1927); of nothing, everything is possible."""
    if total == 0:
        return 0.0, 1.0
    z = 1.959964
    share = resolved / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return round(max((centre - spread) / scale, 0.0), 4), round(min((centre + spread) / scale, 1.0), 4)
