"""What only containers have: images, a daemon that may be away, leases, and what is left when a service dies."""

import asyncio
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import docker
import pytest

from sandbox.backends import open_backend
from sandbox.config import DockerSettings, SandboxSettings
from sandbox.docker.backend import WRITABLE, DockerBackend
from sandbox.docker.engine import FOLDER_LABEL, LABEL
from sandbox.errors import ImageMismatch, SandboxLost, SandboxUnavailable, UnknownImage
from sandbox.types import Command, Exited, Resources, SandboxSpec, Signalled
from sandbox.wire.client import Client
from sandbox.wire.dial import unix
from tests.conformance.sandbox import dockerd

pytestmark = pytest.mark.anyio
SMALL = Resources(memory_mib=96, processes=32, disk_mib=32)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if reason := dockerd.missing():
        pytest.skip(reason)
    with dockerd.running() as address:
        yield address


@pytest.fixture(scope="module")
def api(address: str) -> Iterator[docker.APIClient]:
    api = docker.APIClient(base_url=address)
    yield api
    api.close()


@pytest.fixture
async def backend(address: str, tmp_path: Path) -> AsyncIterator[DockerBackend]:
    backend = DockerBackend(_settings(address, tmp_path))
    yield backend
    await backend.close()


def _settings(address: str, folder: Path, **more: object) -> SandboxSettings:
    sockets = folder / "sockets"
    return SandboxSettings(docker=DockerSettings.model_validate({"address": address, "sockets": sockets, **more}))


def _ours(api: docker.APIClient, folder: Path) -> list[str]:
    """Containers that keep their sockets in ``folder``."""
    every = api.containers(all=True, filters={"label": LABEL})
    return [each["Id"] for each in every if each["Labels"][FOLDER_LABEL].startswith(str(folder))]


async def _soon(happened: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(happened):  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.05)


# --- images --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(api: docker.APIClient) -> str:
    """An image of nothing but a shell, of this machine's own files; it sets a variable."""
    out = io.BytesIO()
    programs = [shutil.which(name) or "" for name in ("sh", "cat", "id")]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
        for program in programs:
            tar.add(program, f"bin/{Path(program).name}")
        for library in sorted({word for word in linked.split() if word.startswith("/") and not word.endswith(":")}):
            tar.add(library, library)
        tar.addfile(tarfile.TarInfo("etc/only-here"))
    api.import_image_from_data(out.getvalue(), repository="mimo-test", tag="1", changes=["ENV FLAVOUR=plain"])
    return "mimo-test:1"


async def test_a_command_runs_in_the_image_asked_for(backend: DockerBackend, image: str) -> None:
    sandbox = await backend.acquire(SandboxSpec(image=image, resources=SMALL))
    outcome = await sandbox.exec(
        Command("echo $FLAVOUR $0; id -u; cat /etc/only-here; echo x > /workspace/file", "a", 10)
    )
    assert (outcome.output, type(outcome)) == (b"plain /bin/sh\n1000\n", Exited)
    assert await sandbox.read("/workspace/file") == b"x\n"


async def test_an_image_is_found_by_name_by_digest_and_by_both(
    backend: DockerBackend, image: str, api: docker.APIClient
) -> None:
    digest = api.inspect_image(image)["Id"]
    for name in (digest, f"{image}@{digest}"):
        sandbox = await backend.acquire(SandboxSpec(image=name, resources=SMALL))
        assert isinstance(await sandbox.exec(Command("true", "a", 10)), Exited)
        await sandbox.close()


async def test_an_unknown_image_is_answered_with_how_to_get_it(backend: DockerBackend) -> None:
    with pytest.raises(UnknownImage, match="docker pull example/none:2"):
        await backend.acquire(SandboxSpec(image="example/none:2"))


async def test_an_image_of_another_digest_is_refused(backend: DockerBackend, image: str) -> None:
    wrong = f"{image}@sha256:{'0' * 64}"
    with pytest.raises(ImageMismatch, match=r"is here as sha256:[0-9a-f]{64}, not as sha256:0"):
        await backend.acquire(SandboxSpec(image=wrong))


# --- what holds it -------------------------------------------------------------------------------------------------


