"""Who looks after the sandboxes of the executors in this process, for those who watch over them."""

from dataclasses import dataclass

from sandbox.pool.pool import WarmPool
from sandbox.reaper.reaper import Reaper


@dataclass(frozen=True, slots=True)
class Keepers:
    """None where there is none, or in another process."""

    pool: WarmPool | None = None
    reaper: Reaper | None = None
