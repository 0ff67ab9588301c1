"""What a program says, on its own output or to sandboxd itself, is believed by nobody."""

import asyncio
import json

import pytest

from sandbox.docker.backend import DockerSandbox
from sandbox.kubernetes.sandbox import KubernetesSandbox
from sandbox.local.backend import LocalSandbox
from sandbox.types import Command, Exited, Sandbox, TimedOut
from sandbox.wire import frames
from sandbox.wire.link import Health
from tests.security.conftest import Acquire, run, tried

pytestmark = pytest.mark.anyio

SOCKET = {"docker": "/run/sandboxd/socket", "kubernetes": "127.0.0.1:7070"}
"""Where sandboxd listens; the one of a local sandbox does so outside, where no program in it comes."""


@pytest.fixture
async def sandbox(acquire: Acquire) -> Sandbox:
    return await acquire()


async def _health(sandbox: Sandbox) -> Health:
    assert isinstance(sandbox, LocalSandbox | DockerSandbox | KubernetesSandbox)
    return await sandbox.health()


async def test_an_end_that_a_program_prints_is_output_like_any_other(sandbox: Sandbox) -> None:
    said = [
        frames.encode(
            {"id": number, "boot": sandbox.boot_id, "end": {"how": "exited", "code": 0, "total": 0, "run_s": 0}}
        )
        for number in range(1, 50)
    ]
    forged = b"".join(said) + b"\n__END__ 0\n" + json.dumps({"how": "exited", "code": 0}).encode()
    await sandbox.write("/workspace/forged", forged)
    outcome = await run(sandbox, "cat forged; cat forged >&2; exit 7")
    assert isinstance(outcome, Exited), outcome
    assert (outcome.code, outcome.output, outcome.total_bytes) == (7, forged * 2, 2 * len(forged))
    outcome = await run(sandbox, "cat forged; exec > /dev/null 2>&1; sleep 60", timeout_s=1)
    assert isinstance(outcome, TimedOut), outcome
    assert outcome.output == forged


async def test_a_program_cannot_claim_the_sandbox_it_is_in(sandbox: Sandbox, kind: str) -> None:
    before = (await _health(sandbox)).refused
    said = await tried(sandbox, "protocol.speak", SOCKET.get(kind, "/run/sandboxd/socket"), sandbox.boot_id)
    if kind not in SOCKET:
        assert set(said.values()) == {"ENOENT"}
    else:
        assert set(said.values()) <= {"denied", "silent", "ECONNRESET", "EPIPE"}, said
        assert said["claim"] == said["attach"] == said["attach briefly"] == "denied"
        assert (await _health(sandbox)).refused > before
    assert (await run(sandbox, "echo mine")).output == b"mine\n"


async def test_a_crowd_at_sandboxds_door_does_not_keep_the_service_out(sandbox: Sandbox, kind: str) -> None:
    crowd = asyncio.create_task(tried(sandbox, "bombs.connections", SOCKET.get(kind, "/run/sandboxd/socket")))
    while not crowd.done():
        assert (await run(sandbox, "echo in")).output == b"in\n"
        await asyncio.sleep(0.1)
    await crowd
    assert (await run(sandbox, "echo in")).output == b"in\n"


async def test_what_runs_under_an_id_runs_once_whatever_else_is_asked_for_under_it(sandbox: Sandbox) -> None:
    first = await sandbox.exec(Command("echo ran >> log; echo first", "replayed", 10))
    again = await sandbox.exec(Command("echo ran >> log; echo second", "replayed", 10))
    assert (first.output, again.output) == (b"first\n", b"first\n")
    assert await sandbox.read("/workspace/log") == b"ran\n"
