"""A Docker daemon of the tests' own, with private socket and data, so that it gets in nobody's way."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_READY_S = 60.0
_MACHINE = """
ip link set lo up
mount --bind "$0/run" /run
mount --bind "$0/lib" /var/lib
exec dockerd --log-level=warn
"""
"""What a machine of its own is: nothing but the folder ``$0`` where Docker and the service keep what they have."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One with Docker at its usual places, seen from a shell on it; the rest of the file system is this machine's.

    Attributes:
        address: of its daemon, for who is not on it.
        pid: of its daemon.
    """

    address: str
    pid: int

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it, with these variables and the usual PATH."""
        usual = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--", *command]
        return subprocess.run(inside, env={**usual, **variables}, capture_output=True, text=True, check=False)


def missing() -> str:
    """Why no daemon can be started here; "" where one can."""
    if os.geteuid() != 0:
        return "a Docker daemon of our own needs the superuser"
    needed = {"dockerd": "docker.io", "containerd": "containerd", "runc": "runc", "go": "golang-go"}
    absent = [f"{program} (Debian: {package})" for program, package in needed.items() if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextmanager
def running() -> Iterator[str]:
    """Start a daemon; gives its address, and ends it with all its containers."""
    with _folder() as folder:
        socket = folder / "docker.sock"
        # Sandboxes have no network: the daemon needs none either, and leaves the machine's packet filter alone.
        command = ["dockerd", "--host", f"unix://{socket}", "--data-root", f"{folder}/data"]
        command += ["--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        command += ["--iptables=false", "--bridge=none", "--log-level=warn"]
        with _started(command, socket):
            yield f"unix://{socket}"


@contextmanager
def machine() -> Iterator[Machine]:
    """Start a daemon with networks, in namespaces that hide from it what Docker has here."""
    with _folder() as folder:
        for name in ("run", "lib"):
            (folder / name).mkdir()
        socket = folder / "run" / "docker.sock"
        with _started(["unshare", "--mount", "--net", "sh", "-ec", _MACHINE, str(folder)], socket) as daemon:
            yield Machine(f"unix://{socket}", daemon.pid)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mimo-dockerd-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(command: list[str], socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon that listens there; it has ended, with all its containers, when this ends."""
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            give_up = time.monotonic() + _READY_S
            while not socket.exists():
                if daemon.poll() is not None or time.monotonic() > give_up:
                    log.seek(0)
                    raise RuntimeError(f"dockerd did not start: {log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield daemon
        finally:
            daemon.terminate()
            daemon.wait(60)
