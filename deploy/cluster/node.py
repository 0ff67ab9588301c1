"""The first process in a cluster's namespaces: starts its programs and starts again those that end.

Everything of the cluster is below it: where it ends, the kernel ends all other processes, and with the last one go the
mounts and the network. Run as ``python -m deploy.cluster.node FOLDER NAME NUMBER`` by ``deploy.cluster.cluster``.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Never

from deploy.cluster import cgroups
from deploy.cluster.layout import Layout

COMMANDS = "commands.json"
"""File of the cluster's folder: the command lines, in order."""
DEVICE = "eth0"
_PAUSE_S = 0.2
# The kubelet demands these of the machine's kernel. They are everybody's, so it is shown them instead.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def main() -> None:
    if os.getpid() != 1:  # it ends every process that it sees
        sys.exit("only for the first process of a namespace of processes; start it by: python -m deploy.cluster up")
    folder, name, number = sys.argv[1:]
    layout = Layout(Path(folder), name, int(number))
    signal.signal(signal.SIGTERM, _end)
    try:
        _separate(layout)
        _connect(layout)
        _keep_running(layout)
    finally:
        _end_all()
        cgroups.remove(layout.cgroup)


def _end(number: int, frame: object) -> Never:
    raise SystemExit


def _separate(layout: Layout) -> None:
    """Own names and places for everything that these programs usually keep on the machine."""
    socket.sethostname(layout.name)
    cgroups.create(layout.cgroup)
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for place in ("/var/lib", "/var/log"):
        own = layout.folder / "node" / place[1:]
        own.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(own), place)
    for setting, value in _KERNEL_SETTINGS.items():
        shown = layout.folder / "node" / setting.replace("/", ".")
        shown.write_text(f"{value}\n")
        _run("mount", "--bind", str(shown), f"/proc/sys/{setting}")


def _connect(layout: Layout) -> None:
    """Take the near end of the line to the host. The cluster reaches the host's end, and nothing beyond."""
    while not Path(f"/proc/sys/net/ipv4/conf/{DEVICE}").exists():  # the host puts it here
        time.sleep(0.01)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{layout.node}/30", "dev", DEVICE)
    _run("ip", "link", "set", DEVICE, "up")
    # Only so that addresses of services have a way out, on which they are rewritten to a pod's; nobody answers there.
    _run("ip", "route", "add", layout.services, "dev", DEVICE, "src", layout.node)
    _run("ip", "route", "add", "unreachable", "default")


def _keep_running(layout: Layout) -> Never:
    commands = json.loads((layout.folder / COMMANDS).read_text())
    layout.logs.mkdir(exist_ok=True)
    running = {_start(command, layout): command for command in commands}
    while True:
        pid, _ = os.wait()  # also those whose parents have ended
        if command := running.pop(pid, None):
            time.sleep(_PAUSE_S)
            running[_start(command, layout)] = command


def _start(command: list[str], layout: Layout) -> int:
    log = str(layout.logs / f"{Path(command[0]).name}.log")
    to_log = (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    return os.posix_spawn(command[0], command, os.environ, file_actions=[to_log, (os.POSIX_SPAWN_DUP2, 1, 2)])


def _end_all() -> None:
    os.kill(-1, signal.SIGKILL)  # all in this process's namespace but itself
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
