"""The service's end of a connection to sandboxd (``sandbox/sandboxd/PROTOCOL.md``).

Whoever answers may have been taken over by what runs in the sandbox. So every reply is checked against a closed form,
nothing is kept beyond what was asked for, and any breach ends the connection, and with it the sandbox.

Jobs belong to the sandbox, not to the connection. Where it breaks, the client comes back, proves that it knows the key,
has the same proved to it, and asks on where it was: every question may be asked twice.
"""

import asyncio
import hashlib
import hmac
import itertools
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.errors import SandboxError, SandboxLost, SandboxRejected
from sandbox.wire import frames
from sandbox.wire.ending import Ended, Result

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a new connection to the sandbox."""

_VERSION = 1
_CHUNK = 1024 * 1024
"""Bytes of input in one frame."""
_MAX_POLLED = 256 * 1024
_WORTH_AN_ANSWER = 64 * 1024
"""While a job runs, its output is handed over in parts of this size, so that a short command is one question."""
_MAX_HEAD = 16 * 1024
_WAIT_S = 30.0
_ANSWER_S = 20.0
"""How long after it was due we still believe that an answer may come."""
_BACK_AFTER_S = (0.0, 0.1, 0.3, 1.0, 3.0)
_OPS = {"exec": "start", "upload": "tar_in", "download": "tar_out"}


def unix(path: Path) -> Dial:
    """Connect through a socket in the file system, however long its path: by itself the kernel takes 107 bytes."""

    async def dial() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = os.open(path.parent, os.O_PATH)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)

    return dial


def tcp(host: str, port: int) -> Dial:
    """Connect through the network. What is said there is proved, not hidden: anyone on the way can read it."""
    return lambda: asyncio.open_connection(host, port)


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Health(_Reply):
    """What sandboxd says of itself and of what holds the sandbox."""

    version: int
    machine: str = Field(max_length=40)
    first_of_all: bool
    """It is the first process of its namespace."""
    landlock: int
    """Version of Landlock that the kernel offers; 0: none."""
    memory: bool
    """The sandbox has a memory control group that sandboxd can read."""
    running: int = Field(ge=0)
    ended: int = Field(ge=0)
    refused: int = Field(ge=0)
    """How often somebody without the key tried to get in."""
    lease_left_s: float


class _Answer(_Reply):
    id: int
    boot: str = Field(min_length=32, max_length=32)
    error: Literal["denied", "bad_request", "no_job", "over", "gone", "busy", "failed"] | None = None
    detail: str = Field("", max_length=4000)
    nonce: str = Field("", max_length=64)
    proof: str = Field("", max_length=64)
    end: Ended | None = None
    health: Health | None = None


class Client:
    """Runs jobs in one sandbox; many at once."""

    def __init__(
        self, dial: Dial, key: bytes, link: "_Link", *, lease_s: float, sealed: bool, env: Mapping[str, str]
    ) -> None:
        self.key = key
        """Whoever has it can take over (:meth:`attach`). It is never sent again."""
        self.boot_id = link.boot
        self._dial = dial
        self._link = link
        self._coming_back = asyncio.Lock()
        self._sealed = sealed
        self._env = env
        self._lost: str | None = None
        self._names = (f"file-{secrets.token_hex(8)}-{number}" for number in itertools.count())
        self._renewing = asyncio.create_task(self._renew(lease_s))

    @classmethod
    async def claim(
        cls,
        dial: Dial,
        *,
        lease_s: float,
        lifetime_s: float,
        memory_bytes: int = 0,
        sealed: bool = False,
        env: Mapping[str, str] = MappingProxyType({}),
        ready_s: float = 30.0,
    ) -> "Client":
        """Be the first to come to a new sandbox.

        Args:
            lease_s: the sandbox ends itself when it has not heard from us for so long.
            lifetime_s: and in any case after this.
            memory_bytes: what processes may have together, where the sandbox's control group counts files too.
            sealed: commands may open no network socket, not even to themselves.
            env: variables of every command, before its own.
            ready_s: how long to wait for the sandbox to listen.

        Raises:
            SandboxLost: nobody listens by then, or somebody else came first.
        """
        key = secrets.token_bytes(32)
        hello = {"op": "hello", "version": _VERSION, "key": key.hex(), "memory_bytes": memory_bytes}
        try:
            async with asyncio.timeout(ready_s):
                with _closed_on_failure(_Link(*await _first_connection(dial))) as link:
                    answer, _ = await link.ask({**hello, "lease_s": lease_s, "lifetime_s": lifetime_s})
                    if answer.error is not None:
                        raise SandboxLost(f"the sandbox refuses us: {answer.error}; somebody else may have come first")
        except TimeoutError as error:
            raise SandboxLost(f"the sandbox was not ready within {ready_s:.0f} seconds") from error
        except (_LinkLost, _Breach) as error:
            raise SandboxLost(f"the sandbox ended before it was ready ({error})") from error
        return cls(dial, key, link, lease_s=lease_s, sealed=sealed, env=env)

    @classmethod
    async def attach(
        cls,
        dial: Dial,
        key: bytes,
        boot_id: str,
        *,
        lease_s: float,
        sealed: bool = False,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> "Client":
        """Take over a sandbox from a client that is gone.

        Raises:
            SandboxLost: it is not there, or not the one it was.
        """
        return cls(dial, key, await _attach(dial, key, boot_id), lease_s=lease_s, sealed=sealed, env=env)

    async def lend(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give the sandbox a connection of its own; returns when a program in it has taken that as its way out.

        Raises:
            SandboxLost: it is not there, or lets no program out.
        """
        while True:
            link = await _attach(self._dial, self.key, self.boot_id)
            with suppress(_LinkLost), _closed_on_failure(link):
                return await link.lend()

    async def run(self, request: Mapping[str, object], data: bytes, timeout_s: float, limit: int) -> Result:
        """Run one job to its end, or follow it to there if it runs already; see :class:`sandbox.wire.machine.Wire`."""
        output = bytearray()
        async for part in self.follow(request, data, timeout_s, limit):
            if isinstance(part, Ended):
                return Result(part, bytes(output))
            output += part
        raise AssertionError("a job that is followed comes to an end")

    async def follow(
        self, request: Mapping[str, object], data: bytes | memoryview, timeout_s: float, limit: int
    ) -> AsyncIterator[bytes | Ended]:
        """Like :meth:`run`, handing over the output as it comes; last comes how the job ended."""
        name = _job_name(str(request["request_id"])) if "request_id" in request else next(self._names)
        deadline = asyncio.get_running_loop().time() + timeout_s + _ANSWER_S
        begin = self._beginning(request, name, data, timeout_s, limit)
        poll: dict[str, object] = {"op": "poll", "job": name, "min": _WORTH_AN_ANSWER, "max": _MAX_POLLED}
        feeding = None
        offset = 0
        try:
            async with asyncio.timeout_at(deadline):
                if len(data) > _CHUNK:
                    _raise_refusal((await self._ask(begin))[0][0], name)
                    feeding = asyncio.create_task(self._feed(name, data))
                # Both are sent before the first is answered. Where it has begun already, that does nothing.
                (begun, _), (answer, body) = await self._ask(begin, (poll | {"offset": 0, "wait_s": _WAIT_S}, b""))
                _raise_refusal(begun, name)
                while True:
                    _raise_refusal(answer, name)
                    offset += len(body)
                    if offset > limit or (answer.end is not None and answer.end.total < offset):
                        raise self._lose("the sandbox broke the protocol")
                    if body:
                        yield body
                    if answer.end is not None:
                        break
                    ((answer, body),) = await self._ask((poll | {"offset": offset, "wait_s": _WAIT_S}, b""))
        except TimeoutError:
            raise self._lose("the sandbox let a deadline pass") from None
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.wait({feeding})
        self._link.tell({"op": "ack", "job": name})
        yield answer.end

    async def signal(self, request_id: str, number: int) -> None:
        """Send a signal to every process of a command."""
        name = _job_name(request_id)
        ((answer, _),) = await self._ask(({"op": "signal", "job": name, "signal": number}, b""))
        _raise_refusal(answer, name)

    async def health(self) -> Health:
        ((answer, _),) = await self._ask(({"op": "health"}, b""))
        if answer.health is None:
            raise self._lose("the sandbox broke the protocol")
        return answer.health

    async def end(self) -> None:
        """Ask the sandbox to end; it is lost afterwards."""
        with suppress(SandboxLost, TimeoutError):
            self.check()
            async with asyncio.timeout(_ANSWER_S):
                await self._link.ask({"op": "end"})
        self.close("the sandbox was ended")

    def check(self) -> None:
        if self._lost is not None:
            raise SandboxLost(self._lost)

    def close(self, reason: str) -> None:
        self._lose(reason)

    async def wait_closed(self) -> None:
        await asyncio.wait({self._renewing, self._link.listener})

    def _beginning(
        self, request: Mapping[str, object], name: str, data: bytes | memoryview, timeout_s: float, limit: int
    ) -> tuple[dict[str, object], bytes]:
        op = str(request["op"])
        texts = [str(request["path"])] if op != "exec" else [str(request["line"]), str(request["cwd"])]
        if op == "exec":
            own = request["env"]
            variables = {**self._env, **own} if isinstance(own, Mapping) else self._env
            texts += [f"{variable}={value}" for variable, value in variables.items()]
        head = {"op": _OPS.get(op, op), "job": name, "texts": len(texts), "timeout_s": timeout_s, "limit": limit}
        if op == "exec":
            head["sealed"] = self._sealed
        head["last"] = len(data) <= _CHUNK
        body = b"".join(text.encode(errors="surrogateescape") + b"\0" for text in texts)
        return head, body + data[:_CHUNK]

    async def _feed(self, name: str, data: bytes | memoryview) -> None:
        """The input after its first part. Each answer says that the job has taken what was sent."""
        view = memoryview(data)
        for offset in range(_CHUNK, len(data), _CHUNK):
            head = {"op": "stdin", "job": name, "offset": offset, "last": offset + _CHUNK >= len(data)}
            ((answer, _),) = await self._ask((head, view[offset : offset + _CHUNK]))
            if answer.error is not None:
                return  # the job has ended, and says how

    async def _ask(self, *questions: tuple[Mapping[str, object], bytes | memoryview]) -> list[tuple[_Answer, bytes]]:
        """Ask, and where the connection breaks, come back and ask again."""
        while True:
            self.check()
            link = self._link
            try:
                return await link.ask_all(questions)
            except _Breach:
                raise self._lose("the sandbox broke the protocol") from None
            except _LinkLost:
                await self._come_back(link)

    async def _come_back(self, broken: "_Link") -> None:
        async with self._coming_back:
            self.check()
            if self._link is not broken:
                return
            try:
                link = await _attach(self._dial, self.key, self.boot_id)
            except SandboxLost as error:
                raise self._lose(str(error)) from error
            self._link = link
            if self._lost is not None:  # closed meanwhile
                link.close(self._lost)

    async def _renew(self, lease_s: float) -> None:
        patience = lease_s / 3
        while True:
            await asyncio.sleep(patience)
            try:
                async with asyncio.timeout(patience):
                    await self._ask(({"op": "renew", "lease_s": lease_s}, b""))
            except TimeoutError:
                self._link.close("no answer")  # half open, perhaps: the next question comes over a new one
            except SandboxLost:
                return

    def _lose(self, reason: str) -> SandboxLost:
        if self._lost is None:
            self._lost = reason
            self._link.close(reason)
            self._renewing.cancel()
        return SandboxLost(self._lost)


