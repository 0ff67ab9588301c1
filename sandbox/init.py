"""The first process of a sandbox: runs jobs asked for over a socket, and reaps every orphan.

A job is a shell command or a file call, in a process tree of its own under a keeper (``sandbox/keeper.py``). All
processes here have one user, so a command can end its own keeper and must gain nothing by it: deadlines, bounds and
the counting of output are this process's own business, and no signal from inside the namespace ends it.

Asked:    ``{"op": "exec" | "read" | ..., "job": n, ...}``, then ``{"op": "input", "job": n, "last": bool}`` + bytes
Answered: ``{"event": "output", "job": n}`` + bytes, and at the end ``{"event": "ended", "job": n, "how": ...}``
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sandbox import frames
from sandbox.keeper import Keeper, Kit
from sandbox.memory import MemoryWatch

_CHUNK = 256 * 1024
_MEMORY_POLL_S = 0.1
_KILL_PATIENCE_S = 1.0
_UNKILLABLE_S = 5.0
_MAX_TRIES = 10
_MAX_TOLD = 8192


@dataclass(slots=True)
class _Job:
    number: int
    is_command: bool
    timeout_s: float
    limit: int
    keeper: int
    output: int
    """Descriptor of standard output and error, ours to read; -1 once it has ended."""
    status: int
    """Descriptor on which the keeper tells how the job ended."""
    started: float
    kills_before: int
    kept: int = 0
    total: int = 0
    ended: bool = False
    # Holds all of a command's input, so that one which does not read never keeps us from listening.
    input: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(8))
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """The caller gave up, or there was too much output."""


async def serve(connection: socket.socket, kit: Kit, watch: MemoryWatch) -> None:
    """Serve one connection until it closes."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    # A failure of ours in any job ends the whole, which the other side sees: better than a job without an end.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        try:
            async with asyncio.TaskGroup() as tasks:
                init = _Init(reader, writer, kit, watch, tasks)
                asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, init.reap)
                await init.listen()
        except* (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ConnectionResetError from error


class _Init:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        kit: Kit,
        watch: MemoryWatch,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._kit = kit
        self._watch = watch
        self._tasks = tasks
        self._jobs: dict[int, _Job] = {}
        self._keepers: set[int] = set()
        """Those that have a job, or had one and look after what it left."""
        self._spare: Keeper | None = kit.fork_keeper()

    async def listen(self) -> None:
        while True:
            head, body = await frames.read(self._reader)
            number = int(str(head["job"]))
            job = self._jobs.get(number)
            match head["op"]:
                case "input":
                    if job:
                        # Waits while the job takes no more, and with it the other side: nothing piles up here.
                        await job.input.put(body)
                        if head["last"]:
                            await job.input.put(None)
                case "stop":
                    if job:
                        job.stop.set()
                case _:
                    await self._start(number, head)

    def reap(self) -> None:
        while (pid := _reap_one()) is not None:
            self._keepers.discard(pid)
            if self._spare and self._spare.pid == pid:
                self._drop_spare()

    # --- one job ---------------------------------------------------------------------------------------------------

    async def _start(self, number: int, head: dict[str, object]) -> None:
        started = time.monotonic()
        kills_before = self._watch.num_kills()
        input_read, input_write = os.pipe2(os.O_CLOEXEC)
        output_read, output_write = os.pipe2(os.O_CLOEXEC)
        status_read, status_write = os.pipe2(os.O_CLOEXEC)
        keeper = await self._engage(head, input_read, output_write, status_write)
        for fd in (input_read, output_write, status_write):
            os.close(fd)
        for fd in (input_write, output_read, status_read):
            os.set_blocking(fd, False)
        self._keepers.add(keeper)
        is_command = head["op"] == "exec"
        timeout_s, limit = float(str(head["timeout_s"])), int(str(head["limit"]))
        job = _Job(number, is_command, timeout_s, limit, keeper, output_read, status_read, started, kills_before)
        self._jobs[number] = job
        feed = self._tasks.create_task(_feed(job, input_write))
        self._tasks.create_task(self._copy_output(job))
        self._tasks.create_task(self._run(job, feed))

    async def _engage(self, head: dict[str, object], source: int, output: int, status: int) -> int:
        """Give the job to a keeper and return its process id."""
        for _ in range(_MAX_TRIES):
            try:
                keeper = self._spare or self._kit.fork_keeper()
            except BlockingIOError:  # no process left for us
                await self._kill_all()
                continue
            self._spare = None
            if keeper.give(head, source, output, status):
                return keeper.pid
        raise ConnectionResetError("no keeper lives long enough to be given a job")

    def _prepare(self) -> None:
        """Fork the next keeper while nobody waits for it."""
        if self._spare is None:
            with contextlib.suppress(BlockingIOError):  # no process left: the next job will make room
                self._spare = self._kit.fork_keeper()

    def _drop_spare(self) -> None:
        if self._spare:
            self._spare.line.close()
            self._spare = None

    async def _run(self, job: _Job, feed: asyncio.Task[None]) -> None:
        told = asyncio.create_task(_read_status(job.status))
        stop = asyncio.create_task(job.stop.wait())
        how = await self._wait(job, told, stop)
        self._take_rest(job)
        if not how and job.total > job.limit:
            how = "output_limit"
        if how:
            await self._kill(job)
            self._take_rest(job)
        status = {"how": how, "code": 0} if how else await self._explain(job, told.result())
        job.ended = True
        del self._jobs[job.number]
        run_s = time.monotonic() - job.started
        self._send({"event": "ended", "job": job.number, "total": job.total, "run_s": run_s, "detail": "", **status})
        asyncio.get_running_loop().call_soon(self._prepare)
        for task in (told, stop, feed):
            task.cancel()
        while not job.input.empty():
            job.input.get_nowait()  # lets go of a listener that waits to put more

    async def _explain(self, job: _Job, status: dict[str, object]) -> dict[str, object]:
        """What the keeper told, corrected by what only we can know."""
        if not job.is_command:
            return status
        if status["how"] == "crowded":
            # Nothing ran. Earlier commands left as many processes as are allowed, so they go.
            await self._kill_all()
            return status
        if status["how"] == "lost":
            # The keeper was ended from inside; what it kept together is now nobody's, so everything goes.
            await self._kill_all()
            status = {"how": "signalled", "code": int(signal.SIGKILL)}
        failed = status["how"] != "exited" or status["code"] != 0
        if failed and self._watch.num_kills() > job.kills_before:
            # The shell lost a process to the kernel, and says so in its exit code or by having died itself.
            return {"how": "oom_killed", "code": 0}
        return status

    async def _wait(self, job: _Job, told: "asyncio.Task[dict[str, object]]", stop: "asyncio.Task[bool]") -> str:
        """Until the job ends by itself, which gives "", or must be ended, which gives why."""
        deadline = job.started + job.timeout_s
        while not told.done():
            left = deadline - time.monotonic()
            if left <= 0:
                return "timed_out"
            if stop.done():
                return "output_limit"
            # What the kernel already ended may leave room for the rest, which would wait for it in vain.
            if job.is_command and (self._watch.exceeded() or self._watch.num_kills() > job.kills_before):
                return "oom_killed"
            patience = min(left, _MEMORY_POLL_S) if job.is_command else left
            await asyncio.wait({told, stop}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        return ""

    async def _kill(self, job: _Job) -> None:
        """End a job and all it started. What other jobs left running goes on, unless this one outruns us."""
        if self._keepers <= {job.keeper}:
            await self._kill_all()
            return
        give_up = time.monotonic() + _KILL_PATIENCE_S
        stopped: set[int] = set()
        while new := _descendants(job.keeper) - stopped:
            # Stopped first: what is killed makes room for more under the bound on processes, what is stopped does not.
            _signal(new, signal.SIGSTOP)
            stopped |= new
            if time.monotonic() > give_up:
                await self._kill_all()
                return
        _signal(stopped, signal.SIGKILL)
        # The keeper goes last: until then, it is where orphans end up.
        await _until(lambda: not _descendants(job.keeper))
        _signal({job.keeper}, signal.SIGKILL)
        await _until(lambda: job.keeper not in self._keepers)

    async def _kill_all(self) -> None:
        """End everything but ourselves, which the kernel does in one go that no fork escapes."""
        self._drop_spare()
        _signal({-1}, signal.SIGKILL)
        await _until(self._is_alone)

    def _is_alone(self) -> bool:
        self.reap()
        return not _has_children()

    async def _copy_output(self, job: _Job) -> None:
        """Hand on what the job writes; after its end, keep its background processes from blocking on a full pipe."""
        more = True
        while more:
            await _readable(job.output)
            more = self._take(job, _CHUNK)
            await self._writer.drain()
        os.close(job.output)
        job.output = -1

    def _take(self, job: _Job, size: int) -> bool:
        """Read once; False at the end of the output."""
        try:
            data = os.read(job.output, size)
        except BlockingIOError:
            return True
        if data and not job.ended:
            job.total += len(data)
            kept = data[: job.limit - job.kept]
            job.kept += len(kept)
            if kept:
                self._send({"event": "output", "job": job.number}, kept)
            if job.total > job.limit:
                job.stop.set()
        return bool(data)

    def _take_rest(self, job: _Job) -> None:
        """What is in the pipe now that the job has ended. More may come from what it left behind, without end."""
        if job.output == -1:
            return
        left = struct.unpack("i", fcntl.ioctl(job.output, termios.FIONREAD, bytes(4)))[0]
        while left > 0:
            size = min(left, _CHUNK)
            self._take(job, size)
            left -= size

    def _send(self, head: dict[str, object], body: bytes = b"") -> None:
        self._writer.write(frames.encode(head, body))


async def _feed(job: _Job, fd: int) -> None:
    """Hand input to the job until it ends or will take no more."""
    try:
        while (data := await job.input.get()) is not None:
            view = memoryview(data)
            while view:
                await _writable(fd)
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(fd, view) :]
    except BrokenPipeError:
        while await job.input.get() is not None:
            pass
    finally:
        os.close(fd)


async def _read_status(fd: int) -> dict[str, object]:
    """The one line a keeper writes; ``lost`` where it ended without."""
    told = b""
    try:
        while not told.endswith(b"\n") and len(told) < _MAX_TOLD:
            await _readable(fd)
            data = os.read(fd, _MAX_TOLD)
            if not data:
                return {"how": "lost", "code": 0}
            told += data
    finally:
        os.close(fd)
    return dict(json.loads(told.partition(b"\n")[0]))


async def _until(done: Callable[[], bool]) -> None:
    """Wait for what the kernel does soon after a signal; there is nothing to be told by."""
    give_up = time.monotonic() + _UNKILLABLE_S
    while not done():
        if time.monotonic() > give_up:
            os._exit(1)  # a process is stuck in the kernel: the sandbox cannot keep its word, so it ends
        await asyncio.sleep(0.001)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def _reap_one() -> int | None:
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return pid or None


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(root: int) -> set[int]:
    """Processes below ``root`` that still run; what is dead and not yet reaped does not count."""
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in {root} | found} - found:
        found |= new
    return found


def _parent(folder: Path) -> int:
    """Parent of a process, or 0 where it is no more."""
    try:
        state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state in "ZX" else int(parent)
