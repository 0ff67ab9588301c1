"""Sandboxes on this machine, made of Linux namespaces without any container engine.

What holds a sandbox is described in ``sandbox/namespaces.py``, who watches over it in ``sandbox/holder.py``. Either
all of it stands or :class:`SandboxUnavailable` says what is missing; nothing ever runs with less.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

from sandbox import image
from sandbox.config import SandboxSettings
from sandbox.connection import Connection, Failed, Ready, Result
from sandbox.errors import SandboxError, SandboxLost, SandboxRejected, SandboxUnavailable
from sandbox.types import (
    Command,
    Exited,
    OomKilled,
    Outcome,
    OutputLimit,
    SandboxSpec,
    Signalled,
    TimedOut,
)

_FILE_TIMEOUT_S = 300.0
_CLOSE_PATIENCE_S = 30.0
_MAX_KEPT = 32 * 1024 * 1024
"""Bytes of output kept of commands that ended, so that a repeated request gets the same answer."""
_MAX_TIMEOUT_S = 7 * 24 * 3600.0
_MAX_OUTPUT = 1024 * 1024 * 1024
_MAX_TEXT = 500_000
_MAX_STDIN = 4 * 1024 * 1024
_MAX_PATH = 4096
_NUM_HOST_UIDS = 1_000_000
# asyncio works without TLS, whose libraries every sandbox would carry around.
_NURSE = """
import sys
sys.modules["ssl"] = None
sys.path.append(sys.argv[2])
from sandbox.holder import main
main(int(sys.argv[1]))
"""


class LocalBackend:
    """Starts sandboxes on this machine."""

    name = "local"

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._nursery: _Nursery | None = None
        self._sandboxes: set[LocalSandbox] = set()

    async def acquire(self, spec: SandboxSpec) -> "LocalSandbox":
        wanted = self._settings.namespaces
        made = await self._make(spec, root_mode=wanted == "root" or (wanted == "auto" and os.geteuid() == 0))
        if isinstance(made, Failed) and wanted == "auto" and os.geteuid() == 0:
            # The superuser of a container often is one in name only.
            first, made = made, await self._make(spec, root_mode=False)
            made = first if isinstance(made, Failed) else made
        if isinstance(made, Failed):
            raise SandboxUnavailable(_remedy(made))
        self._sandboxes = {sandbox for sandbox in self._sandboxes if not sandbox.closed} | {made}
        return made

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes))
        self._sandboxes.clear()
        if self._nursery:
            nursery, self._nursery = self._nursery, None
            await asyncio.to_thread(nursery.close)

    async def _make(self, spec: SandboxSpec, *, root_mode: bool) -> "LocalSandbox | Failed":
        boot_id = secrets.token_hex(16)
        host_uid = self._settings.first_host_uid + secrets.randbelow(_NUM_HOST_UIDS)
        plan = image.blueprint(spec, self._settings, name=boot_id[:12], root_mode=root_mode, host_uid=host_uid)
        link, lifeline = self._hire()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(lifeline.close)  # which ends whatever has been made by then
            try:
                connection = await Connection.open(link, plan)
            except SandboxLost as error:
                raise SandboxUnavailable(f"{error}; the service's standard error may say why") from error
            if isinstance(connection, Failed):
                return connection
            on_failure.pop_all()
        return LocalSandbox(connection, lifeline, boot_id)

    def _hire(self) -> tuple[socket.socket, socket.socket]:
        if self._nursery and not self._nursery.alive:
            self._nursery.close()
            self._nursery = None
        try:
            if self._nursery is None:
                self._nursery = _Nursery()
            return self._nursery.hire()
        except OSError as error:
            raise SandboxUnavailable(f"this machine has no room for another sandbox: {error}") from error


class LocalSandbox:
    """One running sandbox; see :class:`sandbox.types.Sandbox`."""

    def __init__(self, connection: Connection, lifeline: socket.socket, boot_id: str) -> None:
        self.boot_id = boot_id
        self.closed = False
        self._connection = connection
        self._lifeline = lifeline
        self._closing: asyncio.Task[None] | None = None
        self._commands: dict[str, asyncio.Task[Outcome]] = {}
        self._forgotten: set[str] = set()
        self._file_turn = asyncio.Lock()
        self._file_calls: set[asyncio.Task[bytes]] = set()

    @property
    def evidence(self) -> Ready:
        """What holds this sandbox, as its own first process reported before anything untrusted ran."""
        return self._connection.ready

    async def exec(self, command: Command) -> Outcome:
        _check_command(command)
        self._connection.check()
        if command.request_id in self._forgotten:
            raise SandboxRejected(f"request {command.request_id} ran long ago; its outcome is no longer kept")
        task = self._commands.get(command.request_id)
        if task is None:
            task = asyncio.create_task(self._run(command))
            self._commands[command.request_id] = task
            task.add_done_callback(self._forget_oldest)
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

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _run(self, command: Command) -> Outcome:
        request = {"op": "exec", "line": command.line, "cwd": command.cwd, "env": command.env}
        timeout_s, limit = command.timeout_s, command.output_limit_bytes
        result = await self._connection.run(request, command.stdin, timeout_s, limit)
        if result.ended.how == "crowded":  # nothing ran, and now there is room
            result = await self._connection.run(request, command.stdin, timeout_s, limit)
        return self._outcome(command, result)

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
            case "failed" | "lost" | "crowded":
                raise SandboxError(f"the command did not start ({ended.how})")

    async def _file(self, op: str, path: str, data: bytes, limit: int) -> bytes:
        _check_path(path)
        # To its end even where the caller gives up, and one after the other: an abandoned write must not land on a
        # newer one.
        call = asyncio.create_task(self._file_in_turn(op, path, data, limit))
        self._file_calls.add(call)
        call.add_done_callback(self._forget_file_call)
        return await asyncio.shield(call)

    def _forget_file_call(self, call: "asyncio.Task[bytes]") -> None:
        self._file_calls.discard(call)
        if not call.cancelled():
            call.exception()  # seen, even where the caller has given up

    async def _file_in_turn(self, op: str, path: str, data: bytes, limit: int) -> bytes:
        async with self._file_turn:
            return await self._file_now(op, path, data, limit)

    async def _file_now(self, op: str, path: str, data: bytes, limit: int) -> bytes:
        result = await self._connection.run({"op": op, "path": path}, data, _FILE_TIMEOUT_S, limit)
        match result.ended.how:
            case "exited":
                return result.output
            case "output_limit":
                raise SandboxRejected(f"{path} is larger than {limit} bytes")
            case "rejected":
                raise SandboxRejected(result.ended.detail)
            case "failed":
                raise OSError(result.ended.code, os.strerror(result.ended.code), path)
        raise SandboxError(f"{op} of {path} did not end: {result.ended.how}")

    def _forget_oldest(self, task: "asyncio.Task[Outcome]") -> None:
        if not task.cancelled():
            task.exception()  # seen, even where the caller has given up
        done = [(name, each) for name, each in self._commands.items() if each.done() and not each.cancelled()]
        kept = sum(len(each.result().output) for _, each in done if each.exception() is None)
        for name, each in done:
            if kept <= _MAX_KEPT:
                break
            if each.exception() is None:
                kept -= len(each.result().output)
            del self._commands[name]
            self._forgotten.add(name)

    async def _close(self) -> None:
        self.closed = True
        self._connection.close("the sandbox was closed")
        await self._connection.wait_closed()
        await asyncio.gather(*self._commands.values(), *self._file_calls, return_exceptions=True)
        # The holder ends the sandbox when our half closes, and closes its own when everything is gone.
        loop = asyncio.get_running_loop()
        with self._lifeline:
            self._lifeline.setblocking(False)
            self._lifeline.shutdown(socket.SHUT_WR)
            try:
                async with asyncio.timeout(_CLOSE_PATIENCE_S):
                    await loop.sock_recv(self._lifeline, 1)
            except ConnectionError:
                return
            except TimeoutError:
                raise SandboxError(f"sandbox {self.boot_id} does not end; look for a stuck process") from None


class _Common(TypedDict):
    """What every outcome carries."""

    output: bytes
    total_bytes: int
    run_s: float
    boot_id: str


class _Nursery:
    """The process that forks sandboxes; see ``sandbox/holder.py``."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            # A terminal's Ctrl-C is for the service, which then closes its sandboxes in order: hence a new session.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _NURSE, str(theirs.fileno()), str(Path(__file__).parents[1])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def hire(self) -> tuple[socket.socket, socket.socket]:
        """A new holder, at the other ends of these: the sandbox's connection, and the lifeline."""
        (connection, theirs), (lifeline, their_line) = socket.socketpair(), socket.socketpair()
        with theirs, their_line:
            socket.send_fds(self._control, [b"1"], [theirs.fileno(), their_line.fileno()])
        return connection, lifeline

    def close(self) -> None:
        self._control.close()
        self._process.wait(_CLOSE_PATIENCE_S)


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


