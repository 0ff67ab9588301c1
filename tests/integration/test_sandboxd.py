"""sandboxd and its client, over a unix socket and over TCP, without a container around them."""

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from sandbox import program
from sandbox.errors import SandboxLost, SandboxRejected
from sandbox.wire import frames
from sandbox.wire.client import Client
from sandbox.wire.dial import Dial, tcp, unix
from sandbox.wire.ending import Result

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("go") is None, reason="not installed: go (Debian: golang-go)"),
]
ENV = {"PATH": "/usr/bin:/bin"}


def command(line: str, request_id: str, cwd: str = "/tmp") -> dict[str, object]:
    return {"op": "exec", "line": line, "cwd": cwd, "env": ENV, "request_id": request_id}


async def run(client: Client, line: str, request_id: str, data: bytes = b"", timeout_s: float = 20.0) -> Result:
    return await client.run(command(line, request_id), data, timeout_s, 1_000_000)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], Path]]:
    process = _serve("--unix", str(tmp_path / "socket"), "--spill", str(tmp_path))
    await _until((tmp_path / "socket").exists)
    yield process, tmp_path / "socket"
    process.kill()
    process.wait()


def _serve(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program.sandboxd(None), "serve", *arguments])


@pytest.fixture
async def client(served: tuple[subprocess.Popen[bytes], Path]) -> AsyncIterator[Client]:
    client = await Client.claim(unix(served[1]), lease_s=60, lifetime_s=600)
    yield client
    await client.end()
    await client.wait_closed()


def _resident_kib(folder: Path) -> int:
    return int((folder / "status").read_text().partition("VmRSS:")[2].split()[0])


async def _until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not happened():  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.01)


# --- whose it is ---------------------------------------------------------------------------------------------------


async def test_only_the_first_to_come_claims_it_and_the_others_are_counted(client, served):
    with pytest.raises(SandboxLost, match="denied; somebody else may have come first"):
        await Client.claim(unix(served[1]), lease_s=60, lifetime_s=600)
    with pytest.raises(SandboxLost, match="does not know its key"):
        await Client.attach(unix(served[1]), bytes(32), client.boot_id, lease_s=60)
    assert (await client.health()).refused == 1  # the other knew better than to try
    assert (await run(client, "echo fine", "a")).output == b"fine\n"


async def test_without_the_key_nothing_is_answered(client, served):
    for head in ({"id": 1, "op": "health"}, {"id": 1, "op": "start", "job": "x"}, {"op": "prove", "version": 1}):
        reader, writer = await asyncio.open_unix_connection(served[1])
        writer.write(frames.encode(head))
        assert await reader.read() == b""
        writer.close()


async def test_rubbish_and_silence_harm_nobody(client, served):
    silent = [await asyncio.open_unix_connection(served[1]) for _ in range(5)]
    for rubbish in (
        b"\xff" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        frames.encode({"op": 7}),
        b"\x00\x00\x00\x01\x00\x00\x00\x00{",
    ):
        _, writer = await asyncio.open_unix_connection(served[1])
        writer.write(rubbish)
        writer.close()
    assert (await run(client, "echo fine", "a")).output == b"fine\n"
    for _, writer in silent:
        writer.close()


async def test_it_serves_over_tcp_too():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = _serve("--tcp", f"127.0.0.1:{port}")
    client = await Client.claim(tcp("127.0.0.1", port), lease_s=60, lifetime_s=600)
    assert (await run(client, "echo over tcp", "a")).output == b"over tcp\n"
    await client.end()
    assert await asyncio.to_thread(process.wait, 10) == 0


# --- coming back ---------------------------------------------------------------------------------------------------


async def test_a_command_outlives_its_client_and_is_found_again_by_its_id(client, served, tmp_path):
    line = f"echo begun; sleep 0.5; echo ran >> {tmp_path}/log; echo done"
    task = asyncio.create_task(run(client, line, "same"))
    await asyncio.sleep(0.2)
    key, boot_id = client.key, client.boot_id
    client.close("as if killed")
    with pytest.raises(SandboxLost):
        await task
    second = await Client.attach(unix(served[1]), key, boot_id, lease_s=60)
    result = await run(second, line, "same")
    assert (result.ended.how, result.output) == ("exited", b"begun\ndone\n")
    assert (tmp_path / "log").read_text() == "ran\n"
    await second.end()