async def test_a_container_has_what_was_asked_for_and_nothing_more(
    address: str, tmp_path: Path, api: docker.APIClient
) -> None:
    backend = DockerBackend(_settings(address, tmp_path, cpus=0.5))
    sandbox = await backend.acquire(SandboxSpec(resources=SMALL))
    held = api.inspect_container(sandbox.name)["HostConfig"]
    assert held["NetworkMode"] == "none"
    assert held["CapDrop"] == ["ALL"]
    assert held["SecurityOpt"] == [
        "no-new-privileges"
    ]  # and the daemon's own filter of system calls, by not naming one
    assert (held["Privileged"], held["ReadonlyRootfs"], held["AutoRemove"]) == (False, True, True)
    assert held["Memory"] == held["MemorySwap"] == (96 + 32) * 1024 * 1024
    assert held["NanoCpus"] == 500_000_000
    assert 32 < held["PidsLimit"] < 100
    health = await sandbox.health()
    assert health.first_of_all
    assert health.memory
    await backend.close()
    assert _ours(api, tmp_path) == []


async def test_nothing_of_the_hosts_disk_can_be_written(backend: DockerBackend) -> None:
    sandbox = await backend.acquire(SandboxSpec(resources=SMALL))
    line = "cd /run/sandboxd; touch new; rm -f socket; mv socket other; chmod 777 ."
    outcome = await sandbox.exec(Command(line, "a", 10))
    assert outcome.output.count(b"Permission denied") == 3, outcome
    assert b"Operation not permitted" in outcome.output
    writable = "for d in $(cut -d' ' -f2 /proc/self/mounts); do [ -d $d ] && [ -w $d ] && echo $d; done"
    outcome = await sandbox.exec(Command(writable, "b", 10))
    assert set(outcome.output.decode().split()) <= {*WRITABLE, "/dev/shm", "/dev/mqueue", "/proc"}


