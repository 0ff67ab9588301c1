"""Worker processes: killed, stopped, orphaned."""

import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from agent.store.base import TaskRecord
from agent.store.sql import SqlStore
from agent.testing import ScriptedEndpoint, call
from agent.types import AssistantMessage, Event, Message, Status, TaskRequest
from tests.integration.orchestrator.conftest import ASKED_AGAIN, PATCH, REPAIR, persistent, users

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]
START = (sys.executable, "-m", "agent.orchestrator")


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


class Processes:
    """Starts workers on one store; whatever still lives at the end is killed."""

    def __init__(self, stack: AsyncExitStack, store: str, data: Path, url: str) -> None:
        self._stack = stack
        self.arguments = ("--store", store, "--data", str(data), "--model-url", url, "--model", "scripted")

    async def start(self, *options: str) -> Process:
        process = await anyio.open_process([*START, *self.arguments, *options], stdout=None, stderr=None)
        self._stack.push_async_callback(_end, process)
        return process


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.fixture
async def processes(store_url: str, tmp_path: Path, endpoint: str) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(stack, store_url, tmp_path / "data", endpoint)


async def test_run_of_a_killed_worker_is_finished_by_another(
    store: SqlStore, processes: Processes, script: HeldScript, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    first = await processes.start("--lease-ttl", "2")
    await _seen(store, task, lambda event: event.type == "step.started" and event.body["step"] == 3)

    first.send_signal(signal.SIGKILL)
    await first.wait()
    await processes.start("--lease-ttl", "2")
    script.go.set()
    ended = await _over(store, task)

    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
    log = await users(store).events(task.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [event.generation for event in log if event.type == "run.claimed"] == [1, 2]
    intents = [event.body["intent_id"] for event in log if event.type == "tool.intent"]
    assert intents == [event.body["intent_id"] for event in log if event.type == "tool.completed"]
    assert intents == ["1-0", "2-0", "3-0"]


async def test_command_that_ran_when_its_worker_was_killed_is_not_said_to_have_ended(
    store: SqlStore, processes: Processes, endpoint: str, make_request: MakeRequest
) -> None:
    slow = call("bash", command="echo half >> calc.py; [ -e /workspace/notes.txt ] && sleep 500")
    with ScriptedEndpoint(lambda messages: (REPAIR[0], slow, *REPAIR[1:])[_said(messages)]).running() as url:
        task = await users(store).submit(make_request())
        first = await processes.start("--lease-ttl", "2", "--model-url", url)
        await _seen(store, task, lambda event: event.type == "tool.intent" and event.body["step"] == 2)

        first.send_signal(signal.SIGKILL)
        await first.wait()
        await processes.start("--lease-ttl", "2", "--model-url", url)
        ended = await _over(store, task)

    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)
    log = await users(store).events(task.id)
    (observed,) = [e.body["observation"] for e in log if e.type == "tool.completed" and e.body["intent_id"] == "2-0"]
    assert ASKED_AGAIN in observed["text"]
    assert observed["error"]


async def test_sigterm_gives_the_run_back_and_ends_the_process_well(
    store: SqlStore, processes: Processes, script: HeldScript, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    first = await processes.start("--lease-ttl", "3600")
    await _seen(store, task, lambda event: event.type == "step.started" and event.body["step"] == 3)

    first.send_signal(signal.SIGTERM)

    assert await first.wait() == 0
    assert (await users(store).events(task.id))[-1].type == "run.released"
    await processes.start()
    script.go.set()
    ended = await _over(store, task)
    assert (ended.status, ended.patch) == (Status.SUCCEEDED, PATCH)


async def test_worker_ends_with_its_parent(store: SqlStore, processes: Processes, make_request: MakeRequest) -> None:
    task = await users(store).submit(make_request())
    start = [*START, *processes.arguments, "--exit-with-parent"]
    # The shell forks because a command follows; its standard input is what keeps it alive.
    async with await anyio.open_process(["sh", "-c", '"$@" & read line', "sh", *start], stderr=None) as parent:
        await _seen(store, task, lambda event: event.type == "run.provisioned")
        assert parent.stdin is not None
        await parent.stdin.aclose()
        await parent.wait()
        await _seen(store, task, lambda event: event.type == "run.released")


def _said(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


async def _seen(store: SqlStore, task: TaskRecord, wanted: Callable[[Event], bool]) -> None:
    """Return when the task's log has such an event."""
    after = 0
    while True:
        for event in await users(store).wait_for_events(task.id, after=after, timeout_s=60):
            if wanted(event):
                return
            after = event.seq


async def _over(store: SqlStore, task: TaskRecord) -> TaskRecord:
    await _seen(store, task, lambda event: event.type == "task.finished")
    return await users(store).get(task.id)
