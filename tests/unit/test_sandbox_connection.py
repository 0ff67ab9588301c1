"""The service's end of the socket against a sandbox that has been taken over."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from sandbox.blueprint import Blueprint
from sandbox.connection import Connection, Failed, Result
from sandbox.errors import SandboxLost

pytestmark = pytest.mark.anyio

PLAN = Blueprint(
    name="x", root_mode=False, host_uid=0, binds={}, links={}, files={}, env={}, shell="/bin/bash",
    memory_bytes=1, disk_bytes=1, processes=1, lifetime_s=1.0, cgroup_parents=[],
)  # fmt: skip
READY = {"event": "ready", "namespaces": "user", "memory": "none", "processes": "none"}
ENDED = {"event": "ended", "job": 0, "how": "exited", "code": 0, "total": 0, "run_s": 0.0, "detail": ""}


def _frame(head: object, body: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("!II", len(text), len(body)) + text + body


class _Peer:
    """Says what it is told to, whatever it is asked."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._end, data)

    def hang_up(self) -> None:
        self._end.close()


@pytest.fixture
async def link() -> AsyncIterator[tuple[socket.socket, _Peer]]:
    ours, theirs = socket.socketpair()
    peer = _Peer(theirs)
    yield ours, peer
    peer.hang_up()


@pytest.fixture
async def opened(link: tuple[socket.socket, _Peer]) -> AsyncIterator[tuple[Connection, _Peer]]:
    ours, peer = link
    await peer.say(_frame(READY))
    connection = await Connection.open(ours, PLAN)
    assert isinstance(connection, Connection)
    yield connection, peer
    connection.close("the test is over")
    await connection.wait_closed()


async def _run(connection: Connection, peer: _Peer, answer: bytes) -> Result:
    running = asyncio.create_task(connection.run({"op": "exec"}, b"", 5, 100))
    await asyncio.sleep(0)
    await peer.say(answer)
    return await running


async def test_an_honest_answer_is_taken(opened: tuple[Connection, _Peer]) -> None:
    connection, peer = opened
    answer = _frame({"event": "output", "job": 0}, b"out") + _frame({**ENDED, "code": 3, "total": 3})
    result = await _run(connection, peer, answer)
    assert (result.ended.code, result.output) == (3, b"out")


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff" * 8,
        struct.pack("!II", 2, 2**31),
        struct.pack("!II", 17 * 1024, 0),
        _frame(b"not json"),
        _frame(b"[" * 10_000),
        _frame([1, 2]),
        _frame({"event": "unheard of"}),
        _frame({**ENDED, "how": "won"}),
        _frame({**ENDED, "code": "0"}),
        _frame({**ENDED, "code": -1}),
        _frame({**ENDED, "run_s": float("nan")}),
        _frame({**ENDED, "run_s": -1.0}),
        _frame({**ENDED, "detail": "x" * 3000}),
        _frame({**ENDED, "extra": 1}),
        _frame(READY),
        _frame({"event": "output", "job": 0}, bytes(101)),
        _frame({"event": "output", "job": 0}, bytes(60)) * 2,
    ],
)
async def test_a_breach_of_the_protocol_ends_the_sandbox(opened: tuple[Connection, _Peer], answer: bytes) -> None:
    connection, peer = opened
    with pytest.raises(SandboxLost):
        await _run(connection, peer, answer)
    with pytest.raises(SandboxLost):
        await connection.run({"op": "exec"}, b"", 5, 100)


async def test_a_connection_that_breaks_is_a_lost_sandbox_and_no_exit(opened: tuple[Connection, _Peer]) -> None:
    connection, peer = opened
    await peer.say(_frame({"event": "output", "job": 0}, b"out") + _frame(ENDED)[:-3])
    peer.hang_up()
    with pytest.raises(SandboxLost):
        await connection.run({"op": "exec"}, b"", 5, 100)


async def test_answers_to_nobodys_question_are_dropped(opened: tuple[Connection, _Peer]) -> None:
    connection, peer = opened
    answer = _frame({**ENDED, "job": 99}) + _frame({"event": "output", "job": 7}, bytes(1000)) + _frame(ENDED)
    assert (await _run(connection, peer, answer)).output == b""


@pytest.mark.parametrize("answer", [b"", _frame({"event": "output", "job": 0}), _frame(ENDED), b"garbage " * 9])
async def test_a_sandbox_that_does_not_say_ready_is_lost(link: tuple[socket.socket, _Peer], answer: bytes) -> None:
    ours, peer = link
    await peer.say(answer)
    peer.hang_up()
    with pytest.raises(SandboxLost):
        await Connection.open(ours, PLAN)


async def test_a_failure_to_build_is_handed_on(link: tuple[socket.socket, _Peer]) -> None:
    ours, peer = link
    await peer.say(_frame({"event": "failed", "step": "proc", "code": 1, "detail": "not permitted"}))
    assert await Connection.open(ours, PLAN) == Failed(event="failed", step="proc", code=1, detail="not permitted")
