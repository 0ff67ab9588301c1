"""What the cluster last said of the sandboxes that somebody asks for, by name."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from sandbox.kubernetes.state import GONE, UNKNOWN, PodState


@dataclass(slots=True)
class _Followed:
    said: dict[str, PodState] = field(default_factory=dict)
    """By whom."""
    state: PodState = UNKNOWN
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Following:
    """Sandboxes, from before they are asked for until nobody asks any more."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}

    def follow(self, name: str) -> None:
        """From now on; before it is asked for, so that nothing is missed."""
        self._followed[name] = _Followed()

    def forget(self, name: str) -> None:
        self._followed.pop(name, None)

    def state(self, name: str) -> PodState:
        """What is known now; of one that is not followed, that it is gone."""
        followed = self._followed.get(name)
        return followed.state if followed else GONE

    async def until(self, name: str, happened: Callable[[PodState], bool]) -> PodState:
        """The first state of which this is true."""
        while not happened(state := self.state(name)):
            await self._followed[name].changed.wait()
        return state

    def known_to(self, speaker: str) -> Collection[str]:
        """The names of which it has said something."""
        return [name for name, followed in self._followed.items() if speaker in followed.said]

    def say(self, name: str, speaker: str, state: PodState) -> None:
        """Take what one kind of objects says. One that is over stays so, whoever takes its name."""
        followed = self._followed.get(name)
        if followed is None:
            return
        before = followed.said.get(speaker, UNKNOWN)
        followed.said[speaker] = state if state.over or not before.over else replace(before, gone=state.gone)
        followed.state = _together(followed.said.values())
        followed.changed.set()
        followed.changed = asyncio.Event()


def _together(said: Iterable[PodState]) -> PodState:
    """The end before its causes, and these before an address."""
    states = sorted(said, key=lambda state: (not state.over, state.cause is None, state.address is None))
    return replace(
        states[0],
        gone=any(state.gone for state in states),
        address=next((state.address for state in states if state.address), None),
    )
