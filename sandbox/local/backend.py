"""Sandboxes on this machine, made of Linux namespaces without any container engine.

What holds a sandbox is described in ``sandbox/local/namespaces.py``, who watches over it in
``sandbox/local/holder.py``; what runs in it is asked of sandboxd, over a socket that only the two of them have. Either
all of it stands or :class:`SandboxUnavailable` says what is missing; nothing ever runs with less.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from sandbox import image, program
from sandbox.config import SandboxSettings
from sandbox.egress import Door, Egress, variables
from sandbox.errors import SandboxError, SandboxLost, SandboxUnavailable
from sandbox.images.store import ImageStore, StoredImage
from sandbox.local.blueprint import MAX_MESSAGE, Blueprint, Verdict
from sandbox.types import Capability, NetworkMode, SandboxSpec
from sandbox.wire.client import Client, Health, connected
from sandbox.wire.machine import Machine

_MAKING_S = 60.0
_CLOSE_PATIENCE_S = 30.0
_NUM_HOST_UIDS = 1_000_000
_NURSE = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from sandbox.local.holder import main
main(int(sys.argv[2]), sys.argv[3] == "root", tuple(map(Path, sys.argv[4:])))
"""


class LocalBackend:
    """Starts sandboxes on this machine."""

    name = "local"
    capabilities = frozenset(
        {
            Capability.CHECKPOINTS,
            Capability.HOST,
            Capability.NO_DEVICE,
            Capability.ONE_DISK,
            Capability.OWN_GROUPS,
            Capability.OWN_USERS,
            Capability.PLAIN_ROOT,
            Capability.PROXY,
            Capability.IMAGES,
        }
    )

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._images = ImageStore(settings.image_folder())
        self._program: Path | None = None
        self._nurseries: dict[bool, _Nursery] = {}
        self._sandboxes: set[LocalSandbox] = set()
        self._egress = Egress(settings.egress)
        self._ways_out: tempfile.TemporaryDirectory[str] | None = None

    async def acquire(self, spec: SandboxSpec) -> "LocalSandbox":
        if spec.network is NetworkMode.INTERNET:
            raise SandboxUnavailable("local sandboxes have no network 'internet'; allow hosts by name with 'proxy'")
        wanted = self._settings.namespaces
        made = await self._make(spec, root_mode=wanted == "root" or (wanted == "auto" and os.geteuid() == 0))
        if isinstance(made, Verdict) and wanted == "auto" and os.geteuid() == 0:
            # The superuser of a container often is one in name only.
            first, made = made, await self._make(spec, root_mode=False)
            made = first if isinstance(made, Verdict) else made
        if isinstance(made, Verdict):
            raise SandboxUnavailable(_remedy(made))
        self._sandboxes = {sandbox for sandbox in self._sandboxes if not sandbox.closed} | {made}
        return made

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes))
        self._sandboxes.clear()
        await self._egress.close()
        if self._ways_out is not None:
            self._ways_out.cleanup()
            self._ways_out = None
        while self._nurseries:
            await asyncio.to_thread(self._nurseries.popitem()[1].close)

    async def _make(self, spec: SandboxSpec, *, root_mode: bool) -> "LocalSandbox | Verdict":
        """The sandbox, or what kept the kernel from making it."""
        if self._program is None:
            self._program = await asyncio.to_thread(program.sandboxd, self._settings.sandboxd)
        async with contextlib.AsyncExitStack() as on_failure:
            found = None if spec.image == "host" else await asyncio.to_thread(self._images.find, spec.image)
            door = await self._open_door(spec)
            if door is not None:
                on_failure.push_async_callback(door.close)
            plan = image.blueprint(
                spec,
                self._settings,
                root_mode=root_mode,
                host_uid=self._settings.first_host_uid + secrets.randbelow(_NUM_HOST_UIDS),
                program=self._program,
                tree=None if found is None else found.tree,
                way_out=None if door is None else door.socket,
            )
            connection, lifeline = self._hire(root_mode)
            on_failure.callback(connection.close)
            on_failure.callback(lifeline.close)  # which ends whatever has been made by then
            verdict = await _have_built(plan, lifeline)
            if verdict.step:
                return verdict
            client = await self._claim(spec, connection, found)
            on_failure.pop_all()
        return LocalSandbox(client, lifeline, verdict, door)

    async def _open_door(self, spec: SandboxSpec) -> Door | None:
        if spec.network is not NetworkMode.PROXY:
            return None
        if self._ways_out is None:
            self._ways_out = tempfile.TemporaryDirectory(prefix="mimo-egress-")
        return await self._egress.open(spec, Path(self._ways_out.name, secrets.token_hex(8)))

    async def _claim(self, spec: SandboxSpec, connection: socket.socket, found: StoredImage | None) -> Client:
        try:
            return await Client.claim(
                connected(connection),
                lease_s=spec.lifetime_s,  # a service that is gone is known by its end of the lifeline
                lifetime_s=spec.lifetime_s,
                memory_bytes=spec.resources.memory_mib * 1024 * 1024,
                env={
                    **image.environment(self._settings, None if found is None else found.variables),
                    **variables(spec),
                },
            )
        except SandboxLost as error:
            raise SandboxUnavailable(f"{error}; the service's standard error may say why") from error

    def _hire(self, root_mode: bool) -> tuple[socket.socket, socket.socket]:
        nursery = self._nurseries.get(root_mode)
        if nursery and not nursery.alive:
            nursery.close()
            nursery = None
        try:
            if nursery is None:
                nursery = self._nurseries[root_mode] = _Nursery(root_mode, self._settings.cgroup_parents)
            return nursery.hire()
        except OSError as error:
            raise SandboxUnavailable(f"this machine has no room for another sandbox: {error}") from error


