"""A repository with a bug, a model that mends it by script, and the processes that let it."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agent.testing import call, turns
from agent.types import AssistantMessage, Message

LOOK = call("bash", command="cat calc.py", reasoning="It subtracts.").model_copy(update={"content": "Let me look."})
MEND = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b")
FINISH = call("finish", summary="add() adds")
REPAIR = turns(LOOK, MEND, FINISH)
PATCHED = "+    return a + b"
ASK = call("ask_user", question="Which sign?", options=["+", "-"])


def asking(messages: Sequence[Message]) -> AssistantMessage:
    """Asks first, then mends."""
    answered = sum(message["role"] == "assistant" for message in messages)
    return (ASK, MEND, FINISH, FINISH)[min(answered, 3)]


def broken_repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@localhost commit -q -m calculator"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder


@asynccontextmanager
async def program(module: str, *arguments: str, env: dict[str, str] | None = None) -> AsyncIterator[None]:
    """``python -m module``, as long as the block lasts."""
    process = await anyio.open_process([sys.executable, "-m", module, *arguments], stdout=None, stderr=None, env=env)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def working(store_url: str, data: Path, model_url: str) -> AsyncIterator[None]:
    """A worker."""
    arguments = ("--store", store_url, "--data", str(data), "--model-url", model_url, "--model", "scripted")
    async with program("agent.orchestrator", *arguments):
        yield


async def until(happened: Callable[[], bool]) -> None:
    with anyio.fail_after(120):
        while not happened():  # noqa: ASYNC110 - other processes do it
            await anyio.sleep(0.05)
