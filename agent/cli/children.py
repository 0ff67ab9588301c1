"""Processes that ``mimo`` starts: kept alive while wanted, gone with everything they started when not."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import SecretStr

from agent.cli.failure import ExitCode, Failure
from agent.config import ModelSettings

logger = logging.getLogger(__name__)

_TETHER = Path(__file__).with_name("tether.py")
_END_S = 10.0
"""Time between the polite and the forced end of a process."""
_HEALTHY_S = 60.0
"""A child that lived this long starts again without a pause when it dies."""
_MAX_BACKOFF_S = 30.0
_MODEL_START_S = 300.0
"""A cold disk reads torch and the weights slowly."""


@dataclass(frozen=True, slots=True)
class Command:
    """A child: what to run, and the file its output goes to."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A running process in a group of its own: Ctrl-C in the terminal reaches only ``mimo``, which ends it in order."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self._process = process
        self._gone = False

    @classmethod
    async def start(cls, command: Command) -> "Child":
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **command.environment},
                start_new_session=True,
            )
        logger.info("%s started", command.name, extra={"action": "child_started", "pid": process.pid})
        return cls(command, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def end(self) -> None:
        """End the process politely, then by force, and with it all of its group. Safe to call twice."""
        if self._gone:
            return
        if self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._gone = True

    def last_words(self, num_lines: int = 12) -> str:
        """The end of its log."""
        lines = self.command.log.read_text("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-num_lines:])


async def keep_alive(command: Command, first: Child | None = None, *, backoff_s: float = 1.0) -> None:
    """Run a child until cancelled: one that ends by itself is started again, after a pause that grows."""
    pause_s = backoff_s
    child = first or await Child.start(command)
    try:
        while True:
            started_at = asyncio.get_running_loop().time()
            code = await child.wait()
            if asyncio.get_running_loop().time() - started_at > _HEALTHY_S:
                pause_s = backoff_s
            logger.warning(
                "%s ended (%s); starting it again in %g s, its output is in %s",
                *(command.name, describe_code(code), pause_s, command.log),
                extra={"action": "child_ended", "pid": child.pid, "code": code},
            )
            await child.end()  # What it had started itself.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_BACKOFF_S)
            child = await Child.start(command)
    finally:
        await child.end()


def describe_code(code: int) -> str:
    """An exit code in words.

    >>> describe_code(-9)
    'signal SIGKILL'
    """
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """A Python program by its module; -P keeps what lies in the current directory from being taken for it."""
    return (sys.executable, "-P", "-m", name, *arguments)


def model_command(checkpoint: str, port: int, log: Path) -> Command:
    """The embedded model server. It is a program beside this one: nothing here imports it."""
    return Command("model server", module("model_server", "--checkpoint", checkpoint, "--port", str(port)), log)


async def wait_healthy(child: Child, port: int, api_key: SecretStr | None) -> str:
    """Wait until the model server answers; the name of the model it serves.

    Raises:
        Failure: it ended, or took too long.
    """
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key.get_secret_value()}"}
    # trust_env: a proxy set for the outside has no business on loopback.
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=5.0, trust_env=False
    ) as http:
        for _ in range(int(_MODEL_START_S / 0.25)):
            if child.ended is not None:
                raise Failure(
                    ExitCode.FAILED,
                    f"the embedded model server ended ({describe_code(child.ended)}):\n{child.last_words()}",
                    "correct what it names, or give --model-url of a running endpoint",
                )
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/health")).is_success:
                    return str((await http.get("/v1/models")).raise_for_status().json()["data"][0]["id"])
            await asyncio.sleep(0.25)
    raise Failure(
        ExitCode.RETRYABLE,
        f"the embedded model server was not ready after {_MODEL_START_S:g} s; its output is in {child.command.log}",
        "try again, or give --model-url of a running endpoint",
    )


@asynccontextmanager
async def embedded_model(checkpoint: str, log: Path, settings: ModelSettings) -> AsyncIterator[ModelSettings]:
    """A model server for this process alone; yields the settings that reach it."""
    port = free_port()
    child = await Child.start(model_command(checkpoint, port, log))
    try:
        name = await wait_healthy(child, port, settings.api_key)
        yield settings.model_copy(update={"url": f"http://127.0.0.1:{port}/v1", "name": name, "sessions": True})
    finally:
        await child.end()


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        Failure: the port is taken, or the host is not one of this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise Failure(
            ExitCode.FAILED,
            f"cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}",
            "end what uses the port, or choose another one with --port",
        ) from error