class LocalSandbox(Machine):
    """One running sandbox on this machine."""

    def __init__(self, client: Client, lifeline: socket.socket, evidence: Verdict, door: Door | None) -> None:
        super().__init__(client, client.boot_id)
        self.client = client
        self.evidence = evidence
        """What holds this sandbox, as was found when it was made."""
        self._lifeline = lifeline
        self._door = door

    async def health(self) -> Health:
        """What the sandbox's first process says of itself."""
        return await self.client.health()

    async def _release(self) -> None:
        if self._door is not None:
            await self._door.close()
        # The holder ends the sandbox when our half closes, and closes its own when everything is gone.
        loop = asyncio.get_running_loop()
        with self._lifeline:
            self._lifeline.shutdown(socket.SHUT_WR)
            try:
                async with asyncio.timeout(_CLOSE_PATIENCE_S):
                    await loop.sock_recv(self._lifeline, 1)
            except ConnectionError:
                return
            except TimeoutError:
                raise SandboxError(f"sandbox {self.boot_id} does not end; look for a stuck process") from None


async def _have_built(plan: Blueprint, lifeline: socket.socket) -> Verdict:
    loop = asyncio.get_running_loop()
    lifeline.setblocking(False)
    try:
        async with asyncio.timeout(_MAKING_S):
            await loop.sock_sendall(lifeline, plan.encode())
            told = await loop.sock_recv(lifeline, MAX_MESSAGE)
    except TimeoutError as error:
        raise SandboxUnavailable(f"the sandbox was not made within {_MAKING_S:.0f} seconds") from error
    except OSError as error:
        raise SandboxUnavailable(f"the sandbox could not be asked for: {error}") from error
    if not told:
        raise SandboxUnavailable("the process that makes sandboxes ended; the service's standard error may say why")
    return Verdict.parse(told)


class _Nursery:
    """The process that forks sandboxes; see ``sandbox/local/holder.py``."""

    def __init__(self, root_mode: bool, cgroup_parents: tuple[Path, ...]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            # A terminal's Ctrl-C is for the service, which then closes its sandboxes in order: hence a new session.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", _NURSE, str(Path(__file__).parents[2])),
                    *(str(theirs.fileno()), "root" if root_mode else "user", *map(str, cgroup_parents)),
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

    def hire(self) -> tuple[socket.socket, socket.socket]:
        """A new holder, at the other ends of these: the sandbox's connection, and the lifeline."""
        connection, theirs = socket.socketpair()
        lifeline, their_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, their_line:
            socket.send_fds(self._control, [b"1"], [theirs.fileno(), their_line.fileno()])
        return connection, lifeline

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
    "unshare through), or run the service as root",
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