class _LinkLost(Exception):
    """The connection is gone; the sandbox may still be there."""


class _Breach(Exception):
    """A reply that no honest sandbox sends."""


class _Link:
    """One connection: questions out, answers in, in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.boot = ""
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[tuple[_Answer, bytes]]] = {}
        self._broken: Exception | None = None
        self.listener = asyncio.create_task(self._listen())

    async def ask(self, head: Mapping[str, object]) -> tuple[_Answer, bytes]:
        ((answer, body),) = await self.ask_all(((head, b""),))
        return answer, body

    async def ask_all(
        self, questions: tuple[tuple[Mapping[str, object], bytes | memoryview], ...]
    ) -> list[tuple[_Answer, bytes]]:
        """Send all, then wait for the answers."""
        answers = [self._send(head, body) for head, body in questions]
        try:
            await self._writer.drain()
            return [await answer for answer in answers]
        except ConnectionError as error:
            raise _LinkLost(str(error)) from error
        finally:
            for answer in answers:
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()  # seen, even where another came first

    async def lend(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give it away: what comes after the answer is no frame any more."""
        self.listener.cancel()
        await asyncio.wait({self.listener})
        self._send({"op": "lend"}, b"").cancel()  # we read the answer ourselves
        try:
            head, body = await frames.read(self._reader, _MAX_HEAD, 0)
            answer = _Answer.model_validate_json(head)
            self._take(answer, body)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _LinkLost(str(error)) from error
        except (frames.BadFrame, ValidationError, _Breach) as error:
            raise SandboxLost("the sandbox broke the protocol") from error
        if answer.error is not None:
            raise SandboxLost(f"the sandbox lets no program out: {answer.error}")
        return self._reader, self._writer

    def tell(self, head: Mapping[str, object]) -> None:
        """Ask without waiting for the answer."""
        with suppress(_LinkLost, _Breach):
            self._send(head, b"").cancel()

    def close(self, reason: str) -> None:
        self._break(_LinkLost(reason))

    def _send(self, head: Mapping[str, object], body: bytes | memoryview) -> "asyncio.Future[tuple[_Answer, bytes]]":
        if self._broken is not None:
            raise self._broken
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._writer.write(frames.encode({"id": number, **head}, body))
        return answer

    async def _listen(self) -> None:
        try:
            while self._broken is None:
                head, body = await frames.read(self._reader, _MAX_HEAD, _MAX_POLLED)
                self._take(_Answer.model_validate_json(head), body)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
            self._break(_LinkLost(f"the connection ended: {error}"))
        except (frames.BadFrame, ValidationError, _Breach):
            self._break(_Breach("the sandbox broke the protocol"))

    def _take(self, answer: _Answer, body: bytes) -> None:
        if answer.id not in self._asked or answer.boot != (self.boot or answer.boot):
            raise _Breach
        self.boot = answer.boot
        waiting = self._asked.pop(answer.id)
        if not waiting.done():
            waiting.set_result((answer, body))

    def _break(self, why: Exception) -> None:
        if self._broken is not None:
            return
        self._broken = why
        self._writer.transport.abort()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(why)


