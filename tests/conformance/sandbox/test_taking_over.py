"""Sandboxes that outlive whoever made them: they are found, taken over by who has their key, and ended."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sandbox.errors import SandboxLost, SandboxTaken
from sandbox.inventory import LastingBackend, LastingSandbox
from sandbox.types import Backend, Capability, Command, Exited
from tests.conformance.sandbox.conftest import SMALL, WITH_CLAIMS

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("backend", WITH_CLAIMS, indirect=True, scope="session")]


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


async def test_what_a_command_said_is_kept_for_who_asks_again(lasting, left):
    commands = [Command(f"echo {number} | tee -a log", f"said-{number}", 60) for number in range(3)]
    for command in commands:
        await left.exec(command)
    await left.detach()
    other = await lasting.attach(left.handle, SMALL)
    said = [await other.exec(command) for command in commands]
    assert [outcome.output for outcome in said] == [b"0\n", b"1\n", b"2\n"]
    assert await other.read("/workspace/log") == b"0\n1\n2\n"
    await other.close()


async def test_a_sandbox_that_was_left_goes_on_and_its_old_backend_does_not_end_it(lasting, left):
    command = Command("echo begun >> log; until [ -e go ]; do sleep 0.02; done; cat log", "goes-on", 60)
    first = asyncio.create_task(left.exec(command))
    while (await left.client.health()).running == 0:  # noqa: ASYNC110  # nobody tells us
        await asyncio.sleep(0.02)
    await left.detach()
    with pytest.raises(SandboxLost):
        await first
    await left.close()  # as a backend does at its own end
    other = await lasting.attach(left.handle, SMALL)
    await other.write("/workspace/go", b"")
    outcome = await other.exec(command)
    assert isinstance(outcome, Exited)
    assert outcome.output == b"begun\n"
    await other.close()


async def test_who_has_it_in_a_later_term_shuts_out_who_had_it_before(lasting, left):
    await left.exec(Command("echo mine > log", "mine", 10))
    other = await lasting.attach(left.handle, SMALL, 2)
    with pytest.raises(SandboxTaken):
        await left.write("/workspace/log", b"stale")
    with pytest.raises(SandboxTaken):
        await left.exec(Command("echo stale > log", "stale", 10))
    with pytest.raises(SandboxTaken):
        await lasting.attach(left.handle, SMALL, 1)
    await left.close()
    assert await other.read("/workspace/log") == b"mine\n"
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
