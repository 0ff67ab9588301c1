"""The program that leads out of sandboxes, and the service's end of it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox import program
from sandbox.config import EgressSettings
from sandbox.egress import Egress, EgressRecord
from sandbox.errors import SandboxUnavailable
from sandbox.types import NetworkMode, SandboxSpec
from tests.conformance.sandbox import names

SOURCE = program.SOURCE.with_name("egressd")
SPEC = SandboxSpec(network=NetworkMode.PROXY, allow_hosts=("allowed.test",), run_id="run")


def _go(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    return subprocess.run(["go", *arguments], cwd=SOURCE, env=environment, capture_output=True, text=True, check=False)


pytestmark = [pytest.mark.anyio, pytest.mark.skipif(bool(names.missing()), reason=names.missing())]


@pytest.fixture
async def heard() -> list[EgressRecord]:
    return []


@pytest.fixture
async def egress(heard: list[EgressRecord]) -> AsyncIterator[Egress]:
    egress = Egress(EgressSettings(), heard.append)
    yield egress
    await egress.close()


async def _say(socket: Path, text: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(text)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_its_own_tests_pass_and_the_compiler_does_not_object() -> None:
    for command in (("vet", "."), ("test", ".")):
        done = _go(*command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_made_of_the_standard_library_and_one_module() -> None:
    done = _go("list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}")
    assert done.stdout.split() == ["code.dny.dev/ssrf", "egressd"]


async def test_a_door_that_was_closed_lets_nobody_out(egress, heard, tmp_path):
    door = await egress.open(SPEC, tmp_path / "door")
    assert b" 403 " in await _say(tmp_path / "door", b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n")
    assert [(record.run_id, record.host, record.verdict) for record in heard] == [("run", "other.test", "refused")]
    open_one, writer = await asyncio.open_unix_connection(tmp_path / "door")
    await door.close()
    with suppress(ConnectionResetError):
        assert await open_one.read() == b""
    writer.close()
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        await asyncio.open_unix_connection(tmp_path / "door")


async def test_more_than_may_come_at_once_are_all_answered_and_recorded(egress, heard, tmp_path):
    await egress.open(SPEC, tmp_path / "door")
    asking = [_say(tmp_path / "door", b"GET http://other.test/ HTTP/1.0\r\n\r\n") for _ in range(600)]
    assert all(b" 403 " in answer for answer in await asyncio.gather(*asking))
    assert len(heard) == 600


async def test_after_its_death_no_door_is_open_and_the_next_one_starts_it_again(egress, tmp_path):
    door = await egress.open(SPEC, tmp_path / "one")
    os.kill(egress.pid, signal.SIGKILL)
    await door.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(tmp_path / "one")
    await egress.open(SPEC, tmp_path / "two")
    assert b" 403 " in await _say(tmp_path / "two", b"GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n")


async def test_a_place_where_no_door_can_be_is_named(egress, tmp_path):
    with pytest.raises(SandboxUnavailable, match=r"opens no door: .*no such file"):
        await egress.open(SPEC, tmp_path / "nowhere" / "door")


async def test_a_program_that_does_not_start_is_named(tmp_path):
    egress = Egress(EgressSettings(egressd=Path("/bin/true")))
    with pytest.raises(SandboxUnavailable, match="has ended"):
        await egress.open(SPEC, tmp_path / "door")
    await egress.close()
    with pytest.raises(SandboxUnavailable, match=r"Go 1\.24"):
        await Egress(EgressSettings(egressd=tmp_path / "nothing")).open(SPEC, tmp_path / "door")
