"""A run whose worker is gone goes on in the same sandbox, and what ran there runs once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.store.sql import SqlStore
from agent.testing import ScriptedEndpoint
from agent.types import Event, Status, TaskRequest
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.errors import SandboxLost, SandboxTaken
from sandbox.inventory import LastingBackend
from sandbox.registry import Record, SqlRegistry, open_registry
from sandbox.toolbox.calls import Caller
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import open_toolbox
from sandbox.toolbox.toolbox import RunTools, ToolSandbox
from sandbox.types import Command, Exited, Sandbox, SandboxSpec
from tests.conformance.sandbox import dockerd
from tests.integration.orchestrator.conftest import ASKED_AGAIN, PATCH, REPAIR, users
from tests.integration.orchestrator.processes import Processes, SlowCommand, over, seen

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]
LEASE = ("--lease-ttl", "2")


@pytest.fixture(params=["local", "docker"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def environment(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Of workers, with settings that name the Docker daemon."""
    if kind == "local":
        return dict(os.environ)
    if dockerd.missing():
        pytest.skip(dockerd.missing())
    settings = tmp_path / "sandbox.toml"
    settings.write_text(f'[docker]\naddress = "{request.getfixturevalue("docker_address")}"\n')
    return {**os.environ, "MIMO_SANDBOX_SETTINGS": str(settings)}


@pytest.fixture(scope="module")
def docker_address() -> Iterator[str]:
    with dockerd.running() as address:
        yield address


@pytest.fixture
def slow() -> SlowCommand:
    return SlowCommand(4)


@pytest.fixture
async def processes(store_url: str, tmp_path: Path, slow: SlowCommand) -> AsyncIterator[Processes]:
    with ScriptedEndpoint(slow).running() as url:
        async with AsyncExitStack() as stack:
            yield Processes(stack, store_url, tmp_path / "data", url)
        slow.go.set()


async def test_a_command_outlives_its_killed_worker_and_runs_once(
    store: SqlStore,
    processes: Processes,
    slow: SlowCommand,
    kind: str,
    environment: dict[str, str],
    make_request: MakeRequest,
) -> None:
    task = await users(store).submit(make_request())
    options = (*LEASE, "--sandbox", kind)
    first = await processes.start(*options, env=environment)
    await slow.runs()

    first.send_signal(signal.SIGKILL)
    await first.wait()
    await processes.start(*options, env=environment)
    ended = await over(store, task)

    log = await users(store).events(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH), log
    assert _observed(log)[0] == "waited\ndef add(a, b):\n    return a - b\n[exit code: 0]"
    assert ASKED_AGAIN not in "".join(_observed(log))
    _assert_same_sandbox(log)


async def test_a_worker_that_is_stopped_leaves_its_command_to_the_next(
    store: SqlStore, processes: Processes, slow: SlowCommand, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    first = await processes.start("--lease-ttl", "3600")
    await slow.runs()

    first.send_signal(signal.SIGTERM)
    assert await first.wait() == 0
    await processes.start()
    ended = await over(store, task)

    log = await users(store).events(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH), log
    assert ASKED_AGAIN not in "".join(_observed(log))
    assert "run.released" in [event.type for event in log]
    _assert_same_sandbox(log)


async def test_a_worker_that_was_taken_for_dead_wakes_up_and_changes_nothing(
    store: SqlStore, processes: Processes, slow: SlowCommand, make_request: MakeRequest, tmp_path: Path
) -> None:
    slow.hold(REPAIR[2])
    task = await users(store).submit(make_request())
    said = tmp_path / "said"
    with said.open("wb") as stderr:
        first = await processes.start(*LEASE, stderr=stderr)
    await slow.runs()

    first.send_signal(signal.SIGSTOP)
    await processes.start(*LEASE)
    await seen(store, task, lambda event: event.type == "step.started" and event.body["step"] == 3)
    first.send_signal(signal.SIGCONT)
    async with asyncio.timeout(60):
        while "action=lose" not in said.read_text():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.05)
    slow.go.set()
    ended = await over(store, task)

    log = await users(store).events(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH), log
    assert ASKED_AGAIN not in "".join(_observed(log))
    assert "sandbox.lost" not in [event.type for event in log]
    _assert_same_sandbox(log)


