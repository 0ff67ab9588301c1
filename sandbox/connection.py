"""The service's end of a sandbox's socket.

Whoever answers may have been taken over by what runs in the sandbox. So every reply is checked against a closed form,
nothing is kept beyond what was asked for, and any breach ends the connection, and with it the sandbox.
"""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sandbox import frames
from sandbox.blueprint import Blueprint
from sandbox.errors import SandboxLost

_GRACE_S = 20.0
"""How long after a job's own deadline, enforced inside, we believe that an answer may still come."""
_MAKING_S = 60.0
_TEXT = 2000
_MAX_HEAD = 16 * 1024


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Ready(_Reply):
    """The sandbox stands; what holds it, for operators to read."""

    event: Literal["ready"]
    namespaces: Literal["root", "user"]
    memory: str = Field(max_length=40)
    processes: str = Field(max_length=40)


class Failed(_Reply):
    """The sandbox could not be made."""

    event: Literal["failed"]
    step: str = Field(max_length=40)
    code: int
    detail: str = Field(max_length=_TEXT)


class _Output(_Reply):
    event: Literal["output"]
    job: int


class Ended(_Reply):
    """How a job ended. ``code``: exit code, signal, or error number, by ``how``.

    ``crowded``: nothing ran, for earlier commands had left as many processes as are allowed; these are now ended.
    """

    event: Literal["ended"]
    job: int
    how: Literal[
        "exited", "signalled", "timed_out", "oom_killed", "output_limit", "failed", "rejected", "lost", "crowded"
    ]
    code: int = Field(ge=0, le=4095)
    total: int = Field(ge=0)
    run_s: float = Field(ge=0, allow_inf_nan=False)
    detail: str = Field(max_length=_TEXT)


_ANY_REPLY: TypeAdapter[Ready | Failed | _Output | Ended] = TypeAdapter(
    Annotated[Ready | Failed | _Output | Ended, Field(discriminator="event")]
)


@dataclass(frozen=True, slots=True)
class Result:
    """A job that came to its end."""

    ended: Ended
    output: bytes


@dataclass(slots=True)
class _Job:
    limit: int
    result: asyncio.Future[Result]
    output: bytearray = field(default_factory=bytearray)


class Connection:
    """Runs jobs in one sandbox; many at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ready: Ready) -> None:
        self.ready = ready
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._jobs: dict[int, _Job] = {}
        self._lost: str | None = None
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, link: socket.socket, plan: Blueprint) -> "Connection | Failed":
        """Have the other end build ``plan``. ``link`` is ours from now on.

        Raises:
            SandboxLost: it ended without a word.
        """
        reader, writer = await asyncio.open_unix_connection(sock=link)
        try:
            writer.write(frames.encode(plan.as_json()))
            async with asyncio.timeout(_MAKING_S):
                head, _ = await frames.read(reader, _MAX_HEAD)
            reply = _ANY_REPLY.validate_python(head)
        except TimeoutError as error:
            writer.transport.abort()
            raise SandboxLost(f"the sandbox was not ready within {_MAKING_S:.0f} seconds") from error
        except (asyncio.IncompleteReadError, ConnectionError, frames.BadFrame, ValidationError) as error:
            writer.transport.abort()
            raise SandboxLost("the sandbox ended before it was ready") from error
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        if isinstance(reply, Ready):
            return cls(reader, writer, reply)
        writer.transport.abort()
        if isinstance(reply, Failed):
            return reply
        raise SandboxLost("the sandbox answered a question that nobody asked")

    async def run(self, request: Mapping[str, object], data: bytes, timeout_s: float, limit: int) -> Result:
        """Run one job to its end, giving it ``data`` to read.

        Raises:
            SandboxLost: the sandbox is gone, or no longer keeps to the protocol.
        """
        self.check()
        number = next(self._numbers)
        job = self._jobs[number] = _Job(limit, asyncio.get_running_loop().create_future())
        sending = asyncio.create_task(
            self._send(number, {**request, "job": number, "timeout_s": timeout_s, "limit": limit}, data)
        )
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                return await job.result
        except TimeoutError:
            self._lose("the sandbox let a deadline pass")
            raise SandboxLost("the sandbox let a deadline pass") from None
        finally:
            sending.cancel()
            await asyncio.wait({sending})
            if not job.result.done() and self._lost is None:  # the caller gave up
                self._writer.write(frames.encode({"op": "stop", "job": number}))
            self._jobs.pop(number, None)

    async def follow(
        self, request: Mapping[str, object], data: bytes | memoryview, timeout_s: float, limit: int
    ) -> AsyncIterator[bytes | Ended]:
        """Like :meth:`run`, in the form that its other kind has; see :class:`sandbox.machine.Wire`."""
        result = await self.run(request, bytes(data), timeout_s, limit)
        yield result.output
        yield result.ended

    def close(self, reason: str) -> None:
        self._lose(reason)
        self._listener.cancel()

    async def wait_closed(self) -> None:
        await asyncio.wait({self._listener})

    def check(self) -> None:
        """Raise :class:`SandboxLost` if there is no sandbox any more."""
        if self._lost is not None:
            raise SandboxLost(self._lost)

    async def _send(self, number: int, head: dict[str, object], data: bytes) -> None:
        view = memoryview(data)
        try:
            self._writer.write(frames.encode(head))
            while True:
                chunk, view = view[: frames.MAX_BODY], view[frames.MAX_BODY :]
                self._writer.write(frames.encode({"op": "input", "job": number, "last": not view}, chunk))
                if not view:
                    return
                await self._writer.drain()
        except ConnectionError:
            return  # the listener sees it too, and tells whoever waits

    async def _listen(self) -> None:
        try:
            while self._lost is None:
                head, body = await frames.read(self._reader, _MAX_HEAD)
                self._take(_ANY_REPLY.validate_python(head), body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._lose("the sandbox ended")
        except (frames.BadFrame, ValidationError, _Breach):
            self._lose("the sandbox broke the protocol")

    def _take(self, reply: Ready | Failed | _Output | Ended, body: bytes) -> None:
        if not isinstance(reply, _Output | Ended):
            raise _Breach
        job = self._jobs.get(reply.job)
        if job is None:
            return  # of a job whose caller has given up
        if isinstance(reply, Ended):
            if not job.result.done():
                job.result.set_result(Result(reply, bytes(job.output)))
        elif len(job.output) + len(body) > job.limit:
            raise _Breach
        else:
            job.output += body

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._writer.transport.abort()
        for job in self._jobs.values():
            if not job.result.done():
                job.result.set_exception(SandboxLost(reason))


class _Breach(Exception):
    """A reply that no honest sandbox sends."""