async def _first_connection(dial: Dial) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A sandbox that is being started does not listen at once; nobody tells us when it does."""
    while True:
        with suppress(OSError):
            return await dial()
        await asyncio.sleep(0.002)


async def _attach(dial: Dial, key: bytes, boot_id: str) -> _Link:
    """A new connection to a sandbox that is ours.

    Raises:
        SandboxLost: nobody is there any more, or somebody else.
    """
    reason: object = "no answer"
    for pause in _BACK_AFTER_S:
        await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await _prove(_Link(*await dial()), key, boot_id)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise SandboxLost("the sandbox ended") from error  # nobody listens: trying again will not help
        except (OSError, _LinkLost) as error:
            reason = error
        except _Breach as error:
            raise SandboxLost("the sandbox broke the protocol") from error
    raise SandboxLost(f"the sandbox cannot be reached: {reason}")


async def _prove(link: _Link, key: bytes, boot_id: str) -> _Link:
    """Both ends prove that they know the key, and neither says it."""
    with _closed_on_failure(link):
        ours = secrets.token_hex(32)
        answer, _ = await link.ask({"op": "attach", "version": _VERSION, "nonce": ours})
        if answer.boot != boot_id:
            raise SandboxLost("the sandbox ended, and another has taken its place")
        expected = _proof(key, "sandbox", boot_id, ours, answer.nonce)
        if answer.error is not None or not hmac.compare_digest(answer.proof, expected):
            raise SandboxLost("whoever answers in the sandbox's place does not know its key")
        proof = _proof(key, "client", boot_id, ours, answer.nonce)
        answer, _ = await link.ask({"op": "prove", "version": _VERSION, "proof": proof})
        if answer.error is not None:
            raise SandboxLost(f"the sandbox refuses us: {answer.error}")
    return link


@contextmanager
def _closed_on_failure(link: _Link) -> Iterator[_Link]:
    with ExitStack() as on_failure:
        on_failure.callback(link.close, "not ours")
        yield link
        on_failure.pop_all()


def _proof(key: bytes, *parts: str) -> str:
    return hmac.new(key, b"".join(part.encode() + b"\0" for part in parts), hashlib.sha256).hexdigest()


def _job_name(request_id: str) -> str:
    """A name the wire can carry."""
    if re.fullmatch(r"[\w.:-]{1,100}", request_id, re.ASCII):
        return f"exec-{request_id}"
    return "hash-" + hashlib.sha256(request_id.encode(errors="surrogatepass")).hexdigest()


def _raise_refusal(answer: _Answer, name: str) -> None:
    if answer.error == "over":
        raise SandboxRejected(f"request {name} ran long ago; its outcome is no longer kept")
    if answer.error is not None:
        raise SandboxError(f"the sandbox cannot run {name}: {answer.detail}")
