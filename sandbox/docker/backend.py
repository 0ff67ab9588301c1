"""Sandboxes in containers of the Docker daemon.

The daemon makes a container and ends it; everything between goes over a unix socket to sandboxd, which is the
container's first process (``sandbox/sandboxd``, ``sandbox/wire/client.py``). The container has no network unless its
spec asks for one, no capability, a read-only root and a bounded file system in memory for each folder that commands
may write.

A container that nobody wants any more ends in three ways: it is closed; sandboxd ends it with its lease, whatever
became of the service; and what even that did not reach, the next service finds by its labels.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path

from sandbox import image, program
from sandbox.chores import Chores
from sandbox.config import SandboxSettings
from sandbox.docker.engine import FOLDER_LABEL, LABEL, Engine, Image
from sandbox.egress import Door, Egress, variables
from sandbox.errors import SandboxError, SandboxLost, SandboxUnavailable
from sandbox.inventory import Found, Handle
from sandbox.private_folder import private_folder
from sandbox.types import Capability, NetworkMode, SandboxSpec
from sandbox.wire.client import Client
from sandbox.wire.dial import unix
from sandbox.wire.link import Health
from sandbox.wire.machine import Machine

WRITABLE = ("/workspace", "/tmp", "/var/tmp", "/home/sandbox")  # noqa: S108  # in the sandbox
_PROGRAM = "/sandboxd"
_SOCKETS = "/run/sandboxd"
_WAY_OUT = "egress"
_OUR_PROCESSES = 48
"""Threads of sandboxd, and what waits to become commands."""
_UNCLAIMED_S = 120
_SWEEP_S = 60.0
_LOOK_S = 1.0


class DockerBackend:
    """Starts sandboxes as containers."""

    name = "docker"
    capabilities = frozenset(
        {
            Capability.BOUNDED_FILES,
            Capability.CHECKPOINTS,
            Capability.HOST,
            Capability.IMAGES,
            Capability.NO_DEVICE,
            Capability.OWN_GROUPS,
            Capability.PROXY,
            Capability.REATTACH,
        }
    )

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._sockets: Path | None = None
        self._turn = asyncio.Lock()
        self._swept = 0.0
        self._chores = Chores()
        self._sandboxes: set[DockerSandbox] = set()
        self._egress = Egress(settings.egress)

    async def acquire(self, spec: SandboxSpec) -> "DockerSandbox":
        return await self._chores.make(self._make(spec))

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> "DockerSandbox":
        engine = await self._connected()
        found = await asyncio.to_thread(self._find_image, engine, spec.image)
        path, settings = Path(handle.address), self._settings.docker
        client = await Client.attach(
            unix(path),
            handle.key,
            handle.boot_id,
            lease_s=settings.lease_s,
            sealed=settings.sealed,
            env=self._environment(spec, found),
            term=term,
        )
        door = await self._open_door(spec, path.parent)
        return self._have(DockerSandbox(client, engine, handle.id, path.parent, door))

    async def found(self) -> Sequence[Found]:
        engine = await self._connected()
        containers = await asyncio.to_thread(engine.containers, self._socket_folder())
        return [Found(each.name, each.created_at, each.ends_at) for each in containers]

    async def remove(self, id: str) -> None:  # noqa: A002  # the field's name
        engine = await self._connected()
        await asyncio.to_thread(_discard, engine, id, self._socket_folder() / id)

    async def close(self) -> None:
        await self._chores.made()
        await self._chores.tidied()
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes))
        self._sandboxes.clear()
        await self._egress.close()
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await asyncio.to_thread(engine.close)

    async def _make(self, spec: SandboxSpec) -> "DockerSandbox":
        engine = await self._connected()
        served_by = await asyncio.to_thread(program.sandboxd, self._settings.sandboxd)
        found = await asyncio.to_thread(self._find_image, engine, spec.image)
        name = f"mimo-sandbox-{secrets.token_hex(8)}"
        folder = _make_folder(self._socket_folder(), name)
        settings = self._settings.docker
        door = None
        try:
            config = self._config(spec, found, served_by, folder)
            door = await self._open_door(spec, folder)
            await asyncio.to_thread(engine.start, name, config)
            claiming = Client.claim(
                unix(folder / "socket"),
                lease_s=settings.lease_s,
                lifetime_s=spec.lifetime_s,
                memory_bytes=spec.resources.memory_mib * 1024 * 1024,
                sealed=settings.sealed,
                env=self._environment(spec, found),
            )
            client = await _while_running(claiming, engine, name)
            # The socket is there, and nothing untrusted has run yet: from now on, the folder is not the sandbox's to
            # write. What is in it lies on the host's disk, which has no bound of ours.
            folder.chmod(0o711)
        except SandboxError as error:
            await asyncio.to_thread(_discard, engine, name, folder)
            if door is not None:
                await door.close()
            if isinstance(error, SandboxLost):
                raise SandboxUnavailable(f"the container {name}: {error}") from error
            raise
        return self._have(DockerSandbox(client, engine, name, folder, door))

    async def _open_door(self, spec: SandboxSpec, folder: Path) -> Door | None:
        return await self._egress.open(spec, folder / _WAY_OUT) if spec.network is NetworkMode.PROXY else None

    def _have(self, sandbox: "DockerSandbox") -> "DockerSandbox":
        self._sandboxes = {each for each in self._sandboxes if not each.closed} | {sandbox}
        return sandbox

    async def _connected(self) -> Engine:
        async with self._turn:
            if self._engine is None:
                self._engine = await asyncio.to_thread(Engine, self._settings.docker.address)
        if time.monotonic() > self._swept + _SWEEP_S:
            self._swept = time.monotonic()
            self._chores.tidy(asyncio.to_thread(_sweep, self._engine, self._socket_folder()))
        return self._engine

    def _socket_folder(self) -> Path:
        if self._sockets is None:
            self._sockets = private_folder(self._settings.docker.sockets, "mimo-sandboxes", "sandbox.docker.sockets")
        return self._sockets

    def _find_image(self, engine: Engine, name: str) -> Image:
        if name != "host":
            return engine.find(name)
        image.find_shell(self._settings)
        binds, links = image.view(self._settings)
        folders = [*WRITABLE, "/proc", "/sys", "/dev", "/root", "/mnt", "/run", _SOCKETS]
        folders += [place for place, real in binds.items() if Path(real).is_dir()]
        files = {place: "" for place, real in binds.items() if not Path(real).is_dir()}
        return engine.host_image(folders, {**files, **image.files(self._uid()), _PROGRAM: ""}, links)

    def _uid(self) -> int:
        uid = self._settings.docker.uid
        return uid + 1 if uid == os.geteuid() else uid

    def _environment(self, spec: SandboxSpec, found: Image) -> dict[str, str]:
        own = None if spec.image == "host" else found.env
        return {**image.environment(self._settings, own), **variables(spec)}

    def _network(self, spec: SandboxSpec) -> str:
        settings = self._settings.docker
        if spec.network is not NetworkMode.NONE and settings.sealed:
            raise SandboxUnavailable(
                f"sealed commands open no network socket, which network {spec.network.value!r} needs "
                "(sandbox.docker.sealed)"
            )
        if spec.network is not NetworkMode.INTERNET:
            return "none"
        if settings.internet is None:
            raise SandboxUnavailable(
                "network 'internet' needs the operator's consent: name a Docker network for it "
                "(sandbox.docker.internet)"
            )
        return settings.internet

    def _config(self, spec: SandboxSpec, found: Image, served_by: Path, folder: Path) -> dict[str, object]:
        """The container, as the daemon's API wants it."""
        settings, resources = self._settings.docker, spec.resources
        uid = self._uid()
        disk = resources.disk_mib * 1024 * 1024
        memory = resources.memory_mib * 1024 * 1024 + disk  # files in a sandbox are kept in memory
        places = {str(served_by): _PROGRAM}
        binds = [_bind(real, place, read_only=True) for real, place in places.items()]
        if spec.image == "host":
            binds += [_bind(real, place, read_only=True) for place, real in image.view(self._settings)[0].items()]
        host: dict[str, object] = {
            "AutoRemove": True,
            "NetworkMode": self._network(spec),
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": resources.processes + _OUR_PROCESSES,
            "Memory": memory,
            "MemorySwap": memory,
            "ShmSize": disk,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "LogConfig": {"Type": "none"},
            "Mounts": [*binds, _bind(str(folder), _SOCKETS, read_only=False)],
            "Tmpfs": {place: _disk_options(place, disk, uid) for place in WRITABLE},
        }
        if settings.cpus is not None:
            host["NanoCpus"] = int(settings.cpus * 1e9)
        if settings.runtime is not None:
            host["Runtime"] = settings.runtime
        command = [_PROGRAM, "serve", "--unix", f"{_SOCKETS}/socket", "--unclaimed", f"{_UNCLAIMED_S}s"]
        if spec.network is NetworkMode.PROXY:
            command += ["--egress", f"{_SOCKETS}/{_WAY_OUT}"]
        return {
            "Image": found.id,
            "Entrypoint": command,
            "Cmd": [],
            "User": f"{uid}:{uid}",
            "Hostname": "sandbox",
            "WorkingDir": "/",
            "Healthcheck": {"Test": ["NONE"]},
            "Labels": {LABEL: str(int(time.time() + spec.lifetime_s)), FOLDER_LABEL: str(folder)},
            "HostConfig": host,
        }


