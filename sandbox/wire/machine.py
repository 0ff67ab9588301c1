"""What every backend's sandbox has in common, whoever answers at the other end of its wire.

A request id runs once, changes of files take turns, and what a caller may ask is checked before it is sent.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Protocol, TypedDict

from sandbox.checkpoints import transfer
from sandbox.checkpoints.store import CheckpointStore
from sandbox.errors import NotStarted, SandboxError, SandboxLost, SandboxRejected, SandboxTaken
from sandbox.types import Command, Exited, OomKilled, Outcome, OutputLimit, Signalled, TimedOut
from sandbox.wire.ending import Ended, Result
from sandbox.wire.file_turns import FileTurns

_FILE_TIMEOUT_S = 300.0
_TREE_TIMEOUT_S = 900.0
_MAX_KEPT = 32 * 1024 * 1024
"""Bytes kept of commands that ended, so that a repeated request gets the same answer."""
_KEPT_EACH = 1024
"""Bytes that an outcome takes beside its output, roughly."""
_MAX_TIMEOUT_S = 7 * 24 * 3600.0
_MAX_OUTPUT = 1024 * 1024 * 1024
_MAX_TEXT = 500_000
_MAX_STDIN = 4 * 1024 * 1024
_MAX_PATH = 4096


class Wire(Protocol):
    """The service's end of a connection to a sandbox."""

    async def run(self, request: Mapping[str, object], data: bytes, timeout_s: float, limit: int) -> Result:
        """Run one job to its end, giving it ``data`` to read.

        ``request`` holds ``op`` ("exec", or a file call: "read", "write", "upload", "download"), and with it ``line``,
        ``cwd``, ``env`` and ``request_id``, or ``path``.

        Raises:
            SandboxLost: the sandbox is gone, or no longer keeps to the protocol.
        """

    def follow(
        self, request: Mapping[str, object], data: bytes | memoryview, timeout_s: float, limit: int
    ) -> AsyncIterator[bytes | Ended]:
        """Like :meth:`run`, handing over the output as it comes; last comes how the job ended."""

    def check(self) -> None:
        """Raise :class:`SandboxLost` if there is no sandbox any more."""

    def close(self, reason: str) -> None:
        """Every job that still runs raises :class:`SandboxLost` with this reason."""

    async def wait_closed(self) -> None: ...


