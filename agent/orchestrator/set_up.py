"""Work trees made ready by a script of the user, once; what the script adds to the files of the commit is kept."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import RepositoryError
from agent.lock import alone
from agent.patch import TaskRepository
from agent.repository import Base
from agent.tools.bash import describe_ending
from agent.types import Event, SetUp
from sandbox.checkpoints.rewindable import Rewindable
from sandbox.checkpoints.store import CheckpointStore
from sandbox.errors import NoRoom, SandboxError, SandboxRejected
from sandbox.types import Backend, Command, Exited, Outcome, Sandbox, SandboxSpec

_MAX_BYTES = 4 * 1024**3
_LOG_CHARS = 4000
_LIST = "/tmp/files-of-the-commit"  # noqa: S108 - of the sandbox
_REST_S = 300.0

Append = Callable[[str, dict[str, Any]], Awaitable[Event]]


@dataclass(frozen=True, slots=True)
class Place:
    """What a set-up starts from."""

    project_id: str
    base: Base
    repository: TaskRepository
    spec: SandboxSpec


class SetUps:
    """Those of all projects, in a folder that workers share. A project's are never given to another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def furnished(self, tools: Backend, setup: SetUp, place: Place, append: Append) -> Backend:
        """A backend whose sandboxes begin with what the script adds; the script runs where that is not kept yet.

        Raises:
            RepositoryError: the script failed, or could not be run; the message holds the end of what it wrote.
            NoRoom: for its sandbox, now.
        """
        folder = self._folder / place.project_id / _key(setup, place)
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        done = folder / "checkpoint"
        async with alone(folder / "turn"):
            if not (done.exists() and done.stat().st_size):  # Empty where its writer was killed, or had no room.
                checkpoint, outcome = await _run(tools, setup, place, CheckpointStore(folder))
                await append("setup.completed", {"duration_s": outcome.run_s, "output": _end_of(outcome)})
                done.write_text(checkpoint, "ascii")
        return _Furnished(tools, CheckpointStore(folder), done.read_text("ascii"))


async def _run(tools: Backend, setup: SetUp, place: Place, store: CheckpointStore) -> tuple[str, Outcome]:
    """The checkpoint of what the script left beside the commit's files, in a sandbox of its own."""
    try:
        sandbox = await tools.acquire(place.spec)
        try:
            if not isinstance(sandbox, Rewindable):
                raise RepositoryError(f"the sandboxes of {tools.name} keep no set-up; leave it out")
            await sandbox.upload(await place.repository.archive(place.base.tree, place.base.tree))
            outcome = await sandbox.exec(Command(setup.script, request_id="setup", timeout_s=setup.timeout_s))
            if not (isinstance(outcome, Exited) and outcome.code == 0):
                raise RepositoryError(f"the set-up failed: {describe_ending(outcome)}\n{_end_of(outcome)}")
            await _remove_commit(sandbox, place)
            return await sandbox.checkpoint(store, max_bytes=_MAX_BYTES), outcome
        finally:
            await sandbox.close()
    except NoRoom:
        raise
    except SandboxRejected as error:
        raise RepositoryError(f"what the set-up left cannot be kept: {error}") from error
    except SandboxError as error:
        raise RepositoryError(f"the set-up could not be run: {error}") from error


async def _remove_commit(sandbox: Sandbox, place: Place) -> None:
    """Take the commit's own files out again: every sandbox gets them anew, as they are then."""
    entries = await place.repository.entries(place.base.tree)
    await sandbox.write(_LIST, b"".join(entry.path + b"\0" for entry in entries))
    line = f"xargs -0 -r rm -f -- < {_LIST} && rm -rf .git {_LIST}"
    outcome = await sandbox.exec(Command(line, request_id="remove-commit", timeout_s=_REST_S))
    if not (isinstance(outcome, Exited) and outcome.code == 0):
        raise RepositoryError(f"the set-up left files of the commit that cannot be removed: {_end_of(outcome)}")


class _Furnished:
    """A backend whose sandboxes begin with a checkpoint in their work tree."""

    def __init__(self, tools: Backend, store: CheckpointStore, checkpoint: str) -> None:
        self.name, self.capabilities, self.close = tools.name, tools.capabilities, tools.close
        self._tools = tools
        self._store = store
        self._checkpoint = checkpoint

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        sandbox = await self._tools.acquire(spec)
        try:
            assert isinstance(sandbox, Rewindable), sandbox
            await sandbox.restore(self._store, self._checkpoint)
        except BaseException:
            await sandbox.close()
            raise
        return sandbox


def _key(setup: SetUp, place: Place) -> str:
    """The same files, script, machine and network give the same work."""
    machine = place.spec.model_dump(mode="json", include={"image", "network", "allow_hosts"})
    said = json.dumps([place.base.tree, setup.script, machine], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _end_of(outcome: Outcome) -> str:
    return outcome.output.decode("utf-8", "replace")[-_LOG_CHARS:]