class DockerSandbox(Machine):
    """One running container."""

    def __init__(self, client: Client, engine: Engine, name: str, folder: Path, door: Door | None = None) -> None:
        super().__init__(client, client.boot_id)
        self.name = name
        """Of the container."""
        self.client = client
        self._engine = engine
        self._folder = folder
        self._door = door

    @property
    def handle(self) -> Handle:
        return Handle(self.name, str(self._folder / "socket"), self.boot_id, self.client.key)

    async def health(self) -> Health:
        """What holds this sandbox, as its first process says."""
        return await self.client.health()

    async def _part(self) -> None:
        if self._door is not None:
            await self._door.close()

    async def _release(self) -> None:
        await asyncio.to_thread(_discard, self._engine, self.name, self._folder)


async def _while_running(claiming: Coroutine[object, object, Client], engine: Engine, name: str) -> Client:
    """Wait for the sandbox to serve, but not for one that has ended."""
    task = asyncio.create_task(claiming)
    while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
        if not await asyncio.to_thread(engine.is_running, name):
            task.cancel()
            raise SandboxLost("it ended before it served; the daemon's log may say why")
    return task.result()


def _discard(engine: Engine, name: str, folder: Path) -> None:
    engine.remove(name)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(engine: Engine, sockets: Path) -> None:
    """Remove what earlier services left: containers, and folders of containers that ended by themselves."""
    with contextlib.suppress(SandboxError):
        for container in engine.containers(sockets):
            if container.is_over(time.time()):
                _discard(engine, container.name, Path(container.folder))
        for folder in sockets.iterdir():
            is_old = time.time() - folder.stat().st_mtime > _UNCLAIMED_S
            if is_old and not engine.last_words(folder.name):
                shutil.rmtree(folder, ignore_errors=True)


def _make_folder(sockets: Path, name: str) -> Path:
    folder = sockets / name
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def _bind(real: str, place: str, *, read_only: bool) -> dict[str, object]:
    return {"Type": "bind", "Source": real, "Target": place, "ReadOnly": read_only}


def _disk_options(place: str, size: int, uid: int) -> str:
    inodes = max(65_536, size // 4096)
    mode = "1777" if place.endswith("tmp") else "0755"
    return f"rw,exec,nosuid,nodev,size={size},nr_inodes={inodes},mode={mode},uid={uid},gid={uid}"