async def test_where_the_sandbox_is_gone_too_the_model_is_told_and_makes_the_call_again(
    store: SqlStore, processes: Processes, slow: SlowCommand, make_request: MakeRequest, backend: LastingBackend
) -> None:
    task = await users(store).submit(make_request())
    first = await processes.start(*LEASE)
    await slow.runs()

    first.send_signal(signal.SIGKILL)
    await first.wait()
    log = await users(store).events(task.id)
    await _end(backend, next(event.body["sandbox"] for event in log if event.type == "run.provisioned"))
    await processes.start(*LEASE)
    ended = await over(store, task)

    log = await users(store).events(task.id)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH), log
    assert [ASKED_AGAIN in text for text in _observed(log)] == [True, False, False, False]
    assert [event.body["taken_over"] for event in log if event.type == "run.provisioned"] == [False, False]


def _observed(log: Sequence[Event]) -> list[str]:
    return [event.body["observation"]["text"] for event in log if event.type == "tool.completed"]


def _assert_same_sandbox(log: Sequence[Event]) -> None:
    had = [event for event in log if event.type == "run.provisioned"]
    assert [event.generation for event in had] == [1, 2]
    assert [event.body["taken_over"] for event in had] == [False, True]
    assert len({(event.body["sandbox"], event.body["boot_id"]) for event in had}) == 1


async def _end(backend: LastingBackend, sandbox: str) -> None:
    await backend.remove(sandbox)
    async with asyncio.timeout(60):
        while sandbox in {each.id for each in await backend.found()}:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.05)


# Two owners, each with a backend of its own, as two processes have.


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[SqlRegistry]:
    async with open_registry(f"sqlite:///{tmp_path}/sandboxes.db") as registry:
        yield registry


@pytest.fixture
async def owners(registry: SqlRegistry) -> AsyncIterator[Callable[[int], RunTools]]:
    """What the owner of a run in this term has."""
    async with AsyncExitStack() as stack:
        opening = [
            open_toolbox(open_backend("local", SandboxSettings()), ToolboxSettings(), registry=registry)
            for _ in range(2)
        ]
        toolboxes = [await stack.enter_async_context(each) for each in opening]
        yield lambda term: toolboxes[term - 1].of(Caller("run", "task", "tenant", term=term))


def _id(sandbox: Sandbox) -> str:
    assert isinstance(sandbox, ToolSandbox)
    return sandbox.id


async def test_a_stale_owner_can_do_nothing_to_a_sandbox_that_was_taken_over(
    owners: Callable[[int], RunTools],
) -> None:
    stale, heir = owners(1), owners(2)
    before = await stale.acquire(SandboxSpec())
    await before.write("/workspace/log", b"mine\n")
    after = await heir.take_over(_id(before))

    with pytest.raises(SandboxTaken):
        await before.exec(Command("echo stale >> log", "stale", 10))
    with pytest.raises(SandboxTaken):
        await before.write("/workspace/log", b"stale\n")
    await stale.close()

    said = await after.exec(Command("cat log", "still-here", 10))
    assert isinstance(said, Exited)
    assert said.output == b"mine\n"
    await heir.close()


async def test_only_its_own_run_takes_a_sandbox_over(owners: Callable[[int], RunTools]) -> None:
    mine = await owners(1).acquire(SandboxSpec())
    other = owners(2)
    other.caller = Caller("another", "task", "tenant", term=2)
    with pytest.raises(SandboxLost):
        await other.take_over(_id(mine))


async def test_what_a_dead_owner_had_is_ended_and_what_is_not_ours_is_left_alone(
    registry: SqlRegistry, backend: LastingBackend
) -> None:
    orphan, stranger = await backend.acquire(SandboxSpec()), await backend.acquire(SandboxSpec())
    # Each is kept alive by its lease at sandboxd, so that nothing but the sweep can end it.
    handle = orphan.handle
    fields = {"id": handle.id, "address": handle.address, "boot_id": handle.boot_id, "key": handle.key}
    gone = {"run": "run", "tenant": "tenant", "owner": "dead", "lease_until": 1.0}
    await registry.put(Record(spec=SandboxSpec(), **fields, **gone))

    async with open_toolbox(open_backend("local", SandboxSettings()), ToolboxSettings(), registry=registry):
        async with asyncio.timeout(60):
            while handle.id in (there := {each.id for each in await backend.found()}):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert stranger.handle.id in there
