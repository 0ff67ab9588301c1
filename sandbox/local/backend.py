"""Sandboxes on this machine, made of Linux namespaces without any container engine.

What holds a sandbox is described in ``sandbox/local/namespaces.py``, how bubblewrap makes the same in
``sandbox/local/bubblewrap.py``, who watches over it in ``sandbox/local/holder.py``; what runs in it is asked of
sandboxd, over a socket where only this user comes. Either all of it stands or :class:`SandboxUnavailable` says what is
missing; nothing ever runs with less.

A sandbox that nobody wants any more ends as a container does: it is closed, or its lease is over.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox import image, program
from sandbox.config import SandboxSettings
from sandbox.egress import Door, Egress, variables
from sandbox.errors import SandboxError, SandboxLost, SandboxUnavailable
from sandbox.images.store import ImageStore, StoredImage
from sandbox.inventory import Found, Handle
from sandbox.local import bubblewrap_program, folder
from sandbox.local.blueprint import MAX_MESSAGE, Blueprint, Verdict, Way
from sandbox.local.folder import END, Folder
from sandbox.private_folder import private_folder
from sandbox.types import Capability, NetworkMode, SandboxSpec
from sandbox.wire.client import Client
from sandbox.wire.dial import unix
from sandbox.wire.link import Health
from sandbox.wire.machine import Machine

_log = logging.getLogger(__name__)
_MAKING_S = 60.0
_CLOSE_PATIENCE_S = 30.0
_NUM_HOST_UIDS = 1_000_000
_MAKER_ENDED = "the process that makes sandboxes ended; the service's standard error may say why"
_NURSE = """
import sys
sys.path.append(sys.argv[1])
from sandbox.local.blueprint import Way
from sandbox.local.holder import main
main(int(sys.argv[2]), Way.parse(sys.argv[3]))
"""
_CAPABILITIES = frozenset(
    {
        Capability.BOUNDED_FILES,
        Capability.CHECKPOINTS,
        Capability.HOST,
        Capability.NO_DEVICE,
        Capability.ONE_DISK,
        Capability.OWN_GROUPS,
        Capability.OWN_USERS,
        Capability.PLAIN_ROOT,
        Capability.PROXY,
        Capability.IMAGES,
        Capability.REATTACH,
    }
)


class LocalBackend:
    """Starts sandboxes on this machine."""

    name = "local"

    def __init__(self, settings: SandboxSettings) -> None:
        self.capabilities = _CAPABILITIES
        if settings.local.maker == "bubblewrap" and not _as_superuser(settings):
            self.capabilities -= {Capability.BOUNDED_FILES, Capability.ONE_DISK}
        self._settings = settings
        self._bubblewrap: Path | None = None
        self._told: Verdict | None = None
        self._images = ImageStore(settings.image_folder())
        self._program: Path | None = None
        self._nurseries: dict[bool, _Nursery] = {}
        self._sandboxes: set[LocalSandbox] = set()
        self._egress = Egress(settings.egress)
        self._folders: Path | None = None

    async def acquire(self, spec: SandboxSpec) -> "LocalSandbox":
        if spec.network is NetworkMode.INTERNET:
            raise SandboxUnavailable("local sandboxes have no network 'internet'; allow hosts by name with 'proxy'")
        own = self._settings.local.maker == "own"
        if not own:
            await self._find_bubblewrap()
        made = await self._make(spec, root_mode=_as_superuser(self._settings))
        if isinstance(made, Verdict) and own and self._settings.namespaces == "auto" and os.geteuid() == 0:
            # The superuser of a container often is one in name only.
            first, made = made, await self._make(spec, root_mode=False)
            made = first if isinstance(made, Verdict) else made
        if isinstance(made, Verdict):
            raise SandboxUnavailable(_remedy(made))
        self._tell(made.evidence)
        return self._have(made)

    async def attach(self, handle: Handle, spec: SandboxSpec, term: int = 0) -> "LocalSandbox":
        place = Folder(Path(handle.address).parent)
        found = await self._find_image(spec)
        lease_s, env = self._settings.local.lease_s, self._environment(spec, found)
        client = await Client.attach(
            unix(place.address), handle.key, handle.boot_id, lease_s=lease_s, env=env, term=term
        )
        if (line := place.call_holder()) is None:
            client.close("its holder is gone")
            raise SandboxLost(f"the sandbox {handle.id} ended")
        return self._have(LocalSandbox(client, place, line, await self._open_door(spec, place)))

    async def found(self) -> Sequence[Found]:
        return await asyncio.to_thread(_found, self._folder_of_all())

    async def remove(self, id: str) -> None:  # noqa: A002  # the field's name
        if (line := Folder(self._folder_of_all() / id).call_holder()) is not None:
            _end(line)

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes))
        self._sandboxes.clear()
        await self._egress.close()
        while self._nurseries:
            await asyncio.to_thread(self._nurseries.popitem()[1].close)

    async def _find_bubblewrap(self) -> None:
        if os.geteuid() == 0 and not _as_superuser(self._settings):
            raise SandboxUnavailable(
                "made by bubblewrap without privilege, a sandbox would be the superuser who runs this service; run it "
                "as another user, or take sandbox.namespaces = 'root'"
            )
        if self._bubblewrap is None:
            self._bubblewrap = await asyncio.to_thread(bubblewrap_program.find, self._settings.local)

    def _tell(self, held: Verdict | None) -> None:
        """What holds sandboxes, once."""
        if held is not None and held != self._told:
            self._told = held
            found = (held.namespaces, held.memory, held.processes)
            _log.info("action=hold_sandboxes namespaces=%r memory=%r processes=%r", *found)

    async def _make(self, spec: SandboxSpec, *, root_mode: bool) -> "LocalSandbox | Verdict":
        """The sandbox, or what kept the kernel from making it."""
        if self._program is None:
            self._program = await asyncio.to_thread(program.sandboxd, self._settings.sandboxd)
        async with contextlib.AsyncExitStack() as on_failure:
            found = await self._find_image(spec)
            place, *listening = folder.make(self._folder_of_all(), spec.lifetime_s)
            on_failure.callback(place.remove)
            for each in listening:
                on_failure.callback(each.close)
            door = await self._open_door(spec, place)
            if door is not None:
                on_failure.push_async_callback(door.close)
            plan = image.blueprint(
                spec,
                self._settings,
                root_mode=root_mode,
                host_uid=self._settings.first_host_uid + secrets.randbelow(_NUM_HOST_UIDS),
                program=self._program,
                folder=place.path,
                bubblewrap=self._bubblewrap,
                tree=None if found is None else found.tree,
                way_out=None if door is None else door.socket,
            )
            line = self._hire(root_mode, *listening)
            on_failure.callback(_end, line)  # whatever has been made by then
            verdict = await _have_built(plan, line)
            if verdict.step:
                return verdict
            client = await self._claim(spec, place, found)
            on_failure.pop_all()
        return LocalSandbox(client, place, line, door, verdict)

    def _have(self, sandbox: "LocalSandbox") -> "LocalSandbox":
        self._sandboxes = {each for each in self._sandboxes if not each.closed} | {sandbox}
        return sandbox

    async def _find_image(self, spec: SandboxSpec) -> StoredImage | None:
        return None if spec.image == "host" else await asyncio.to_thread(self._images.find, spec.image)

    def _environment(self, spec: SandboxSpec, found: StoredImage | None) -> dict[str, str]:
        return {**image.environment(self._settings, found.variables if found else None), **variables(spec)}

    def _folder_of_all(self) -> Path:
        if self._folders is None:
            self._folders = private_folder(
                self._settings.local.sockets, "mimo-local-sandboxes", "sandbox.local.sockets"
            )
            list(folder.held(self._folders))  # what killed holders left goes
        return self._folders

    async def _open_door(self, spec: SandboxSpec, place: Folder) -> Door | None:
        return await self._egress.open(spec, place.way_out) if spec.network is NetworkMode.PROXY else None

    async def _claim(self, spec: SandboxSpec, place: Folder, found: StoredImage | None) -> Client:
        try:
            return await Client.claim(
                unix(place.address),
                lease_s=self._settings.local.lease_s,
                lifetime_s=spec.lifetime_s,
                memory_bytes=spec.resources.memory_mib * 1024 * 1024,
                env=self._environment(spec, found),
            )
        except SandboxLost as error:
            raise SandboxUnavailable(f"{error}; the service's standard error may say why") from error

    def _hire(self, root_mode: bool, *listening: socket.socket) -> socket.socket:
        """A holder that has these from now on, and the line to it."""
        nursery = self._nurseries.get(root_mode)
        if nursery and not nursery.alive:
            nursery.close()
            nursery = None
        try:
            if nursery is None:
                parents = self._settings.cgroup_parents
                way = Way(root_mode=root_mode, bubblewrap=self._bubblewrap is not None, cgroup_parents=parents)
                nursery = self._nurseries[root_mode] = _Nursery(way)
            return nursery.hire(*listening)
        except ConnectionError as error:
            raise SandboxUnavailable(_MAKER_ENDED) from error
        except OSError as error:
            raise SandboxUnavailable(f"this machine has no room for another sandbox: {error}") from error


def _as_superuser(settings: SandboxSettings) -> bool:
    """Whether sandboxes are made by the superuser, onto a user that nobody is."""
    return settings.namespaces == "root" or (settings.namespaces == "auto" and os.geteuid() == 0)


class LocalSandbox(Machine):
    """One running sandbox on this machine."""

    def __init__(
        self, client: Client, place: Folder, line: socket.socket, door: Door | None, evidence: Verdict | None = None
    ) -> None:
        super().__init__(client, client.boot_id)
        self.client = client
        self.evidence = evidence
        """What holds this sandbox, as was found when it was made; None where it was taken over."""
        self._place = place
        self._line = line
        self._door = door

    @property
    def handle(self) -> Handle:
        return Handle(self._place.path.name, str(self._place.address), self.boot_id, self.client.key)

    async def health(self) -> Health:
        """What the sandbox's first process says of itself."""
        return await self.client.health()

    async def _part(self) -> None:
        if self._door is not None:
            await self._door.close()

    async def _detach(self) -> None:
        await super()._detach()
        self._line.close()

    async def _release(self) -> None:
        loop = asyncio.get_running_loop()
        with self._line:
            self._line.setblocking(False)
            try:
                async with asyncio.timeout(_CLOSE_PATIENCE_S):
                    await loop.sock_sendall(self._line, END)
                    await loop.sock_recv(self._line, 1)  # it closes when everything is gone
            except ConnectionError:
                return
            except TimeoutError:
                raise SandboxError(f"sandbox {self.boot_id} does not end; look for a stuck process") from None


