"""Where a conversation's commands run, and how what they change reaches the user's folder."""

import io
import os
import tarfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from agent.cli.chat.files import FileHistory
from agent.cli.chat.host import WORKSPACE, HostSandbox
from agent.orchestrator.workspace import Workspace
from agent.repository import Base
from agent.types import Snapshot
from sandbox.types import Backend, Command, Outcome, Sandbox, SandboxSpec

_LIFETIME_S = 24 * 3600.0
"""How long one sandbox serves a conversation; a new one follows."""


class Workplace(Sandbox, Protocol):
    """A machine whose files are the folder's. It is made by the first call that needs it."""

    sandboxed: bool
    """Commands reach neither the network nor anything outside the folder."""

    async def keep(self) -> Snapshot:
        """Bring out what the last call changed; the folder as it is then."""

    async def leave(self) -> None:
        """End the machine. The next call makes another."""


class Host(HostSandbox):
    """No sandbox: the folder itself."""

    sandboxed = False

    def __init__(self, history: FileHistory, on_before: Callable[[str], None]) -> None:
        """
        Args:
            on_before: hears what the folder is before each command and each write.
        """
        super().__init__(history.root)
        self._history = history
        self._on_before = on_before

    async def exec(self, command: Command) -> Outcome:
        self._on_before(await self._history.keep())
        return await super().exec(command)

    async def write(self, path: str, data: bytes) -> None:
        self._on_before(await self._history.keep())
        await super().write(path, data)

    async def keep(self) -> Snapshot:
        return Snapshot(await self._history.keep())

    async def leave(self) -> None:
        """Nothing was opened."""


class Sandboxed:
    """A sandbox with a copy of the folder. What one side changes is carried to the other before and after each call,
    so that a command can do no more to the folder than change files that the history has kept."""

    sandboxed = True

    def __init__(
        self,
        history: FileHistory,
        open_backend: Callable[[], Backend],
        checkpoints: Path,
        on_conflict: Callable[[tuple[str, ...]], None],
        on_before: Callable[[str], None],
    ) -> None:
        """
        Args:
            checkpoints: folder for whole work trees of this conversation.
            on_before: hears what the folder is before anything is done in the sandbox.
            on_conflict: hears which files were changed on both sides; the folder keeps the user's.
        """
        self._history = history
        self._open_backend = open_backend
        self._checkpoints = checkpoints
        self._on_conflict = on_conflict
        self._on_before = on_before
        self._stack = AsyncExitStack()
        self.boot_id = ""
        self._sandbox: Sandbox | None = None
        self._workspace: Workspace | None = None
        self._inside = ""
        """Tree of what the sandbox holds."""

    async def exec(self, command: Command) -> Outcome:
        return await (await self._entered()).exec(command)

    async def read(self, path: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        return await (await self._entered()).read(path, max_bytes)

    async def write(self, path: str, data: bytes) -> None:
        await (await self._entered()).write(path, data)

    async def upload(self, tar: bytes, path: str = WORKSPACE) -> None:
        await (await self._entered()).upload(tar, path)

    async def download(self, path: str = WORKSPACE, max_bytes: int = 512 * 1024 * 1024) -> bytes:
        return await (await self._entered()).download(path, max_bytes)

    async def keep(self) -> Snapshot:
        if self._sandbox is None or self._workspace is None:
            return Snapshot(await self._history.keep())
        kept = await self._workspace.snapshot(self._sandbox)
        if kept.tree != self._inside:
            clashes = await self._history.bring(self._inside, kept.tree)
            self._inside = kept.tree
            if clashes:
                self._on_conflict(clashes)
        return kept

    async def leave(self) -> None:
        self._sandbox = self._workspace = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def close(self) -> None:
        await self.leave()

    async def _entered(self) -> Sandbox:
        """The sandbox, with the folder's files as they are now."""
        now = await self._history.keep()
        self._on_before(now)
        if self._sandbox is None:
            self._sandbox = await self._make(now)
        elif now != self._inside:
            await self._carry_in(self._sandbox, now)
        self._inside = now
        return self._sandbox

    async def _make(self, tree: str) -> Sandbox:
        async with AsyncExitStack() as stack:
            backend = self._open_backend()
            stack.push_async_callback(backend.close)
            sandbox = await backend.acquire(SandboxSpec(lifetime_s=_LIFETIME_S))
            stack.push_async_callback(sandbox.close)
            self.boot_id = sandbox.boot_id
            self._workspace = Workspace(Base(commit="", tree=tree, dirty=False), self._history.trees, self._checkpoints)
            await self._workspace.restore(sandbox, Snapshot(tree))
            self._stack = stack.pop_all()
        return sandbox

    async def _carry_in(self, sandbox: Sandbox, tree: str) -> None:
        """The user changed files since the last call."""
        changes = await self._history.changes(self._inside, tree)
        if gone := [change.path for change in changes if change.gone]:
            names = b"\0".join(map(os.fsencode, gone))
            await sandbox.exec(Command("xargs -0 rm -rf --", request_id=f"gone-{tree}", timeout_s=60, stdin=names))
        present = [change.path for change in changes if not change.gone]
        await sandbox.upload(_tar(self._history.root, present), WORKSPACE)


def _tar(root: Path, names: list[str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name in names:
            if os.path.lexists(root / name):  # it may be gone again by now
                tar.add(root / name, name, recursive=False)
    return out.getvalue()
