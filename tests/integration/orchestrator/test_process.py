"""Worker processes: killed, stopped, orphaned."""

import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from agent.store.sql import SqlStore
from agent.testing import ScriptedEndpoint
from agent.types import AssistantMessage, Message, Status, TaskRequest
from tests.integration.orchestrator.conftest import PATCH, REPAIR, persistent, users
from tests.integration.orchestrator.processes import START, Processes, over, seen

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]


class HeldScript:
    """``REPAIR``, whose third answer waits for ``go``: the endpoint is slow as long as a test wants."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self._answer = persistent(*REPAIR)

    def __call__(self, messages: Sequence[Message]) -> AssistantMessage:
        answer = self._answer(messages)
        if answer == REPAIR[2]:
            self.go.wait()
        return answer


@pytest.fixture
def script() -> Iterator[HeldScript]:
    script = HeldScript()
    yield script
    script.go.set()


@pytest.fixture
def endpoint(script: HeldScript) -> Iterator[str]:
    with ScriptedEndpoint(script).running() as url:
        yield url
        script.go.set()


@pytest.fixture
async def processes(store_url: str, tmp_path: Path, endpoint: str) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(stack, store_url, tmp_path / "data", endpoint)


async def test_run_of_a_killed_worker_is_finished_by_another(
    store: SqlStore, processes: Processes, script: HeldScript, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    first = await processes.start("--lease-ttl", "2")
    await seen(store, task, lambda event: event.type == "step.started" and event.body["step"] == 3)

    first.send_signal(signal.SIGKILL)
    await first.wait()
    await processes.start("--lease-ttl", "2")
    script.go.set()
    ended = await over(store, task)

    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
    log = await users(store).events(task.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [event.generation for event in log if event.type == "run.claimed"] == [1, 2]
    intents = [event.body["intent_id"] for event in log if event.type == "tool.intent"]
    assert intents == [event.body["intent_id"] for event in log if event.type == "tool.completed"]
    assert intents == ["1-0", "2-0", "3-0"]


async def test_sigterm_gives_the_run_back_and_ends_the_process_well(
    store: SqlStore, processes: Processes, script: HeldScript, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    first = await processes.start("--lease-ttl", "3600")
    await seen(store, task, lambda event: event.type == "step.started" and event.body["step"] == 3)

    first.send_signal(signal.SIGTERM)

    assert await first.wait() == 0
    assert (await users(store).events(task.id))[-1].type == "run.released"
    await processes.start()
    script.go.set()
    ended = await over(store, task)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)


async def test_worker_ends_with_its_parent(store: SqlStore, processes: Processes, make_request: MakeRequest) -> None:
    task = await users(store).submit(make_request())
    start = [*START, *processes.arguments, "--exit-with-parent"]
    # The shell forks because a command follows; its standard input is what keeps it alive.
    async with await anyio.open_process(["sh", "-c", '"$@" & read line', "sh", *start], stderr=None) as parent:
        await seen(store, task, lambda event: event.type == "run.provisioned")
        assert parent.stdin is not None
        await parent.stdin.aclose()
        await parent.wait()
        await seen(store, task, lambda event: event.type == "run.released")


async def test_worker_may_have_more_files_open_than_a_shell_allows(
    store: SqlStore, processes: Processes, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    async with await anyio.open_process(
        ["prlimit", "--nofile=256:4096", *START, *processes.arguments], stdout=None, stderr=None
    ) as worker:
        await seen(store, task, lambda event: event.type == "run.provisioned")
        allowed = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        worker.send_signal(signal.SIGTERM)

    assert allowed == (4096, 4096)
