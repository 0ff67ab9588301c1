"""Worker processes on one store, and what tests wait for in its log."""

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO

import anyio
from anyio.abc import Process

from agent.store.base import TaskRecord
from agent.store.sql import SqlStore
from agent.testing import call
from agent.types import AssistantMessage, Event, Message
from tests.integration.orchestrator.conftest import REPAIR, persistent, users

START = (sys.executable, "-m", "agent.orchestrator")


class Processes:
    """Starts workers on one store; whatever still lives at the end is killed."""

    def __init__(self, stack: AsyncExitStack, store: str, data: Path, url: str, *options: str) -> None:
        self._stack = stack
        self.arguments = ("--store", store, "--data", str(data), "--model-url", url, "--model", "scripted", *options)

    async def start(
        self, *options: str, env: Mapping[str, str] | None = None, stderr: IO[bytes] | None = None
    ) -> Process:
        command = [*START, *self.arguments, *options]
        process = await anyio.open_process(command, stdout=None, stderr=stderr, env=env)
        self._stack.push_async_callback(_end, process)
        return process


class SlowCommand:
    """``REPAIR``, whose first command adds its line to a file and then takes its time."""

    def __init__(self, seconds: int) -> None:
        self.marker = f"{seconds}.{random.randrange(10**9):09}"
        line = f"echo step >> notes.txt; sleep {self.marker}; echo waited; cat calc.py"
        self.go = threading.Event()
        self._answer = persistent(call("bash", command=line), *REPAIR[1:])
        self._held: AssistantMessage | None = None

    def __call__(self, messages: Sequence[Message]) -> AssistantMessage:
        answer = self._answer(messages)
        if answer == self._held:
            self.go.wait()
        return answer

    def hold(self, answer: AssistantMessage) -> None:
        """It is not given before ``go``."""
        self._held = answer

    async def runs(self) -> None:
        """Return when the command does."""
        async with asyncio.timeout(120):
            while not await asyncio.to_thread(_runs, self.marker):  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(0.05)


def _runs(argument: str) -> bool:
    for folder in Path("/proc").iterdir():
        try:
            if argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


async def seen(store: SqlStore, task: TaskRecord, wanted: Callable[[Event], bool]) -> None:
    """Return when the task's log has such an event."""
    after = 0
    while True:
        for event in await users(store).wait_for_events(task.id, after=after, timeout_s=60):
            if wanted(event):
                return
            after = event.seq


async def over(store: SqlStore, task: TaskRecord) -> TaskRecord:
    await seen(store, task, lambda event: event.type == "task.finished")
    return await users(store).get(task.id)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
