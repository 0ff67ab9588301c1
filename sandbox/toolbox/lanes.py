"""Two lanes, so that no number of long calls keeps a short one waiting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sandbox.toolbox.calls import Caller, Lane
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.gate import Gate


@dataclass(slots=True)
class Slots:
    """So many calls at once; those that moved here from elsewhere count, and were not asked whether they fit."""

    size: int
    used: int = 0

    @property
    def full(self) -> bool:
        return self.used >= self.size

    def fits(self, what: object) -> bool:
        return not self.full

    def take(self, what: object) -> None:
        self.used += 1

    def give_back(self, what: object) -> None:
        self.used -= 1


class Lanes:
    """A call begins in the lane it names. One that runs for long leaves the short lane, whatever it said."""

    def __init__(self, settings: ToolboxSettings) -> None:
        self._short_s = settings.short_s
        self._slots: dict[Lane, Slots] = {"short": Slots(settings.short_slots), "long": Slots(settings.long_slots)}
        self._gates: dict[Lane, Gate[None]] = {lane: Gate(slots) for lane, slots in self._slots.items()}

    @property
    def num_running(self) -> int:
        return sum(slots.used for slots in self._slots.values())

    @property
    def num_waiting(self) -> int:
        return sum(gate.num_waiting for gate in self._gates.values())

    @asynccontextmanager
    async def enter(self, caller: Caller, lane: Lane, patience_s: float) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the length of the block.

        Raises:
            Overdue: it did not come within ``patience_s``.
        """
        await self._gates[lane].enter(caller, None, patience_s)
        begun = lane

        def move() -> None:
            nonlocal lane
            lane = "long"
            self._slots["long"].take(None)
            self._gates["short"].leave(None)

        moving = asyncio.get_running_loop().call_later(self._short_s, move) if begun == "short" else None
        try:
            yield
        finally:
            if moving is not None:
                moving.cancel()
            self._gates[lane].leave(None)
