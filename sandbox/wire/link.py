"""One connection to sandboxd: questions out, answers in, each of a closed form."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.errors import SandboxLost
from sandbox.wire import frames
from sandbox.wire.ending import Ended

MAX_POLLED = 256 * 1024
_MAX_HEAD = 16 * 1024


class LinkLost(Exception):
    """The connection is gone; the sandbox may still be there."""


class Breach(Exception):
    """A reply that no honest sandbox sends."""


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


class Answer(_Reply):
    id: int
    boot: str = Field(min_length=32, max_length=32)
    error: Literal["denied", "taken", "bad_request", "no_job", "over", "gone", "busy", "failed"] | None = None
    detail: str = Field("", max_length=4000)
    nonce: str = Field("", max_length=64)
    proof: str = Field("", max_length=64)
    end: Ended | None = None
    health: Health | None = None


class Link:
    """One connection: questions out, answers in, in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.boot = ""
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[tuple[Answer, bytes]]] = {}
        self._broken: Exception | None = None
        self.listener = asyncio.create_task(self._listen())

    async def ask(self, head: Mapping[str, object]) -> tuple[Answer, bytes]:
        ((answer, body),) = await self.ask_all(((head, b""),))
        return answer, body

    async def ask_all(
        self, questions: tuple[tuple[Mapping[str, object], bytes | memoryview], ...]
    ) -> list[tuple[Answer, bytes]]:
        """Send all, then wait for the answers."""
        answers = [self._send(head, body) for head, body in questions]
        try:
            await self._writer.drain()
            return [await answer for answer in answers]
        except ConnectionError as error:
            raise LinkLost(str(error)) from error
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
            answer = Answer.model_validate_json(head)
            self._take(answer, body)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise LinkLost(str(error)) from error
        except (frames.BadFrame, ValidationError, Breach) as error:
            raise SandboxLost("the sandbox broke the protocol") from error
        if answer.error is not None:
            raise SandboxLost(f"the sandbox lets no program out: {answer.error}")
        return self._reader, self._writer

    def tell(self, head: Mapping[str, object]) -> None:
        """Ask without waiting for the answer."""
        with suppress(LinkLost, Breach):
            self._send(head, b"").cancel()

    def close(self, reason: str) -> None:
        self._break(LinkLost(reason))

    def _send(self, head: Mapping[str, object], body: bytes | memoryview) -> "asyncio.Future[tuple[Answer, bytes]]":
        if self._broken is not None:
            raise self._broken
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._writer.write(frames.encode({"id": number, **head}, body))
        return answer

    async def _listen(self) -> None:
        try:
            while self._broken is None:
                head, body = await frames.read(self._reader, _MAX_HEAD, MAX_POLLED)
                self._take(Answer.model_validate_json(head), body)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
            self._break(LinkLost(f"the connection ended: {error}"))
        except (frames.BadFrame, ValidationError, Breach):
            self._break(Breach("the sandbox broke the protocol"))

    def _take(self, answer: Answer, body: bytes) -> None:
        if answer.id not in self._asked or answer.boot != (self.boot or answer.boot):
            raise Breach
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


@contextmanager
def closed_on_failure(link: Link) -> Iterator[Link]:
    with ExitStack() as on_failure:
        on_failure.callback(link.close, "not ours")
        yield link
        on_failure.pop_all()
