"""Which executors there are, when some fall silent and others have to go."""

import asyncio
from collections.abc import Sequence

import pytest

from sandbox.toolbox.calls import ExecutorLost, Health
from sandbox.toolbox.controller import Controller

pytestmark = pytest.mark.anyio


class Office:
    """Executors that only answer how they are, and note what they are told."""

    def __init__(self) -> None:
        self.desks: dict[str, Desk] = {}

    def hired(self) -> Sequence[str]:
        return list(self.desks)

    def hire(self, name: str) -> "Desk":
        return self.desks.setdefault(name, Desk())

    def dismiss(self, name: str) -> None:
        self.desks.pop(name, None)


class Desk:
    def __init__(self) -> None:
        self.silent = False
        self.busy = asyncio.Event()
        self.inherited: list[str] = []

    async def health(self) -> Health:
        if self.silent:
            await asyncio.sleep(1e6)
        return Health(0, 0, 0, 0, draining=False)

    async def drain(self) -> None:
        if self.silent:
            raise ExecutorLost("gone")
        await self.busy.wait()

    async def inherit(self, owner: str, executors: Sequence[str], me: str) -> None:
        self.inherited.append(owner)


async def test_there_are_as_many_as_wanted_and_those_that_are_there_are_kept() -> None:
    office = Office()
    office.hire("executor-4")
    controller = Controller(office, size=3)  # type: ignore[arg-type]
    await controller.check()
    assert controller.members() == ["executor-4", "executor-5", "executor-6"]


async def test_one_that_falls_silent_is_replaced_and_its_sandboxes_go_to_the_others() -> None:
    office = Office()
    controller = Controller(office, size=2)  # type: ignore[arg-type]
    watching = asyncio.create_task(controller.run())
    await asyncio.sleep(6)
    silent, other = controller.members()
    office.desks[silent].silent = True
    await asyncio.sleep(100)
    assert silent in controller.members(), "it may only have much to do"
    await asyncio.sleep(60)
    assert silent not in controller.members()
    assert len(controller.members()) == 2
    assert other in controller.members()
    assert all(desk.inherited == [silent] for desk in office.desks.values())
    watching.cancel()


async def test_one_that_is_gone_is_replaced_at_once() -> None:
    office = Office()
    controller = Controller(office, size=2)  # type: ignore[arg-type]
    await controller.check()
    gone, other = controller.members()
    del office.desks[gone]
    await controller.check()
    assert controller.members() == [other, "executor-2"]
    assert [desk.inherited for desk in office.desks.values()] == [[gone], [gone]]
    await controller.check()
    assert [desk.inherited for desk in office.desks.values()] == [[gone], [gone]]


async def test_one_that_has_to_go_first_ends_what_it_does() -> None:
    office = Office()
    controller = Controller(office, size=2)  # type: ignore[arg-type]
    await controller.check()
    staying, leaving = controller.members()
    resizing = asyncio.create_task(controller.resize(1))
    await asyncio.sleep(1)
    assert controller.members() == [staying]
    assert set(office.desks) == {staying, leaving}
    office.desks[leaving].busy.set()
    await resizing
    assert set(office.desks) == {staying}
    assert office.desks[staying].inherited == [leaving]