async def test_the_sandboxs_user_is_never_the_services_own(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = DockerBackend(_settings(address, tmp_path, uid=4321))
    with monkeypatch.context() as patched:
        (tmp_path / "sockets").mkdir(mode=0o700)
        os.chown(tmp_path / "sockets", 4321, 4321)
        patched.setattr(os, "geteuid", lambda: 4321)
        sandbox = await backend.acquire(SandboxSpec(resources=SMALL))
    outcome = await sandbox.exec(Command("id; touch /workspace/x", "a", 10))
    assert outcome.output == b"uid=4322(sandbox) gid=4322(sandbox) groups=4322(sandbox)\n"
    await backend.close()


async def test_sealed_by_the_settings_not_even_loopback_can_be_used(address: str, tmp_path: Path) -> None:
    backend = DockerBackend(_settings(address, tmp_path, sealed=True))
    sandbox = await backend.acquire(SandboxSpec(resources=SMALL))
    outcome = await sandbox.exec(Command("python -c 'import socket; socket.socket()'", "a", 20))
    assert b"Address family not supported" in outcome.output
    await backend.close()


# --- what goes wrong -----------------------------------------------------------------------------------------------


async def test_a_daemon_that_is_away_is_said_to_be_with_what_to_do(tmp_path: Path) -> None:
    backend = open_backend("docker", _settings(f"unix://{tmp_path}/none.sock", tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"none\.sock does not answer .*start it"):
        await backend.acquire(SandboxSpec())
    await backend.close()


async def test_a_refusal_of_the_daemon_is_passed_on_and_nothing_is_left(
    address: str, tmp_path: Path, api: docker.APIClient
) -> None:
    backend = DockerBackend(_settings(address, tmp_path, runtime="no-such-runtime"))
    with pytest.raises(SandboxUnavailable, match="no-such-runtime"):
        await backend.acquire(SandboxSpec(resources=SMALL))
    await backend.close()
    assert _ours(api, tmp_path) == []
    assert list((tmp_path / "sockets").iterdir()) == []


async def test_a_program_that_does_not_serve_is_told_with_how_the_container_ended(address: str, tmp_path: Path) -> None:
    settings = _settings(address, tmp_path).model_copy(update={"sandboxd": Path("/bin/false")})
    backend = DockerBackend(settings)
    with pytest.raises(SandboxUnavailable, match="ended before it served"):
        await asyncio.wait_for(backend.acquire(SandboxSpec(resources=SMALL)), 60)
    await backend.close()


async def test_a_folder_that_others_may_enter_is_not_used_for_sockets(address: str, tmp_path: Path) -> None:
    (tmp_path / "sockets").mkdir()
    (tmp_path / "sockets").chmod(0o755)
    backend = DockerBackend(_settings(address, tmp_path))
    with pytest.raises(SandboxUnavailable, match="mode 700"):
        await backend.acquire(SandboxSpec())
    await backend.close()


async def test_a_container_killed_from_outside_is_lost_in_mid_command(
    backend: DockerBackend, api: docker.APIClient
) -> None:
    sandbox = await backend.acquire(SandboxSpec(resources=SMALL))
    task = asyncio.create_task(sandbox.exec(Command("echo part; sleep 60", "a", 70)))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(api.kill, sandbox.name)
    with pytest.raises(SandboxLost):
        await task
    await sandbox.close()


async def test_a_caller_that_gives_up_while_it_is_made_leaves_no_container(
    backend: DockerBackend, api: docker.APIClient, tmp_path: Path
) -> None:
    for delay in (0.01, 0.1, 0.2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(backend.acquire(SandboxSpec(resources=SMALL)), delay)
    await backend.close()
    assert _ours(api, tmp_path) == []


# --- a service that dies -------------------------------------------------------------------------------------------

SERVICE = """
import asyncio, sys
from pathlib import Path
from sandbox.backends import open_backend
from sandbox.config import DockerSettings, SandboxSettings
from sandbox.types import Command, Resources, SandboxSpec

async def main():
    address, sockets, lease_s, line = sys.argv[1:]
    settings = DockerSettings(address=address, sockets=Path(sockets), lease_s=float(lease_s))
    backend = open_backend("docker", SandboxSettings(docker=settings))
    sandbox = await backend.acquire(SandboxSpec(resources=Resources(memory_mib=96, processes=32, disk_mib=32)))
    print(sandbox.name, sandbox.client.key.hex(), sandbox.boot_id, flush=True)
    await sandbox.exec(Command(line, "intent-1", 60))

asyncio.run(main())
"""


async def _killed_service(address: str, folder: Path, lease_s: float, line: str) -> list[str]:
    """Start a service of its own and kill it in mid-command; gives what it said of its sandbox."""
    arguments = [address, str(folder / "sockets"), str(lease_s), line]
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, *arguments, stdout=subprocess.PIPE)
    assert service.stdout is not None
    told = (await service.stdout.readline()).decode().split()
    await asyncio.sleep(0.3)
    service.send_signal(signal.SIGKILL)
    await service.communicate()
    return told


async def test_one_lease_after_a_service_was_killed_nothing_of_its_sandboxes_is_left(
    address: str, tmp_path: Path, api: docker.APIClient
) -> None:
    await _killed_service(address, tmp_path, 2.0, "(setsid sleep 4711 &); sleep 4711")
    assert len(_ours(api, tmp_path)) == 1
    await _soon(lambda: _ours(api, tmp_path) == [], 10)


async def test_a_command_of_a_killed_service_goes_on_and_is_found_by_the_next(
    address: str, tmp_path: Path, api: docker.APIClient
) -> None:
    line = "echo begun; sleep 1; echo ran >> log; cat log"
    name, key, boot_id = await _killed_service(address, tmp_path, 30.0, line)
    dial = unix(tmp_path / "sockets" / name / "socket")
    client = await Client.attach(dial, bytes.fromhex(key), boot_id, lease_s=30)
    request = {"op": "exec", "line": line, "cwd": "/workspace", "env": {}, "request_id": "intent-1"}
    result = await client.run(request, b"", 60, 1000)
    assert (result.ended.how, result.output) == ("exited", b"begun\nran\n")
    await client.end()
    await client.wait_closed()
    await _soon(lambda: _ours(api, tmp_path) == [])


async def test_what_even_the_lease_did_not_end_the_next_service_removes(
    address: str, tmp_path: Path, api: docker.APIClient, backend: DockerBackend
) -> None:
    sandbox = await backend.acquire(SandboxSpec(resources=SMALL))
    image = api.inspect_container(sandbox.name)["Image"]
    folder = tmp_path / "sockets" / "old"
    folder.mkdir()
    labels = {LABEL: str(int(time.time()) - 100), FOLDER_LABEL: str(folder)}
    api.create_container(image, ["/none"], name="mimo-sandbox-old", labels=labels)
    await sandbox.close()
    second = DockerBackend(_settings(address, tmp_path))
    await (await second.acquire(SandboxSpec(resources=SMALL))).close()
    await _soon(lambda: _ours(api, tmp_path) == [])
    assert not folder.exists()
    await second.close()


async def test_sandboxes_are_made_side_by_side(backend: DockerBackend) -> None:
    sandboxes = await asyncio.gather(*(backend.acquire(SandboxSpec(resources=SMALL)) for _ in range(4)))
    outcomes = await asyncio.gather(*(each.exec(Command("kill -9 $$", "a", 10)) for each in sandboxes))
    assert all(isinstance(outcome, Signalled) for outcome in outcomes)
    assert len({each.boot_id for each in sandboxes}) == 4


def test_without_the_docker_package_the_backend_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['docker'] = None\nfrom sandbox.backends import open_backend\n"
        "from sandbox.config import SandboxSettings\nopen_backend('docker', SandboxSettings())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False)
    assert "install mimo-coder[docker]" in done.stderr