class Machine(ABC):
    """One running sandbox at the other end of a wire; see :class:`sandbox.types.Sandbox`."""

    def __init__(self, wire: Wire, boot_id: str) -> None:
        self.boot_id = boot_id
        self.closed = False
        self._wire = wire
        self._closing: asyncio.Task[None] | None = None
        self._commands: dict[str, asyncio.Task[Outcome]] = {}
        self._kept: dict[str, int] = {}
        """Commands that ended, the first that did first, and the bytes that each takes."""
        self._kept_bytes = 0
        self._forgotten: set[str] = set()
        self._file_turns = FileTurns()
        self._file_calls: set[asyncio.Task[bytes]] = set()
        self._half_restored = False

    async def exec(self, command: Command) -> Outcome:
        _check_command(command)
        self._wire.check()
        self._check_whole()
        if command.request_id in self._forgotten:
            raise SandboxRejected(f"request {command.request_id} ran long ago; its outcome is no longer kept")
        task = self._commands.get(command.request_id)
        if task is None:
            task = asyncio.create_task(self._run(command))
            self._commands[command.request_id] = task
            task.add_done_callback(partial(self._keep, command.request_id))
        # Shielded: a caller that gives up does not unmake what already ran.
        return await asyncio.shield(task)

    async def read(self, path: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        return await self._file("read", path, b"", max_bytes)

    async def write(self, path: str, data: bytes) -> None:
        await self._file("write", path, data, 0)

    async def upload(self, tar: bytes, path: str = "/workspace") -> None:
        await self._file("upload", path, tar, 0)

    async def download(self, path: str = "/workspace", max_bytes: int = 512 * 1024 * 1024) -> bytes:
        return await self._file("download", path, b"", max_bytes)

    async def checkpoint(self, store: CheckpointStore, path: str = "/workspace", max_bytes: int = 2**30) -> str:
        _check_path(path)
        async with self._file_turns.changing():
            self._check_whole()
            return await transfer.save(partial(self._tree_call, path), store, max_bytes)

    async def restore(self, store: CheckpointStore, checkpoint: str, path: str = "/workspace") -> None:
        _check_path(path)
        async with self._file_turns.changing():
            await transfer.restore(partial(self._tree_call, path), store, checkpoint)
            self._half_restored = False

    async def close(self) -> None:
        """As :meth:`sandbox.types.Sandbox.close`; where somebody else has taken it over, it is left to them."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def detach(self) -> None:
        """Leave it as it is, and whatever runs in it to go on: somebody else takes it over, or its lease ends it. A
        change of files under way is waited for."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._detach())
        await asyncio.shield(self._closing)

    async def _run(self, command: Command) -> Outcome:
        request = {"op": "exec", "line": command.line, "cwd": command.cwd, "env": command.env}
        request["request_id"] = command.request_id
        timeout_s, limit = command.timeout_s, command.output_limit_bytes
        return self._outcome(command, await self._wire.run(request, command.stdin, timeout_s, limit))

    def _outcome(self, command: Command, result: Result) -> Outcome:
        ended = result.ended
        common = _Common(output=result.output, total_bytes=ended.total, run_s=ended.run_s, boot_id=self.boot_id)
        match ended.how:
            case "exited":
                return Exited(code=ended.code, **common)
            case "signalled":
                return Signalled(signal=ended.code, **common)
            case "timed_out":
                return TimedOut(timeout_s=command.timeout_s, **common)
            case "oom_killed":
                return OomKilled(**common)
            case "output_limit":
                return OutputLimit(limit_bytes=command.output_limit_bytes, **common)
            case "rejected":
                raise SandboxRejected(ended.detail)
            case "failed":
                raise NotStarted(f"the command did not start: {ended.detail}")

    async def _file(self, op: str, path: str, data: bytes, limit: int) -> bytes:
        _check_path(path)
        # To its end even where the caller gives up, and in its turn: an abandoned write must not land on a newer one.
        call = asyncio.create_task(self._file_in_turn(op, path, data, limit))
        self._file_calls.add(call)
        call.add_done_callback(self._forget_file_call)
        return await asyncio.shield(call)

    def _forget_file_call(self, call: "asyncio.Task[bytes]") -> None:
        self._file_calls.discard(call)
        if not call.cancelled():
            call.exception()  # seen, even where the caller has given up

    async def _file_in_turn(self, op: str, path: str, data: bytes, limit: int) -> bytes:
        async with self._file_turns.reading() if op == "read" else self._file_turns.changing():
            return await self._file_now(op, path, data, limit)

    async def _file_now(self, op: str, path: str, data: bytes, limit: int) -> bytes:
        result = await self._wire.run({"op": op, "path": path}, data, _FILE_TIMEOUT_S, limit)
        _check_file_call(result.ended, op, path, limit)
        return result.output

    async def _tree_call(self, path: str, op: str, data: bytes | memoryview, limit: int) -> AsyncIterator[bytes]:
        self._half_restored |= op == "tree_in"
        async for part in self._wire.follow({"op": op, "path": path}, data, _TREE_TIMEOUT_S, limit):
            if isinstance(part, Ended):
                _check_file_call(part, op, path, limit)
            else:
                yield part

    def _check_whole(self) -> None:
        if self._half_restored:
            raise SandboxError("the work tree was not restored to its end; restore it again, or end the sandbox")

    def _keep(self, name: str, task: "asyncio.Task[Outcome]") -> None:
        if task.cancelled():
            return
        failed = task.exception() is not None  # seen, even where the caller has given up
        self._kept[name] = _KEPT_EACH + (0 if failed else len(task.result().output))
        self._kept_bytes += self._kept[name]
        while self._kept_bytes > _MAX_KEPT:
            oldest = next(iter(self._kept))
            self._kept_bytes -= self._kept.pop(oldest)
            del self._commands[oldest]
            self._forgotten.add(oldest)

    async def _close(self) -> None:
        try:
            self._wire.check()
        except SandboxTaken:
            await self._detach()
            return
        except SandboxLost:
            pass  # what is left of it is freed
        await self._hang_up("the sandbox was closed")
        await self._part()
        await self._release()

    async def _detach(self) -> None:
        await asyncio.gather(*self._file_calls, return_exceptions=True)
        await self._hang_up("the sandbox was left to somebody else")
        await self._part()

    async def _hang_up(self, reason: str) -> None:
        self.closed = True
        self._wire.close(reason)
        await self._wire.wait_closed()
        await asyncio.gather(*self._commands.values(), *self._file_calls, return_exceptions=True)

    @abstractmethod
    async def _part(self) -> None:
        """Free what is here of the machine behind the wire, which is closed already."""

    @abstractmethod
    async def _release(self) -> None:
        """End that machine, and free everything there."""


class _Common(TypedDict):
    """What every outcome carries."""

    output: bytes
    total_bytes: int
    run_s: float
    boot_id: str


def _check_command(command: Command) -> None:
    texts = (command.line, command.cwd, *command.env, *command.env.values())
    if any("\0" in text for text in texts):
        raise SandboxRejected("a command, its folder or its environment holds a NUL character")
    if any("=" in name or not name for name in command.env):
        raise SandboxRejected("a variable's name is empty or holds '='")
    if not 0 < command.timeout_s <= _MAX_TIMEOUT_S:
        raise SandboxRejected(f"a command's timeout must be above 0 and at most {_MAX_TIMEOUT_S:.0f} seconds")
    if not 0 <= command.output_limit_bytes <= _MAX_OUTPUT:
        raise SandboxRejected(f"a command's output limit must be between 0 and {_MAX_OUTPUT} bytes")
    if len(command.stdin) > _MAX_STDIN:
        raise SandboxRejected(f"a command's input is longer than {_MAX_STDIN} bytes; write it to a file")
    if sum(map(len, texts)) > _MAX_TEXT:
        raise SandboxRejected(f"a command and its environment are longer than {_MAX_TEXT} characters")
    _check_path(command.cwd)
    try:
        for text in texts:
            os.fsencode(text)
    except UnicodeEncodeError as error:
        raise SandboxRejected("a command holds a character that cannot be written as bytes") from error


def _check_file_call(ended: Ended, op: str, path: str, limit: int) -> None:
    match ended.how:
        case "exited":
            return
        case "output_limit":
            raise SandboxRejected(f"{path} is larger than {limit} bytes")
        case "rejected":
            raise SandboxRejected(ended.detail)
        case "failed":
            raise OSError(ended.code, os.strerror(ended.code), path)
    raise SandboxError(f"{op} of {path} did not end: {ended.how}")


def _check_path(path: str) -> None:
    if not path.startswith("/") or "\0" in path or len(path) > _MAX_PATH or ".." in path.split("/"):
        raise SandboxRejected(f"not an absolute path of a sandbox: {path[:200]!r}")
