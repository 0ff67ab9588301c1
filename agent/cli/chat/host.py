"""This machine in the place of a sandbox: commands run as the user, in the user's folder, with nothing around them."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from sandbox.errors import SandboxRejected
from sandbox.types import Command, Exited, Outcome, OutputLimit, Signalled, TimedOut

WORKSPACE = "/workspace"
"""What the folder is called in a sandbox, and so in the words of models trained in one."""

_DRAIN_S = 0.2
"""How long output is waited for once the shell has ended: what it left in the background may hold the pipe for ever."""


class HostSandbox:
    """Implements ``sandbox.types.Sandbox`` without holding anything back. Only for who asked for exactly this."""

    boot_id = "host"

    def __init__(self, root: Path) -> None:
        self._root = root

    async def exec(self, command: Command) -> Outcome:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command.line),
            cwd=self._path(command.cwd),
            env={**os.environ, **command.env},
            stdin=asyncio.subprocess.DEVNULL if not command.stdin else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        output = bytearray()
        reading = asyncio.ensure_future(_read(process, output, command.output_limit_bytes))
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(command.stdin)
                await process.stdin.drain()
            process.stdin.close()
        waiting = asyncio.ensure_future(process.wait())
        try:
            done, _ = await asyncio.wait(
                {waiting, reading}, timeout=command.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if reading in done and not reading.result():
                await asyncio.wait({waiting}, timeout=command.timeout_s)
            ended = waiting.done()
            if ended:
                await asyncio.wait({reading}, timeout=_DRAIN_S)
        finally:
            if not waiting.done():
                _end(process)
                await asyncio.wait({waiting})
            reading.cancel()
            await asyncio.wait({reading})
        kept = bytes(output[: command.output_limit_bytes])
        if len(output) > command.output_limit_bytes:
            return OutputLimit(output=kept, total_bytes=len(output), limit_bytes=command.output_limit_bytes)
        if not ended:
            return TimedOut(output=kept, total_bytes=len(kept), timeout_s=command.timeout_s)
        code = waiting.result()
        if code < 0:
            return Signalled(output=kept, total_bytes=len(kept), signal=-code)
        return Exited(output=kept, total_bytes=len(kept), code=code)

    async def read(self, path: str, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        file = self._path(path)
        if file.is_file() and file.stat().st_size > max_bytes:
            raise SandboxRejected(f"{path} is larger than {max_bytes} bytes")
        return await asyncio.to_thread(file.read_bytes)

    async def write(self, path: str, data: bytes) -> None:
        file = self._path(path)
        await asyncio.to_thread(file.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(file.write_bytes, data)

    async def upload(self, tar: bytes, path: str = WORKSPACE) -> None:
        raise SandboxRejected("the files are the machine's own; nothing is unpacked over them")

    async def download(self, path: str = WORKSPACE, max_bytes: int = 512 * 1024 * 1024) -> bytes:
        raise SandboxRejected("the files are the machine's own; read them where they are")

    async def close(self) -> None:
        """There is nothing to end: what commands left in the background is the user's."""

    def _path(self, path: str) -> Path:
        if path == WORKSPACE or path.startswith(f"{WORKSPACE}/"):
            return self._root / path[len(WORKSPACE) :].lstrip("/")
        return self._root / path


async def _read(process: asyncio.subprocess.Process, output: bytearray, limit: int) -> bool:
    """Take the output in; true where it is more than the limit."""
    assert process.stdout is not None
    while piece := await process.stdout.read(65_536):
        output += piece
        if len(output) > limit:
            return True
    return False


def _end(process: asyncio.subprocess.Process) -> None:
    """The shell and all it started: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
