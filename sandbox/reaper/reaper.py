"""Compares what the machines hold with what is on record, and ends what is nobody's, until it is gone."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sandbox.errors import SandboxError
from sandbox.inventory import Found, Inventory
from sandbox.registry import Record, Registry

_AT_ONCE = 64
_STUCK_AFTER = 5
_NUM_NAMED = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found and did."""

    num_found: int
    condemned: Mapping[str, str]
    """Sandboxes that have to end, and why. They are gone once no later sweep finds them."""
    asked: Sequence[str]
    """Those of them whose end was asked for by this sweep. Of the others it is known that it will come."""
    refused: Sequence[str]
    """Those of them that the machines did not agree to end, this time."""
    stuck: Sequence[str]
    """Those that are still there after many sweeps: somebody has to look."""


def condemned(
    found: Iterable[Found], records: Mapping[str, Record], now: float, *, grace_s: float, shared: bool = False
) -> dict[str, str]:
    """Which sandboxes have to end, and why.

    Args:
        now: seconds since 1970.
        grace_s: how old a sandbox that is not on record must be, for it is made before it is written down, and how
            long one that should have ended by itself may take.
        shared: others have sandboxes there too, on records of their own.
    """
    reasons = {}
    for each in found:
        record = records.get(each.id)
        if now > each.ends_at + grace_s:
            reasons[each.id] = "its lifetime is over"
        elif record is None and not shared and now > each.created_at + grace_s:
            reasons[each.id] = "it is on nobody's record"
        elif record is not None and now > record.lease_until:
            reasons[each.id] = "its owner let go of it" if not record.owner else "its owner is gone"
    return reasons


class Reaper:
    """Sweeps the machines of one service."""

    def __init__(
        self,
        inventory: Inventory,
        registry: Registry,
        *,
        grace_s: float = 120.0,
        shared: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            grace_s, shared: see :func:`condemned`.
        """
        self._inventory = inventory
        self._registry = registry
        self._grace_s = grace_s
        self._shared = shared
        self._now = now
        self._seen: Counter[str] = Counter()
        """In how many sweeps each was condemned."""
        self.swept_at = now()
        """When the last sweep came to its end, or else when this began, in seconds since 1970."""
        self.num_condemned = 0
        """Sandboxes that had to be ended, since this began."""
        self.num_stuck = 0
        """Those that were still there after many sweeps, at the last one."""

    async def run(self, every_s: float = 30.0) -> None:
        """Sweep until cancelled. Machines that do not answer are asked again the next time."""
        while True:
            try:
                await self.sweep()
            except SandboxError as error:
                _log.warning("action=sweep reason=%r", str(error))
            await asyncio.sleep(every_s)

    async def sweep(self) -> Swept:
        """Look once, and ask for the end of what nobody cares for.

        Raises:
            SandboxError: the machines do not say what they hold.
        """
        # The records first: what is made meanwhile is then found without one, and too young to be taken for lost.
        records = {record.id: record for record in await self._registry.all()}
        found = await self._inventory.found()
        reasons = condemned(found, records, self._now(), grace_s=self._grace_s, shared=self._shared)
        await self._forget_gone(records, {each.id for each in found})
        self.num_condemned += len(reasons.keys() - self._seen.keys())
        self._seen = Counter({id_: self._seen[id_] + 1 for id_ in reasons})
        stuck = [id_ for id_, times in self._seen.items() if times >= _STUCK_AFTER]
        if stuck:  # one line, though it may be thousands
            _log.error("action=stuck num=%d first=%s", len(stuck), ",".join(stuck[:_NUM_NAMED]))
        ending = {each.id for each in found if each.ending}
        asked = {id_: why for id_, why in reasons.items() if id_ not in ending or self._may_have_failed(id_)}
        refused = await end(self._inventory, asked)
        self.swept_at, self.num_stuck = self._now(), len(stuck)
        return Swept(len(found), reasons, list(asked), refused, stuck)

    def _may_have_failed(self, id_: str) -> bool:
        """Whether the end that was promised is late, so that it is asked for once more."""
        return self._seen[id_] % _STUCK_AFTER == 0

    async def _forget_gone(self, records: Mapping[str, Record], there: set[str]) -> None:
        """Deletion is confirmed: the machines do not hold it, and whoever had it has not renewed it for long."""
        for record in records.values():
            if record.id not in there and self._now() > record.lease_until + self._grace_s:
                await self._registry.forget(record.id)


async def end(inventory: Inventory, reasons: Mapping[str, str]) -> list[str]:
    """Ask for the end of these sandboxes; those that the machines did not agree to."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def end_one(id_: str, why: str) -> bool:
        async with turn:
            try:
                await inventory.remove(id_)
            except SandboxError as error:
                _log.warning("action=refuse sandbox=%s reason=%r", id_, str(error))
                return False
        _log.info("action=reap sandbox=%s reason=%r", id_, why)
        return True

    agreed = await asyncio.gather(*(end_one(id_, why) for id_, why in reasons.items()))
    return [id_ for id_, ok in zip(reasons, agreed, strict=True) if not ok]
