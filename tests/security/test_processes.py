"""What runs in a sandbox ends with it, and touches nobody else's."""

import asyncio
import secrets

import pytest

from sandbox.errors import SandboxLost
from sandbox.types import Exited, Sandbox, TimedOut
from tests.security.conftest import Acquire, line, run, tried
from tests.security.host import Host, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def marker() -> str:
    """Names processes and files of one test."""
    return f"mimo-{secrets.token_hex(6)}"


async def test_no_signal_ends_the_first_process_or_one_of_the_host(prison: Sandbox, host: Host) -> None:
    said = await tried(prison, "processes.kill", host.process.pid)
    assert said["host"] == "ESRCH"
    assert len(said) == 66
    outcome = await run(prison, line("processes.kill_all"))
    assert outcome.output.startswith(b"now\n")
    assert (await run(prison, "echo alive")).output == b"alive\n"


async def test_one_sandbox_does_not_find_another(prison: Sandbox, acquire: Acquire, marker: str) -> None:
    other = await acquire()
    places = ("/workspace", "/tmp", "/dev/shm", "/var/tmp", "/home/sandbox")
    for place in places:
        await other.write(f"{place}/{marker}", b"mine")
    sleeping = asyncio.create_task(run(other, f"exec -a {marker} sleep 60"))
    await _until_running(marker, 1)
    said = await tried(prison, "processes.others", marker)
    assert said == {"processes": "ESRCH", "files": "ESRCH"}
    assert running(marker)
    assert [await other.read(f"{place}/{marker}") for place in places] == [b"mine"] * len(places)
    await other.close()
    with pytest.raises(SandboxLost):
        await sleeping
    await _until_gone(marker)


async def test_processes_deaf_to_signals_are_gone_at_the_deadline(prison: Sandbox, marker: str) -> None:
    outcome = await run(prison, line("processes.linger", marker) + "; sleep 60", timeout_s=1.5)
    assert isinstance(outcome, TimedOut), outcome
    assert running(marker) == []


async def test_a_detached_process_is_gone_with_its_sandbox(acquire: Acquire, marker: str) -> None:
    sandbox = await acquire()
    assert isinstance(await run(sandbox, line("processes.linger", marker)), Exited)
    await _until_running(marker, 8)
    await sandbox.close()
    await _until_gone(marker)


async def test_sandboxd_is_not_replaced_while_it_runs(prison: Sandbox, host: Host) -> None:
    """The programs of file calls live for a moment only: so they are looked for all the time."""
    trying = asyncio.create_task(tried(prison, "files.overwrite", 2))
    while not trying.done():
        await prison.write("/workspace/file", b"x" * 100_000)
    said = await trying
    assert said.pop("seen") == "done"
    assert set(said.values()) <= {"EACCES", "ENOENT", "ENOTDIR", "EROFS", "ENXIO", "EISDIR", "ETXTBSY"}


async def _until_running(marker: str, number: int) -> None:
    async with asyncio.timeout(20):
        while len(running(marker)) < number:  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.02)


async def _until_gone(marker: str) -> None:
    """A pod may take the moment that its cluster takes; others are gone at once."""
    async with asyncio.timeout(20):
        while running(marker):  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.02)
