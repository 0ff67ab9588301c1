"""Whose turn it is at the files of a machine."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from sandbox.wire.ending import Ended, Result
from sandbox.wire.machine import Machine

pytestmark = pytest.mark.anyio


class SlowWire:
    """Each job ends a second after it began."""

    def __init__(self) -> None:
        self.began: list[tuple[str, float]] = []

    async def run(self, request: Mapping[str, object], data: bytes, timeout_s: float, limit: int) -> Result:
        loop = asyncio.get_running_loop()
        self.began.append((f"{request['op']} {request['path']}", loop.time()))
        await asyncio.sleep(1)
        return Result(Ended(how="exited", code=0, total=0, run_s=1, detail=""), b"")

    def follow(
        self, request: Mapping[str, object], data: bytes | memoryview, timeout_s: float, limit: int
    ) -> AsyncIterator[bytes | Ended]:
        raise NotImplementedError

    def check(self) -> None:
        return

    def close(self, reason: str) -> None:
        return

    async def wait_closed(self) -> None:
        return


class SlowMachine(Machine):
    async def _part(self) -> None:
        return

    async def _release(self) -> None:
        return


async def test_reads_overlap_each_other_and_never_a_write() -> None:
    wire = SlowWire()
    machine = SlowMachine(wire, "boot")
    begun = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as calls:
        calls.create_task(machine.read("/a"))
        calls.create_task(machine.read("/b"))
        calls.create_task(machine.write("/a", b""))
        calls.create_task(machine.write("/b", b""))
        calls.create_task(machine.read("/c"))
        calls.create_task(machine.read("/d"))
    assert [(what, at - begun) for what, at in wire.began] == [
        ("read /a", 0),
        ("read /b", 0),
        ("write /a", 1),
        ("write /b", 2),
        ("read /c", 3),
        ("read /d", 3),
    ]


async def test_a_write_that_was_given_up_ends_before_the_next_one_begins() -> None:
    wire = SlowWire()
    machine = SlowMachine(wire, "boot")
    begun = asyncio.get_running_loop().time()
    abandoned = asyncio.create_task(machine.write("/a", b"old"))
    await asyncio.sleep(0.5)
    abandoned.cancel()
    await machine.write("/a", b"new")
    assert [at - begun for _, at in wire.began] == [0, 1]
