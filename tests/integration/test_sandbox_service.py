"""Local sandboxes and the service that made them: none is left over, and where none can be made, it is told why."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sandbox.backends import open_backend
from sandbox.config import LocalSettings, SandboxSettings
from sandbox.errors import SandboxLost, SandboxUnavailable
from sandbox.local.backend import LocalBackend
from sandbox.types import Backend, Command, Exited, OomKilled, Resources, SandboxSpec, TimedOut
from tests.conformance.sandbox.makers import MAKERS, made_by

pytestmark = pytest.mark.anyio

SERVICE = """
import asyncio, json, sys
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.errors import SandboxUnavailable
from sandbox.local.backend import LocalBackend
from sandbox.types import Command, SandboxSpec

async def main():
    backend = open_backend("local", SandboxSettings(local=json.loads(sys.argv[2])))
    try:
        sandbox = await backend.acquire(SandboxSpec())
    except SandboxUnavailable as error:
        print("unavailable:", error)
        await backend.close()
        return
    print("namespaces:", sandbox.evidence.namespaces, flush=True)
    await sandbox.exec(Command(sys.argv[1], "a", 60))
    await sandbox.close()
    await backend.close()

asyncio.run(main())
"""


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def backend(maker: str) -> AsyncIterator[Backend]:
    backend = open_backend("local", SandboxSettings(local=made_by(maker)))
    yield backend
    await backend.close()


def _running(marker: str) -> list[int]:
    """Processes on this host with ``marker`` among their arguments, wherever they live."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in arguments:
                found.append(int(folder.name))
    return found


