"""The way out of sandboxes that may reach hosts by name.

One program, ``sandbox/egressd``, has a door for each sandbox: a unix socket that is seen inside, and that sandboxd
makes known there as a proxy on 127.0.0.1. Which door a connection came through says whose it is; nothing that a sandbox
says of itself is believed. The program ends with the service, and with it every way out.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sandbox import program
from sandbox.config import EgressSettings
from sandbox.errors import SandboxUnavailable
from sandbox.types import NetworkMode, SandboxSpec

PROXY = "http://127.0.0.1:13128"
"""Where commands find the proxy (``sandbox/sandboxd/egress.go``)."""
_ANSWER_S = 20.0
_LINE_LIMIT = 64 * 1024
_log = logging.getLogger(__name__)


class EgressRecord(BaseModel):
    """One connection out of a sandbox, or one that was refused."""

    model_config = ConfigDict(frozen=True)

    event: Literal["connection"]
    door: str
    run_id: str = ""
    method: str
    """``CONNECT`` for tunnels."""
    host: str
    """The name that was asked for."""
    port: int
    address: str
    """What was dialled; "" where nothing was."""
    verdict: Literal["allowed", "refused", "failed"]
    detail: str
    sent: int
    """Bytes to the host."""
    received: int
    took_s: float


class _Answer(BaseModel):
    event: Literal["opened", "closed"]
    door: str
    error: str


_LINES: TypeAdapter[EgressRecord | _Answer] = TypeAdapter(
    Annotated[EgressRecord | _Answer, Field(discriminator="event")]
)


def variables(spec: SandboxSpec) -> dict[str, str]:
    """What tells programs in such a sandbox of the proxy."""
    if spec.network is not NetworkMode.PROXY:
        return {}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), PROXY)
    every = {**proxies, "NO_PROXY": "localhost,127.0.0.1,::1"}
    return every | {name.lower(): value for name, value in every.items()}


class Egress:
    """The doors of one service. The program starts with the first of them."""

    def __init__(self, settings: EgressSettings, on_record: Callable[[EgressRecord], None] | None = None) -> None:
        """
        Args:
            on_record: hears of every connection when it has ended, beside the log.
        """
        self._settings = settings
        self._on_record = on_record
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._answers: dict[str, asyncio.Future[str]] = {}
        self._runs: dict[str, str] = {}

    @property
    def pid(self) -> int:
        """Of the program, which runs."""
        assert self._process is not None
        return self._process.pid

    async def open(self, spec: SandboxSpec, socket: Path) -> "Door":
        """Let a sandbox out as far as its spec allows, through a socket that is made.

        Raises:
            SandboxUnavailable: the program is not there, or ended.
        """
        name = secrets.token_hex(8)
        self._runs[name] = spec.run_id
        order = {"open": {"door": name, "socket": str(socket), "hosts": list(spec.allow_hosts)}}
        async with self._turn:
            if self._process is None or self._process.returncode is not None:
                await self._start()
            error = await self._ask(name, order)
        if error:
            raise SandboxUnavailable(f"the proxy for sandboxes opens no door: {error}")
        return Door(self, name, socket)

    async def close_door(self, name: str) -> None:
        with suppress(SandboxUnavailable):  # it has ended, and so has the door
            await self._ask(name, {"close": name})
        self._runs.pop(name, None)

    async def close(self) -> None:
        """End the program, and with it every way out."""
        if self._process is None or self._listener is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._listener
        self._process = None

    async def _start(self) -> None:
        built = await asyncio.to_thread(program.egressd, self._settings.egressd)
        if self._settings.log is not None:
            self._settings.log.mkdir(parents=True, exist_ok=True)
        arguments = [f"--allow={','.join(map(str, self._settings.allow_addresses))}"]
        if self._settings.resolver is not None:
            arguments.append(f"--resolver={self._settings.resolver}")
        # Its own session: Ctrl-C is for the service, which closes its sandboxes in order.
        self._process = await asyncio.create_subprocess_exec(
            str(built), *arguments, stdin=-1, stdout=-1, env={}, start_new_session=True, limit=_LINE_LIMIT
        )
        self._listener = asyncio.create_task(self._listen(self._process))

    async def _ask(self, name: str, order: Mapping[str, object]) -> str:
        if self._process is None or self._process.stdin is None or self._process.returncode is not None:
            raise SandboxUnavailable("the proxy for sandboxes has ended")
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[name] = answer
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError as error:
            raise SandboxUnavailable("the proxy for sandboxes does not answer") from error
        finally:
            self._answers.pop(name, None)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said = _LINES.validate_json(line)
            if isinstance(said, EgressRecord):
                self._record(said.model_copy(update={"run_id": self._runs.get(said.door, "")}))
            elif (waiting := self._answers.get(said.door)) is not None and not waiting.done():
                waiting.set_result(said.error)
        await process.wait()
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(SandboxUnavailable("the proxy for sandboxes has ended"))

    def _record(self, record: EgressRecord) -> None:
        _log.info(
            "action=egress run=%s method=%s host=%r port=%d address=%s verdict=%s sent=%d received=%d detail=%r",
            *(record.run_id, record.method, record.host, record.port, record.address, record.verdict),
            *(record.sent, record.received, record.detail),
        )
        if self._settings.log is not None and record.run_id:
            with (self._settings.log / f"{record.run_id}.jsonl").open("a") as file:
                file.write(record.model_dump_json() + "\n")
        if self._on_record is not None:
            self._on_record(record)


class Door:
    """One sandbox's way out."""

    def __init__(self, egress: Egress, name: str, socket: Path) -> None:
        self.name = name
        self.socket = socket
        self._egress = egress

    async def close(self) -> None:
        """End it and every connection through it."""
        await self._egress.close_door(self.name)
