"""A gate to something scarce: who waits goes in by weighted turns, or not at all when it would be too late."""

import asyncio
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sandbox.errors import Overdue
from sandbox.toolbox.calls import Caller
from sandbox.toolbox.fair_queue import FairQueue

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Room(Protocol[T_contra]):
    """What is behind a gate."""

    @property
    def full(self) -> bool:
        """Nothing fits, whatever it is."""

    def fits(self, what: T_contra) -> bool: ...

    def take(self, what: T_contra) -> None: ...

    def give_back(self, what: T_contra) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[T]):
    what: T
    admitted: asyncio.Future[None]


class Gate(Generic[T]):
    """Lets in what fits."""

    def __init__(self, room: Room[T]) -> None:
        self._room = room
        self._queue: FairQueue[_Waiting[T]] = FairQueue()

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    async def enter(self, caller: Caller, what: T, patience_s: float | None) -> None:
        """Take room for ``what``; :meth:`leave` gives it back.

        Raises:
            Overdue: there was none within ``patience_s``; None is for ever.
        """
        waiting = _Waiting(what, asyncio.get_running_loop().create_future())
        self._queue.push(caller.job, caller.weight, waiting)
        self._admit()
        try:
            async with asyncio.timeout(patience_s):
                await waiting.admitted
        except TimeoutError:
            self._return(waiting)
            raise Overdue(f"no room within {patience_s} s, with {len(self._queue)} others waiting") from None
        except asyncio.CancelledError:
            self._return(waiting)
            raise

    def leave(self, what: T) -> None:
        self._room.give_back(what)
        self._admit()

    def _return(self, waiting: _Waiting[T]) -> None:
        """Who gave up may have been let in at the same moment."""
        if not waiting.admitted.cancel() and not waiting.admitted.cancelled():
            self.leave(waiting.what)

    def _admit(self) -> None:
        while not self._room.full:
            waiting = self._queue.pop(lambda each: each.admitted.cancelled() or self._room.fits(each.what))
            if waiting is None:
                return
            if not waiting.admitted.cancelled():
                self._room.take(waiting.what)
                waiting.admitted.set_result(None)