def _soon(happened: Callable[[], object]) -> bool:
    give_up = time.monotonic() + 60
    while not happened():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def test_one_lease_after_a_service_was_killed_nothing_of_its_sandboxes_is_left(maker: str) -> None:
    marker = str(4_000_000 + os.getpid())
    line = f"(setsid sleep {marker} &) ; sleep {marker}"
    command = [sys.executable, "-c", SERVICE, line, made_by(maker, lease_s=1).model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as service:
        assert _soon(lambda: len(_running(marker)) == 2)
        before = _leftovers()
        service.send_signal(signal.SIGKILL)
    assert _soon(lambda: not _running(marker))
    assert _soon(lambda: _leftovers() <= before)


async def test_a_holder_that_is_killed_takes_its_sandbox_along(backend: Backend) -> None:
    marker = str(5_000_000 + os.getpid())
    sandbox = await backend.acquire(SandboxSpec())
    await sandbox.exec(Command(f"nohup sleep {marker} > /dev/null 2>&1 &", "a", 10))
    assert await asyncio.to_thread(_soon, lambda: _running(marker))
    [sleeper] = _running(marker)
    for pid in _ancestors(sleeper)[:2]:  # the first process of the sandbox, and its holder
        os.kill(pid, signal.SIGKILL)
    assert await asyncio.to_thread(_soon, lambda: not _running(marker))
    await sandbox.close()


async def test_a_sandbox_whose_first_process_is_killed_is_lost_in_mid_command(backend: Backend) -> None:
    marker = str(3_000_000 + os.getpid())
    sandbox = await backend.acquire(SandboxSpec())
    running = asyncio.create_task(sandbox.exec(Command(f"echo part; sleep {marker}; true", "a", 60)))
    assert await asyncio.to_thread(_soon, lambda: _running(marker))
    [sleeper] = _running(marker)
    os.kill(_ancestors(sleeper)[1], signal.SIGKILL)  # the shell's parent
    with pytest.raises(SandboxLost):
        await running
    await sandbox.close()


async def test_what_a_killed_holder_left_the_next_service_removes(maker: str, tmp_path: Path) -> None:
    settings = SandboxSettings(local=made_by(maker, sockets=tmp_path / "sockets"))
    first, second = LocalBackend(settings), LocalBackend(settings)
    marker = str(2_000_000 + os.getpid())
    sandbox = await first.acquire(SandboxSpec())
    await sandbox.exec(Command(f"nohup sleep {marker} > /dev/null 2>&1 &", "a", 10))
    assert await asyncio.to_thread(_soon, lambda: _running(marker))
    os.kill(_ancestors(_running(marker)[0])[1], signal.SIGKILL)
    assert await asyncio.to_thread(_soon, lambda: not _running(marker))
    assert [path.name for path in (tmp_path / "sockets").iterdir()] == [sandbox.handle.id]
    assert await second.found() == []
    assert list((tmp_path / "sockets").iterdir()) == []
    await sandbox.close()
    await first.close()


async def test_a_folder_that_others_may_enter_is_not_used_for_sockets(tmp_path: Path) -> None:
    await asyncio.to_thread(tmp_path.chmod, 0o755)
    backend = LocalBackend(SandboxSettings(local=LocalSettings(sockets=tmp_path)))
    with pytest.raises(SandboxUnavailable, match=r"mode 700.*sandbox\.local\.sockets"):
        await backend.acquire(SandboxSpec())
    await backend.close()


async def test_a_nursery_that_died_is_replaced(backend: Backend) -> None:
    first = await backend.acquire(SandboxSpec())
    marker = str(6_000_000 + os.getpid())
    await first.exec(Command(f"nohup sleep {marker} > /dev/null 2>&1 &", "a", 10))
    assert await asyncio.to_thread(_soon, lambda: _running(marker))
    [sleeper] = _running(marker)
    os.kill(_ancestors(sleeper)[2], signal.SIGKILL)
    assert await asyncio.to_thread(_soon, lambda: len(_ancestors(sleeper)) < 4)
    second = await backend.acquire(SandboxSpec())
    for sandbox in (first, second):
        assert isinstance(await sandbox.exec(Command("true", "b", 10)), Exited)
    await backend.close()
    assert not _running(marker)


async def test_a_holder_that_died_before_it_was_needed_is_replaced(backend: Backend) -> None:
    first = await backend.acquire(SandboxSpec())
    marker = str(8_000_000 + os.getpid())
    await first.exec(Command(f"nohup sleep {marker} > /dev/null 2>&1 &", "a", 10))
    assert await asyncio.to_thread(_soon, lambda: _running(marker))
    [sleeper] = _running(marker)
    _, holder, nursery, *_ = _ancestors(sleeper)
    [spare] = {*_children(nursery)} - {holder}
    os.kill(spare, signal.SIGKILL)
    assert await asyncio.to_thread(_soon, lambda: spare not in _children(nursery))
    second = await backend.acquire(SandboxSpec())
    for sandbox in (first, second):
        assert isinstance(await sandbox.exec(Command("true", "b", 10)), Exited)


async def test_without_a_control_group_memory_and_processes_are_bounded_all_the_same(
    maker: str, tmp_path: Path
) -> None:
    backend = LocalBackend(SandboxSettings(local=made_by(maker), cgroup_parents=(tmp_path / "none",)))
    try:
        sandbox = await backend.acquire(SandboxSpec(resources=Resources(memory_mib=192, processes=32, disk_mib=16)))
        assert sandbox.evidence is not None
        assert sandbox.evidence.memory.startswith("watched")
        alone = await sandbox.exec(Command("python -c 'x = bytearray(2_000_000_000)'", "a", 30))
        assert b"MemoryError" in alone.output
        for hog in (
            "x = bytearray(90_000_000)",
            "x = mmap.mmap(-1, 90_000_000); x.write(bytes(90_000_000))",  # shared, so no data of the process
            "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); x = bytearray(90_000_000)",  # closed to others: not dumpable
        ):
            program = f"python -c 'import ctypes, mmap, time; {hog}; time.sleep(60)'"
            together = await sandbox.exec(Command(f"for i in 1 2 3 4; do {program} & done; wait", hog, 50))
            assert isinstance(together, OomKilled), hog
        bomb = await sandbox.exec(Command("bomb() { bomb | bomb & }; bomb; sleep 60", "c", 1))
        assert isinstance(bomb, TimedOut)
        assert (await sandbox.exec(Command("echo alive", "d", 10))).output == b"alive\n"
    finally:
        await backend.close()


async def test_nothing_is_left_of_a_sandbox_that_is_closed(backend: Backend) -> None:
    before = _leftovers()
    sandboxes = await asyncio.gather(*(backend.acquire(SandboxSpec()) for _ in range(5)))
    marker = str(7_000_000 + os.getpid())
    line = f"(setsid sleep {marker} > /dev/null 2>&1 &)"
    await asyncio.gather(*(sandbox.exec(Command(line, "a", 10)) for sandbox in sandboxes))
    await backend.close()
    assert _running(marker) == []
    assert _leftovers() <= before


async def test_a_python_below_a_writable_folder_is_seen_read_only_and_is_no_part_of_a_tree(
    maker: str, tmp_path: Path
) -> None:
    tool = tmp_path / "python" / "bin" / "tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho ran\n")
    tool.chmod(0o755)
    backend = open_backend("local", SandboxSettings(local=made_by(maker), python_prefixes=(tmp_path / "python",)))
    try:
        sandbox = await backend.acquire(SandboxSpec())
        outcome = await sandbox.exec(Command(f"tool; echo x >> {tool}; rm -f {tool}; tool", "a", 10))
        assert outcome.output.count(b"ran\n") == 2, outcome
        assert b"echo ran" not in await sandbox.download("/tmp")
    finally:
        await backend.close()