async def test_a_broken_connection_is_not_an_end(served, tmp_path):
    async with _relay(served[1]) as (dial, cut):
        client = await Client.claim(dial, lease_s=60, lifetime_s=600)
        task = asyncio.create_task(
            run(
                client, f"head -c 300000 /dev/zero; sleep 0.3; wc -c; echo ran >> {tmp_path}/log", "a", bytes(3_000_000)
            )
        )
        for _ in range(5):
            await asyncio.sleep(0.05)
            cut()
        result = await task
        assert (result.ended.how, len(result.output)) == ("exited", 300_008)
        assert (tmp_path / "log").read_text() == "ran\n"
        await client.end()
        await client.wait_closed()


async def test_another_sandbox_in_its_place_is_noticed(served, tmp_path):
    client = await Client.claim(unix(served[1]), lease_s=60, lifetime_s=600)
    task = asyncio.create_task(run(client, "sleep 5", "a"))
    await asyncio.sleep(0.1)
    served[0].kill()
    served[0].wait()
    served[1].unlink()
    other = _serve("--unix", str(served[1]))
    with pytest.raises(SandboxLost):
        await task
    with pytest.raises(SandboxLost):
        await run(client, "true", "b")
    await client.wait_closed()
    other.kill()
    other.wait()


async def test_the_last_commands_are_kept_and_what_was_acknowledged_never_runs_again(client, served, tmp_path):
    line = f"echo ran | tee -a {tmp_path}/log"
    await run(client, line, "same")
    assert (await run(client, line, "same")).output == b"ran\n"
    for number in range(8):
        await run(client, "true", f"later-{number}")
    with pytest.raises(SandboxRejected, match="no longer kept"):
        await run(client, line, "same")
    assert (tmp_path / "log").read_text() == "ran\n"


# --- the end -------------------------------------------------------------------------------------------------------


async def test_it_ends_when_nobody_renews_its_lease(served):
    client = await Client.claim(unix(served[1]), lease_s=0.9, lifetime_s=600)
    await run(client, f"(setsid sleep {_marker(1)} &)", "a")
    await asyncio.sleep(1.5)  # renewed meanwhile
    assert served[0].poll() is None
    client.close("as if killed")
    assert await asyncio.to_thread(served[0].wait, 10) == 0
    assert not _running(_marker(1))


async def test_it_ends_when_nobody_claims_it(tmp_path):
    process = _serve("--unix", str(tmp_path / "socket"), "--unclaimed", "200ms")
    assert await asyncio.to_thread(process.wait, 10) == 0


async def test_killed_in_mid_command_it_is_lost_and_no_result_is_made_up(served):
    client = await Client.claim(unix(served[1]), lease_s=60, lifetime_s=600)
    task = asyncio.create_task(run(client, "echo part; sleep 5", "a"))
    await asyncio.sleep(0.2)
    served[0].send_signal(signal.SIGKILL)
    with pytest.raises(SandboxLost, match="the sandbox ended"):
        await task
    await client.wait_closed()


async def test_a_signal_reaches_every_process_of_a_command_and_no_other(client):
    other = asyncio.create_task(run(client, "sleep 0.8; echo spared", "other"))
    task = asyncio.create_task(run(client, f"(setsid sleep {_marker(2)} &); sleep 60", "a"))
    await _until(lambda: _running(_marker(2)))
    await client.signal("a", signal.SIGTERM)
    assert ((await task).ended.how, (await task).ended.code) == ("signalled", signal.SIGTERM)
    await _until(lambda: not _running(_marker(2)))
    assert (await other).output == b"spared\n"


