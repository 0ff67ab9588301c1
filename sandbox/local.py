"""Sandboxes on this machine, made of Linux namespaces without any container engine.

What holds a sandbox is described in ``sandbox/namespaces.py``, who watches over it in ``sandbox/holder.py``. Either
all of it stands or :class:`SandboxUnavailable` says what is missing; nothing ever runs with less.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

from sandbox import image
from sandbox.config import SandboxSettings
from sandbox.connection import Connection, Failed, Ready
from sandbox.errors import SandboxError, SandboxLost, SandboxUnavailable
from sandbox.machine import Machine
from sandbox.types import Capability, SandboxSpec

_CLOSE_PATIENCE_S = 30.0
_NUM_HOST_UIDS = 1_000_000
# asyncio works without TLS, whose libraries every sandbox would carry around.
_NURSE = """
import sys
sys.modules["ssl"] = None
sys.path.append(sys.argv[2])
from sandbox.holder import main
main(int(sys.argv[1]))
"""


class LocalBackend:
    """Starts sandboxes on this machine."""

    name = "local"
    capabilities = frozenset(
        {
            Capability.HOST,
            Capability.NO_DEVICE,
            Capability.ONE_DISK,
            Capability.OWN_GROUPS,
            Capability.OWN_USERS,
            Capability.PLAIN_ROOT,
        }
    )

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._nursery: _Nursery | None = None
        self._sandboxes: set[LocalSandbox] = set()

    async def acquire(self, spec: SandboxSpec) -> "LocalSandbox":
        wanted = self._settings.namespaces
        made = await self._make(spec, root_mode=wanted == "root" or (wanted == "auto" and os.geteuid() == 0))
        if isinstance(made, Failed) and wanted == "auto" and os.geteuid() == 0:
            # The superuser of a container often is one in name only.
            first, made = made, await self._make(spec, root_mode=False)
            made = first if isinstance(made, Failed) else made
        if isinstance(made, Failed):
            raise SandboxUnavailable(_remedy(made))
        self._sandboxes = {sandbox for sandbox in self._sandboxes if not sandbox.closed} | {made}
        return made

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes))
        self._sandboxes.clear()
        if self._nursery:
            nursery, self._nursery = self._nursery, None
            await asyncio.to_thread(nursery.close)

    async def _make(self, spec: SandboxSpec, *, root_mode: bool) -> "LocalSandbox | Failed":
        boot_id = secrets.token_hex(16)
        host_uid = self._settings.first_host_uid + secrets.randbelow(_NUM_HOST_UIDS)
        plan = image.blueprint(spec, self._settings, name=boot_id[:12], root_mode=root_mode, host_uid=host_uid)
        link, lifeline = self._hire()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(lifeline.close)  # which ends whatever has been made by then
            try:
                connection = await Connection.open(link, plan)
            except SandboxLost as error:
                raise SandboxUnavailable(f"{error}; the service's standard error may say why") from error
            if isinstance(connection, Failed):
                return connection
            on_failure.pop_all()
        return LocalSandbox(connection, lifeline, boot_id)

    def _hire(self) -> tuple[socket.socket, socket.socket]:
        if self._nursery and not self._nursery.alive:
            self._nursery.close()
            self._nursery = None
        try:
            if self._nursery is None:
                self._nursery = _Nursery()
            return self._nursery.hire()
        except OSError as error:
            raise SandboxUnavailable(f"this machine has no room for another sandbox: {error}") from error


class LocalSandbox(Machine):
    """One running sandbox on this machine."""

    def __init__(self, connection: Connection, lifeline: socket.socket, boot_id: str) -> None:
        super().__init__(connection, boot_id)
        self._lifeline = lifeline
        self.evidence: Ready = connection.ready
        """What holds this sandbox, as its own first process reported before anything untrusted ran."""

    async def _release(self) -> None:
        # The holder ends the sandbox when our half closes, and closes its own when everything is gone.
        loop = asyncio.get_running_loop()
        with self._lifeline:
            self._lifeline.setblocking(False)
            self._lifeline.shutdown(socket.SHUT_WR)
            try:
                async with asyncio.timeout(_CLOSE_PATIENCE_S):
                    await loop.sock_recv(self._lifeline, 1)
            except ConnectionError:
                return
            except TimeoutError:
                raise SandboxError(f"sandbox {self.boot_id} does not end; look for a stuck process") from None


class _Nursery:
    """The process that forks sandboxes; see ``sandbox/holder.py``."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            # A terminal's Ctrl-C is for the service, which then closes its sandboxes in order: hence a new session.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _NURSE, str(theirs.fileno()), str(Path(__file__).parents[1])],
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
        (connection, theirs), (lifeline, their_line) = socket.socketpair(), socket.socketpair()
        with theirs, their_line:
            socket.send_fds(self._control, [b"1"], [theirs.fileno(), their_line.fileno()])
        return connection, lifeline

    def close(self) -> None:
        self._control.close()
        self._process.wait(_CLOSE_PATIENCE_S)


def _remedy(failed: Failed) -> str:
    advice = _REMEDIES.get(failed.step, "run the service where these kernel features are allowed")
    return f"this machine does not let us make a sandbox ({failed.step}: {failed.detail}); {advice}"


_REMEDIES = {
    "user and PID namespace": "allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; on Ubuntu "
    "also kernel.apparmor_restrict_unprivileged_userns=0 or a profile; in a container, a seccomp profile that lets "
    "unshare through), or run the service as root",
    "namespaces": "allow namespaces (in a container: run it with CAP_SYS_ADMIN and without a seccomp profile that "
    "refuses unshare and mount)",
    "loopback": "allow network namespaces (sysctl user.max_net_namespaces above 0)",
    "root file system": "use Linux 5.14 or newer, and in a container allow mount (AppArmor and seccomp unconfined)",
    "proc": "allow mounting /proc (in a container: --security-opt systempaths=unconfined, or procMount: Unmasked)",
    "user": "allow user namespaces (sysctl user.max_user_namespaces above 0)",
    "seccomp": "use a kernel with seccomp filters, on an x86_64 or aarch64 processor",
}