async def test_a_machine_without_bash_is_told_to_install_it(tmp_path: Path) -> None:
    settings = SandboxSettings(path=(str(tmp_path),), python_prefixes=(tmp_path,))
    with pytest.raises(SandboxUnavailable, match=r"bash is not in .*install it"):
        await open_backend("local", settings).acquire(SandboxSpec())


def test_an_unknown_backend_is_answered_with_those_there_are() -> None:
    with pytest.raises(SandboxUnavailable, match="choose one of: local"):
        open_backend("cloud", SandboxSettings())


def test_a_superuser_in_name_only_gets_sandboxes_without_privilege() -> None:
    """As in a container: user id 0, of a user namespace that has no other users."""
    told = _in_user_namespace("", LocalSettings(), "--map-root-user")
    assert told == "namespaces: user\n"


def test_an_ordinary_user_gets_sandboxes_of_bubblewrap_without_privilege(tmp_path: Path) -> None:
    local = made_by("bubblewrap", sockets=tmp_path / "sockets")
    told = _in_user_namespace("", local, "--map-user=12345", "--map-group=12345")
    assert told == "namespaces: bubblewrap, user\n"


def test_a_superuser_in_name_only_gets_none_of_bubblewrap_for_they_would_be_he() -> None:
    told = _in_user_namespace("", made_by("bubblewrap"), "--map-root-user")
    assert told.startswith("unavailable: this machine does not let us make a sandbox (bubblewrap: ")


def test_a_kernel_that_allows_no_namespaces_is_no_reason_to_go_without(maker: str) -> None:
    told = _in_user_namespace("echo 0 > /proc/sys/user/max_user_namespaces;", made_by(maker), "--map-root-user")
    assert told.startswith("unavailable: this machine does not let us make a sandbox (")
    assert "user.max_user_namespaces" in told or maker == "bubblewrap"
    assert "--sandbox docker" in told


def _in_user_namespace(preparation: str, local: LocalSettings, *who: str) -> str:
    line = f'{preparation} exec "$0" "$@"'
    service = [sys.executable, "-c", SERVICE, "true", local.model_dump_json()]
    command = ["unshare", "--user", *who, "bash", "-c", line, *service]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout


def _ancestors(pid: int) -> list[int]:
    """Parent, grandparent, ...: first process, holder, nursery, service; not bubblewrap, where it is between."""
    chain = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{pid}/comm").read_text() != "bwrap\n":
                chain.append(pid)
        except FileNotFoundError:
            break
    return chain


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _leftovers() -> set[Path]:
    """Control groups whose holder is no more. Other services of this machine may have some, which come and go."""
    found = (Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup"))
    ours = (folder for folder in found if folder.name.startswith("mimo-sandbox-"))
    return {group for group in ours if not Path("/proc", group.name.split("-")[2]).exists() and group.exists()}
