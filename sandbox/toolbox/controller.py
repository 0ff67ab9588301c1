"""Keeps the wanted number of executors: replaces those that do not answer, and empties those that have to go."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from sandbox.toolbox.calls import ExecutorLost, Health, Port

_HEALTH_S = 5.0
_PATIENCE_S = 10.0
"""How long an executor may take to say how it is."""
_SILENCE_S = 120.0
"""One that is there and has not answered for so long is replaced. Not sooner: it may only have much to do, and with it
go the sandboxes that do not last.
"""
_FIRST_WORDS_S = 180.0
"""How long one may take to begin."""

_log = logging.getLogger(__name__)


class Staff(Protocol):
    """Where executors run."""

    def hired(self) -> Sequence[str]:
        """Those that are there, whoever hired them."""

    def hire(self, name: str) -> Port:
        """The executor of this name; started where there is none."""

    def dismiss(self, name: str) -> None:
        """End one at once."""


class Controller:
    """Decides which executors there are. One in a cluster."""

    def __init__(self, staff: Staff, size: int) -> None:
        self._staff = staff
        self._size = size
        self._leaving: set[str] = set()
        self._heard: dict[str, float] = dict.fromkeys(staff.hired(), _now())
        """When each last answered."""
        self._checking: asyncio.Task[None] | None = None
        self._number = 1 + max((_number_of(name) for name in staff.hired()), default=-1)

    async def run(self) -> None:
        """Keep the number, until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_HEALTH_S)

    def members(self) -> list[str]:
        """The executors that open sandboxes."""
        return sorted(set(self._staff.hired()) - self._leaving)

    async def resize(self, size: int) -> None:
        """Have so many from now on. Comes back when those that go have ended what they were doing."""
        self._size = size
        leaving = self.members()[size:]
        self._leaving.update(leaving)
        for name in leaving:
            self._heard.pop(name, None)
        await self.check()
        await asyncio.gather(*(self._let_go(name) for name in leaving))

    async def check(self) -> None:
        """Ask each how it is; replace those that have not answered for long. Who comes meanwhile waits for the same."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        await asyncio.gather(*(self._listen_to(name) for name in self.members()))
        members = set(self.members())
        gone = [name for name, heard in self._heard.items() if name not in members or _now() > heard + _SILENCE_S]
        for name in gone:
            _log.warning("action=replace executor=%s", name)
            self._dismiss(name)
        for _ in range(self._size - len(self.members())):
            name = f"executor-{self._number}"
            self._heard[name] = _now() + _FIRST_WORDS_S
            self._staff.hire(name)
            self._number += 1
        for name in gone:
            await self._bequeath(name)

    async def _listen_to(self, name: str) -> None:
        try:
            await self._ask(name)
            self._heard[name] = _now()
        except (ExecutorLost, TimeoutError):
            _log.info("action=miss executor=%s", name)

    async def _ask(self, name: str) -> Health:
        async with asyncio.timeout(_PATIENCE_S):
            return await self._staff.hire(name).health()

    async def _let_go(self, name: str) -> None:
        try:
            await self._staff.hire(name).drain()
        except ExecutorLost:
            _log.warning("action=lose executor=%s while it was emptied", name)
        self._dismiss(name)
        await self._bequeath(name)

    def _dismiss(self, name: str) -> None:
        self._leaving.add(name)  # for good: where executors run, one may be listed for a while after its end
        self._staff.dismiss(name)
        self._heard.pop(name, None)

    async def _bequeath(self, name: str) -> None:
        """The sandboxes of one that is gone go to the others, before their leases are over."""
        members = self.members()
        for heir in members:
            try:
                await self._staff.hire(heir).inherit(name, members, heir)
            except ExecutorLost:
                _log.warning("action=inherit executor=%s from=%s failed", heir, name)


def _number_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def _now() -> float:
    return asyncio.get_running_loop().time()