async def test_a_process_that_hides_behind_lowered_limits_is_ended_all_the_same(client):
    line = f"ulimit -m 1000; (setsid sleep {_marker(3)} &); sleep 60"
    assert (await run(client, line, "a", timeout_s=0.5)).ended.how == "timed_out"
    await _until(lambda: not _running(_marker(3)))


# --- output and input ----------------------------------------------------------------------------------------------


async def test_a_hundred_megabytes_arrive_whole_and_the_client_stays_small(client, tmp_path):
    script = f"""
import asyncio, hashlib, resource, sys
from pathlib import Path
from sandbox.wire.client import Client
from sandbox.wire.dial import unix
from sandbox.wire.ending import Ended
async def main():
    client = await Client.attach(unix(Path(sys.argv[1])), bytes.fromhex(sys.argv[2]), sys.argv[3], lease_s=60)
    await client.run({command("true", "warm up")!r}, b"", 20, 0)
    before, seen, total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, hashlib.sha256(), 0
    async for part in client.follow({command("head -c 100000000 /dev/zero", "big")!r}, b"", 60, 10**9):
        if isinstance(part, bytes):
            seen.update(part)
            total += len(part)
    print(total, seen.hexdigest(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    client.close("done")
asyncio.run(main())
"""
    arguments = [str(tmp_path / "socket"), client.key.hex(), client.boot_id]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *arguments, stdout=subprocess.PIPE)
    told = (await process.communicate())[0].split()
    assert told[:2] == [b"100000000", hashlib.sha256(bytes(100_000_000)).hexdigest().encode()]
    assert int(told[2]) <= 8 * 1024  # KiB


async def test_without_room_to_put_output_away_the_command_waits_and_nothing_is_lost(tmp_path):
    process = _serve("--unix", str(tmp_path / "socket"), "--spill", "/nowhere")
    client = await Client.claim(unix(tmp_path / "socket"), lease_s=60, lifetime_s=600)
    result = await client.run(command("seq 200000", "a"), b"", 30, 10_000_000)
    assert result.output == b"".join(b"%d\n" % number for number in range(1, 200_001))
    await client.end()
    await asyncio.to_thread(process.wait, 10)


async def test_one_byte_over_the_limit_is_over_it_however_fast_it_came(client):
    for number in range(30):
        result = await client.run(command("head -c 100001 /dev/zero", f"a{number}"), b"", 30, 100_000)
        assert (result.ended.how, result.ended.total, len(result.output)) == ("output_limit", 100_001, 100_000)


async def test_stopping_in_the_middle_of_the_output_stops_nothing_else(client):
    async for part in client.follow(command("seq 1000000", "a"), b"", 30, 10_000_000):
        assert part
        break
    assert (await run(client, "echo fine", "b")).output == b"fine\n"


# --- sealed --------------------------------------------------------------------------------------------------------


async def test_a_sealed_command_opens_no_network_socket_but_may_speak_to_its_own(tmp_path):
    process = _serve("--unix", str(tmp_path / "socket"))
    client = await Client.claim(unix(tmp_path / "socket"), lease_s=60, lifetime_s=600, sealed=True)
    probe = (
        "import socket\nfor family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):\n"
        "    try: socket.socket(family).close(); print('opened')\n    except OSError as error: print(error.errno)\n"
        "socket.socketpair()"
    )
    env = {**ENV, "PATH": os.environ["PATH"]}
    result = await client.run({**command("python3 -", "a"), "env": env}, probe.encode(), 20, 10_000)
    assert result.output == b"97\n97\nopened\n", result
    await client.end()
    await asyncio.to_thread(process.wait, 10)


# --- a sandbox that has been taken over ----------------------------------------------------------------------------

BOOT = "b" * 32
HELLO = {"id": 1, "boot": BOOT}


END = {"how": "exited", "code": 0, "total": 0, "run_s": 0.0, "detail": ""}


