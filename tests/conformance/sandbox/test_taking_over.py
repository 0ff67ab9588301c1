"""Sandboxes that outlive whoever made them: they are found, taken over by who has their key, and ended."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sandbox.errors import SandboxLost
from sandbox.inventory import LastingBackend, LastingSandbox
from sandbox.types import Backend, Capability, Command, Exited
from tests.conformance.sandbox.conftest import SMALL

pytestmark = pytest.mark.anyio


@pytest.fixture
def lasting(backend: Backend, only_with) -> LastingBackend:
    only_with(Capability.REATTACH)
    assert isinstance(backend, LastingBackend)
    return backend


@pytest.fixture
async def left(lasting: LastingBackend, acquire) -> AsyncIterator[LastingSandbox]:
    """One whose maker is taken for gone."""
    left = await acquire()
    yield left
    await left.close()


async def test_a_command_that_runs_is_found_and_not_run_again(lasting, left):
    command = Command("echo begun; until [ -e go ]; do sleep 0.02; done; echo ran >> log; cat log", "same", 60)
    first = asyncio.create_task(left.exec(command))
    other = await lasting.attach(left.handle, SMALL)
    second = asyncio.create_task(other.exec(command))
    await other.write("/workspace/go", b"")
    outcome = await second
    assert isinstance(outcome, Exited)
    assert (outcome.output, outcome.boot_id) == (b"begun\nran\n", left.boot_id)
    assert (await first).output == outcome.output
    await other.close()


async def test_without_its_key_nobody_takes_it_over(lasting, left):
    for wrong in (replace(left.handle, key=bytes(32)), replace(left.handle, boot_id="0" * 32)):
        with pytest.raises(SandboxLost):
            await lasting.attach(wrong, SMALL)
    assert isinstance(await left.exec(Command("true", "still-here", 10)), Exited)


async def test_it_is_found_until_it_is_gone_and_then_it_is_lost(lasting, left):
    [found] = [each for each in await lasting.found() if each.id == left.handle.id]
    assert found.ends_at - found.created_at == pytest.approx(SMALL.lifetime_s, abs=60)
    await lasting.remove(found.id)
    await lasting.remove(found.id)
    async with asyncio.timeout(60):
        while found.id in {each.id for each in await lasting.found()}:  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.05)
    with pytest.raises(SandboxLost):
        await left.exec(Command("true", "never", 10))
