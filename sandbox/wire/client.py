"""The service's end of a connection to sandboxd (``sandbox/sandboxd/PROTOCOL.md``).

Whoever answers may have been taken over by what runs in the sandbox. So every reply is checked against a closed form,
nothing is kept beyond what was asked for, and any breach ends the connection, and with it the sandbox.

Jobs belong to the sandbox, not to the connection. Where it breaks, the client comes back, proves that it knows the key,
has the same proved to it, and asks on where it was: every question may be asked twice.
"""

import asyncio
import hashlib
import itertools
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import MappingProxyType

from sandbox.errors import SandboxError, SandboxLost, SandboxRejected, SandboxTaken
from sandbox.wire import greeting
from sandbox.wire.dial import Dial
from sandbox.wire.ending import Ended, Result
from sandbox.wire.link import MAX_POLLED, Answer, Breach, Health, Link, LinkLost, closed_on_failure

_CHUNK = 1024 * 1024
"""Bytes of input in one frame."""
_WORTH_AN_ANSWER = 64 * 1024
"""While a job runs, its output is handed over in parts of this size, so that a short command is one question."""
_WAIT_S = 30.0
_ANSWER_S = 20.0
"""How long after it was due we still believe that an answer may come."""
_KEPT = 8
"""So many ended commands are kept in the sandbox at most,"""
_KEPT_BYTES = 1024 * 1024
"""and of all but the newest not more output than this."""
_OPS = {"exec": "start", "upload": "tar_in", "download": "tar_out"}


class Client:
    """Runs jobs in one sandbox; many at once."""

    def __init__(
        self,
        dial: Dial,
        key: bytes,
        link: Link,
        *,
        lease_s: float,
        sealed: bool,
        env: Mapping[str, str],
        term: int = 0,
    ) -> None:
        self.key = key
        """Whoever has it can take over (:meth:`attach`). It is never sent again."""
        self.boot_id = link.boot
        self._dial = dial
        self._term = term
        self._link = link
        self._coming_back = asyncio.Lock()
        self._sealed = sealed
        self._env = env
        self._lost: SandboxLost | None = None
        self._kept: dict[str, int] = {}
        """Commands that ended, the oldest first, and how many bytes they wrote."""
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
        key, link = await greeting.claim(
            dial, lease_s=lease_s, lifetime_s=lifetime_s, memory_bytes=memory_bytes, ready_s=ready_s
        )
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
        term: int = 0,
    ) -> "Client":
        """Take over a sandbox from a client that is gone.

        Args:
            term: clients of an earlier one are shut out, should they not be gone. Who made the claim has 0.

        Raises:
            SandboxLost: it is not there, or not the one it was, or somebody of a later term has it.
        """
        link = await greeting.attach(dial, key, boot_id, term)
        return cls(dial, key, link, lease_s=lease_s, sealed=sealed, env=env, term=term)

    async def lend(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give the sandbox a connection of its own; returns when a program in it has taken that as its way out.

        Raises:
            SandboxLost: it is not there, or lets no program out.
        """
        while True:
            link = await greeting.attach(self._dial, self.key, self.boot_id, self._term)
            with suppress(LinkLost), closed_on_failure(link):
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
        poll: dict[str, object] = {"op": "poll", "job": name, "min": _WORTH_AN_ANSWER, "max": MAX_POLLED}
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
                        raise self._lose(SandboxLost("the sandbox broke the protocol"))
                    if body:
                        yield body
                    if answer.end is not None:
                        break
                    ((answer, body),) = await self._ask((poll | {"offset": offset, "wait_s": _WAIT_S}, b""))
        except TimeoutError:
            raise self._lose(SandboxLost("the sandbox let a deadline pass")) from None
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.wait({feeding})
        self._let_go_of(name, offset if request["op"] == "exec" else None)
        yield answer.end

    async def signal(self, request_id: str, number: int) -> None:
        """Send a signal to every process of a command."""
        name = _job_name(request_id)
        ((answer, _),) = await self._ask(({"op": "signal", "job": name, "signal": number}, b""))
        _raise_refusal(answer, name)

    async def health(self) -> Health:
        ((answer, _),) = await self._ask(({"op": "health"}, b""))
        if answer.health is None:
            raise self._lose(SandboxLost("the sandbox broke the protocol"))
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
            raise _again(self._lost)

    def close(self, reason: str) -> None:
        self._lose(SandboxLost(reason))

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

    def _let_go_of(self, job: str, size: int | None) -> None:
        """The sandbox need not keep what came of a job; of the last commands it does, for whoever takes it over may
        have to ask again for what we did not live to write down.

        Args:
            size: bytes that a command wrote; None for a file call.
        """
        if size is None:
            self._link.tell({"op": "ack", "job": job})
            return
        self._kept.pop(job, None)
        self._kept[job] = size
        while len(self._kept) > 1 and (len(self._kept) > _KEPT or sum(self._kept.values()) > _KEPT_BYTES):
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._link.tell({"op": "ack", "job": oldest})

    async def _feed(self, name: str, data: bytes | memoryview) -> None:
        """The input after its first part. Each answer says that the job has taken what was sent."""
        view = memoryview(data)
        for offset in range(_CHUNK, len(data), _CHUNK):
            head = {"op": "stdin", "job": name, "offset": offset, "last": offset + _CHUNK >= len(data)}
            ((answer, _),) = await self._ask((head, view[offset : offset + _CHUNK]))
            if answer.error is not None:
                return  # the job has ended, and says how

    async def _ask(self, *questions: tuple[Mapping[str, object], bytes | memoryview]) -> list[tuple[Answer, bytes]]:
        """Ask, and where the connection breaks, come back and ask again."""
        while True:
            self.check()
            link = self._link
            try:
                answers = await link.ask_all(questions)
            except Breach:
                raise self._lose(SandboxLost("the sandbox broke the protocol")) from None
            except LinkLost:
                await self._come_back(link)
                continue
            if any(answer.error == "taken" for answer, _ in answers):
                raise self._lose(SandboxTaken("somebody else has taken the sandbox over"))
            return answers

    async def _come_back(self, broken: Link) -> None:
        async with self._coming_back:
            self.check()
            if self._link is not broken:
                return
            try:
                link = await greeting.attach(self._dial, self.key, self.boot_id, self._term)
            except SandboxLost as error:
                raise self._lose(error) from error
            self._link = link
            if self._lost is not None:  # closed meanwhile
                link.close(str(self._lost))

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

    def _lose(self, lost: SandboxLost) -> SandboxLost:
        if self._lost is None:
            self._lost = lost
            self._link.close(str(lost))
            self._renewing.cancel()
        return _again(self._lost)


def _again(lost: SandboxLost) -> SandboxLost:
    """Each that asks gets an error of its own, with its own traceback."""
    return type(lost)(str(lost))


def _job_name(request_id: str) -> str:
    """A name the wire can carry."""
    if re.fullmatch(r"[\w.:-]{1,100}", request_id, re.ASCII):
        return f"exec-{request_id}"
    return "hash-" + hashlib.sha256(request_id.encode(errors="surrogatepass")).hexdigest()


def _raise_refusal(answer: Answer, name: str) -> None:
    if answer.error == "over":
        raise SandboxRejected(f"request {name} ran long ago; its outcome is no longer kept")
    if answer.error is not None:
        raise SandboxError(f"the sandbox cannot run {name}: {answer.detail}")
