"""Whoever takes all there is of something takes what is his own: neighbours and the service do not notice."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from sandbox.errors import SandboxLost
from sandbox.types import Backend, Capability, Exited, OomKilled, OutputLimit, Sandbox, TimedOut
from tests.security.conftest import Acquire, line, on_the_host, run, tried

pytestmark = pytest.mark.anyio

ENDS = {
    "fork": (TimedOut, OomKilled),
    "threads": (TimedOut, OomKilled),
    "memory": (OomKilled,),
    "files_in_memory": (OomKilled, Exited, TimedOut, SandboxLost),
    "shared_memory": (OomKilled, Exited, TimedOut, SandboxLost),
    "pipes": (OomKilled, Exited, TimedOut, SandboxLost),
    "output": (OutputLimit,),
    "many_outputs": (OutputLimit,),
}
"""Bomb -> how it may end. ``Exited``: with an error, where the kernel refuses more before the bound is reached.
``SandboxLost``: memory that is no process's own makes the kernel end one after the other, and sandboxd as the last.
In pods what the kernel notes of each file counts as their memory, so that ``inodes`` may end as ``memory`` does; where
the number of files is not bounded, it may also end with all made that it wanted."""


@pytest.fixture(scope="module")
async def neighbour(acquire: Acquire) -> Sandbox:
    return await acquire()


@pytest.fixture
async def victim(acquire: Acquire) -> AsyncIterator[Sandbox]:
    """Closed at once: a small cluster has no room for them all."""
    sandbox = await acquire()
    yield sandbox
    await sandbox.close()


@pytest.mark.parametrize("bomb", ENDS)
async def test_a_bomb_ends_and_its_neighbour_is_well(bomb: str, victim: Sandbox, neighbour: Sandbox) -> None:
    exploding = asyncio.create_task(run(victim, line(f"bombs.{bomb}"), timeout_s=1.5))
    while not exploding.done():
        assert await _is_well(neighbour)
        await asyncio.sleep(0.2)
    outcome = exploding.exception() or exploding.result()
    assert isinstance(outcome, ENDS[bomb]), outcome
    assert getattr(outcome, "code", 1) != 0, outcome
    if not isinstance(outcome, SandboxLost):
        assert await _is_well(victim)
    assert await _is_well(neighbour)


@pytest.mark.parametrize(
    ("bomb", "refused_by"),
    [
        ("disk", {"ENOSPC"}),
        ("hole", {"ENOSPC"}),
        ("inodes", {"ENOSPC"}),
        ("descriptors", {"EMFILE", "ENFILE"}),
        ("logs", {"EACCES", "ENOENT", "ENXIO"}),
    ],
)
async def test_there_is_no_more_than_the_bound(
    bomb: str, refused_by: set[str], victim: Sandbox, neighbour: Sandbox, backend: Backend
) -> None:
    outcome = await run(victim, line(f"bombs.{bomb}"))
    bounded = bomb != "inodes" or Capability.BOUNDED_FILES in backend.capabilities
    if bounded or not isinstance(outcome, OomKilled):
        assert getattr(outcome, "code", None) == 0, outcome
        said = json.loads(outcome.output)
        assert said
        assert set(said.values()) <= (refused_by if bounded else refused_by | {"done"}), said
    assert await _is_well(neighbour)


_SHARED = {
    "local-user": "its user is the service's, whose bound it would take",
    "docker": "its user is that of every container, whose bound it would take",
}


async def test_what_the_kernel_counts_by_user_is_taken_from_nobody_else(
    kind: str, victim: Sandbox, neighbour: Sandbox
) -> None:
    if reason := _SHARED.get(kind):
        pytest.skip(reason)
    took = await tried(victim, "bombs.counted_by_user")
    assert took == {"watches": "EMFILE", "queues": "EMFILE"}
    assert await tried(victim, "bombs.one_of_each") == took
    assert await tried(neighbour, "bombs.one_of_each") == {"watches": "done", "queues": "done"}
    assert json.loads(on_the_host("bombs.one_of_each")) == {"watches": "done", "queues": "done"}


async def _is_well(sandbox: Sandbox) -> bool:
    outcome = await run(sandbox, "echo well > /workspace/well && cat /workspace/well", timeout_s=30)
    return outcome.output == b"well\n"
