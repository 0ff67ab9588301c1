"""A Docker daemon of the tests' own: private socket, data and network-less, so that it gets in nobody's way."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READY_S = 60.0


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
    folder = Path(tempfile.mkdtemp(prefix="mimo-dockerd-"))
    address = f"unix://{folder}/docker.sock"
    # Sandboxes have no network: the daemon needs none either, and leaves the machine's packet filter alone.
    command = ["dockerd", "--host", address, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["--pidfile", f"{folder}/pid", "--iptables=false", "--bridge=none", "--log-level=warn"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            _wait_for(folder / "docker.sock", daemon, folder / "log")
            yield address
        finally:
            daemon.terminate()
            daemon.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def _wait_for(socket: Path, daemon: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _READY_S
    while not socket.exists():
        if daemon.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"dockerd did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