def _found(folders: Path) -> list[Found]:
    found = []
    for each in folder.held(folders):
        with contextlib.suppress(FileNotFoundError):  # it ended a moment ago
            found.append(Found(each.path.name, each.made_at, each.ends_at))
    return found


def _end(line: socket.socket) -> None:
    """Have a holder end its sandbox, without waiting for it."""
    with line, contextlib.suppress(ConnectionError):
        line.send(END)


async def _have_built(plan: Blueprint, line: socket.socket) -> Verdict:
    loop = asyncio.get_running_loop()
    line.setblocking(False)
    try:
        async with asyncio.timeout(_MAKING_S):
            await loop.sock_sendall(line, plan.encode())
            told = await loop.sock_recv(line, MAX_MESSAGE)
    except TimeoutError as error:
        raise SandboxUnavailable(f"the sandbox was not made within {_MAKING_S:.0f} seconds") from error
    except OSError as error:
        raise SandboxUnavailable(f"the sandbox could not be asked for: {error}") from error
    if not told:
        raise SandboxUnavailable(_MAKER_ENDED)
    return Verdict.parse(told)


class _Nursery:
    """The process that forks sandboxes; see ``sandbox/local/holder.py``."""

    def __init__(self, way: Way) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            # A terminal's Ctrl-C is for the service, which then closes its sandboxes in order: hence a new session.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", _NURSE, str(Path(__file__).parents[2])),
                    *(str(theirs.fileno()), way.encode()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def hire(self, listener: socket.socket, door: socket.socket) -> socket.socket:
        """A line to a new holder, which listens at the door; the sandbox will listen at the other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener, theirs, door:
            socket.send_fds(self._control, [b"1"], [each.fileno() for each in (listener, theirs, door)])
        return ours

    def close(self) -> None:
        self._control.close()
        self._process.wait(_CLOSE_PATIENCE_S)


def _remedy(failed: Verdict) -> str:
    advice = _REMEDIES.get(failed.step, "run the service where these kernel features are allowed")
    return (
        f"this machine does not let us make a sandbox ({failed.step}: {failed.detail}); {advice}, or choose containers "
        "(--sandbox docker)"
    )


_REMEDIES = {
    "user and PID namespace": "allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; on Ubuntu "
    "also kernel.apparmor_restrict_unprivileged_userns=0 or a profile; in a container, a seccomp profile that lets "
    "unshare through), run the service as root, or, where bubblewrap may make them, take "
    "sandbox.local.maker = 'bubblewrap'",
    "bubblewrap": "let bubblewrap make user namespaces (on Ubuntu by its AppArmor profile), and see that this user may "
    "read what sandboxes see",
    "namespaces": "allow namespaces (in a container: run it with CAP_SYS_ADMIN and without a seccomp profile that "
    "refuses unshare and mount)",
    "control group": "see that the control groups of the settings (sandbox.cgroup_parents) may be written",
    "loopback": "allow network namespaces (sysctl user.max_net_namespaces above 0)",
    "image": "use Linux 5.11 or newer with overlayfs, and as root in a container allow mount",
    "root file system": "use Linux 5.14 or newer, and in a container allow mount (AppArmor and seccomp unconfined)",
    "proc": "allow mounting /proc (in a container: --security-opt systempaths=unconfined, or procMount: Unmasked)",
    "user": "allow user namespaces (sysctl user.max_user_namespaces above 0)",
    "seccomp": "use a kernel with seccomp filters",
    "program": "see that sandboxd (sandbox.sandboxd in the settings) is a program for this machine that everybody may "
    "read and run",
}