def _check_path(path: str) -> None:
    if not path.startswith("/") or "\0" in path or len(path) > _MAX_PATH or ".." in path.split("/"):
        raise SandboxRejected(f"not an absolute path of a sandbox: {path[:200]!r}")


def _remedy(failed: Failed) -> str:
    advice = _REMEDIES.get(failed.step, "run the service where these kernel features are allowed")
    return f"this machine does not let us make a sandbox ({failed.step}: {failed.detail}); {advice}"


_REMEDIES = {
    "user and PID namespace": "allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; on Ubuntu "
    "also kernel.apparmor_restrict_unprivileged_userns=0 or a profile; in a container, a seccomp profile that lets "
    "unshare through), or run the service as root",
    "namespaces": "allow namespaces (in a container: run it with CAP_SYS_ADMIN and without a seccomp profile that "
    "refuses unshare and mount)",
    "loopback": "allow network namespaces (sysctl user.max_net_namespaces above 0)",
    "root file system": "use Linux 5.14 or newer, and in a container allow mount (AppArmor and seccomp unconfined)",
    "proc": "allow mounting /proc (in a container: --security-opt systempaths=unconfined, or procMount: Unmasked)",
    "user": "allow user namespaces (sysctl user.max_user_namespaces above 0)",
    "seccomp": "use a kernel with seccomp filters, on an x86_64 or aarch64 processor",
}