def _reply(body: bytes = b"", **fields: object) -> bytes:
    return frames.encode({"id": 3, "boot": BOOT, **fields}, body)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"\xff" * 8, id="no frame"),
        pytest.param(b"\x00\x00\x00\x02\x00\x0f\x00\x00{}", id="huge body"),
        pytest.param(_reply(id=99), id="unasked"),
        pytest.param(_reply(boot="c" * 32), id="another boot"),
        pytest.param(_reply(surprise=True), id="unknown field"),
        pytest.param(_reply(end={**END, "how": "won"}), id="unknown end"),
        pytest.param(_reply(end={**END, "code": 10**9}), id="no such code"),
        pytest.param(_reply(b"longer", end={**END, "total": 1}), id="more than its total"),
        pytest.param(_reply(bytes(10_001)), id="over the limit"),
    ],
)
async def test_a_reply_that_no_honest_sandbox_sends_ends_it(tmp_path, reply):
    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await frames.read(reader)
        writer.write(frames.encode(HELLO))
        await frames.read(reader)  # start
        await frames.read(reader)  # poll
        writer.write(frames.encode({"id": 2, "boot": BOOT}) + reply)

    async with _in_its_place(tmp_path / "socket", lie):
        client = await Client.claim(unix(tmp_path / "socket"), lease_s=60, lifetime_s=600)
        with pytest.raises(SandboxLost, match="broke the protocol"):
            await client.run(command("true", "a"), b"", 10, 10_000)
        with pytest.raises(SandboxLost):
            client.check()
        await client.wait_closed()


async def test_an_impostor_learns_nothing_and_is_not_believed(tmp_path):
    heard = []

    async def impersonate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await frames.read(reader))
        writer.write(frames.encode({"id": 1, "boot": BOOT, "nonce": "1" * 64, "proof": "2" * 64}))

    key = os.urandom(32)
    async with _in_its_place(tmp_path / "socket", impersonate):
        with pytest.raises(SandboxLost, match="does not know its key"):
            await Client.attach(unix(tmp_path / "socket"), key, BOOT, lease_s=60)
    assert heard
    assert key.hex() not in str(heard)


async def test_an_answer_that_never_comes_is_given_up(tmp_path):
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await frames.read(reader)

    async with _in_its_place(tmp_path / "socket", say_nothing):
        with pytest.raises(SandboxLost, match="not ready within"):
            await Client.claim(unix(tmp_path / "socket"), lease_s=60, lifetime_s=600, ready_s=0.2)


async def test_a_shell_that_is_no_folders_guest_is_rejected(client):
    result = await client.run(command("true", "a", cwd="/no/such/folder"), b"", 10, 0)
    assert result.ended.how == "rejected"
    assert "/no/such/folder" in result.ended.detail


async def test_a_thousand_commands_leave_nothing_behind(client, served):
    for number in range(0, 1000, 4):
        await asyncio.gather(*(run(client, "true", f"n{number + each}") for each in range(4)))
    health = await client.health()
    assert (health.running, health.ended) == (0, 8)  # those that are kept for who might take the sandbox over
    folder = Path(f"/proc/{served[0].pid}")
    children = (folder / "task" / str(served[0].pid) / "children").read_text().split()
    assert children == []
    assert len(list((folder / "task").iterdir())) < 24
    await _until(lambda: _resident_kib(folder) <= 6 * 1024)  # When it rests, it gives back what it does not use.


@asynccontextmanager
async def _in_its_place(
    place: Path, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[None]:
    """Somebody who listens where a sandbox should."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        done.set()

    server = await asyncio.start_unix_server(serve, place)
    yield
    await done.wait()
    server.close()
    await asyncio.sleep(0)


def _marker(number: int) -> str:
    return str(10_000_000 + number * 4_194_304 + os.getpid())


def _running(marker: str) -> bool:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
    return False


@asynccontextmanager
async def _relay(target: Path) -> AsyncIterator[tuple[Dial, Callable[[], None]]]:
    """A way to the socket that can be cut."""
    open_ends: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(target)
        open_ends.extend((writer, far_writer))
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    def cut() -> None:
        while open_ends:
            open_ends.pop().transport.abort()

    place = target.with_name("relay")
    server = await asyncio.start_unix_server(serve, place)
    yield unix(place), cut
    cut()
    server.close()
