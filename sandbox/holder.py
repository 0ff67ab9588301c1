"""The processes outside a sandbox that make it and clean up after it.

    service  ──starts──>  nursery  ──forks──>  holder  ──forks──>  first process of the sandbox (sandbox/init.py)

The nursery is a small Python that has imported everything, so that each further sandbox costs a fork. A holder stays
on the host's side: it owns the sandbox's control group, ends the sandbox when its lifetime is over or the service is
gone, and removes the group. All three end by themselves when the service dies, however it dies: the sockets close.

Standard library only, single-threaded, and nothing of the service's environment.
"""

import array  # noqa: F401  # socket.send_fds imports it when called, which is too late
import asyncio
import contextlib
import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path

from sandbox import cgroups, frames, linux, namespaces
from sandbox.blueprint import Blueprint
from sandbox.init import serve
from sandbox.keeper import Kit
from sandbox.memory import GroupWatch, MemoryWatch, ProcessWatch
from sandbox.process import ends_here

GROUP_PREFIX = "mimo-sandbox-"
_GROUPED, _ALONE = b"g", b"-"
_MAX_DESCRIPTORS = 4096
_OUR_PROCESSES = 16
"""The first process, and one keeper per running command and per command that left something."""


def main(control_fd: int) -> None:
    """The nursery: fork a holder for each pair of sockets that comes, until no more can come."""
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # holders are not waited for: their lifelines tell
    # All is imported. From here on, no path is searched: in a sandbox, it might be one that commands can write.
    sys.path.clear()
    gc.freeze()  # or the collector would copy every page in every sandbox
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if os.fork() == 0:
            with ends_here():
                control.close()
                _hold(socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1]))
        for fd in fds:
            os.close(fd)


def _hold(connection: socket.socket, lifeline: socket.socket) -> None:
    """Make one sandbox, stay until it ends, clean up."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        plan = Blueprint.parse(frames.read_blocking(connection))
    except frames.BadFrame:
        return  # the service gave up before it had asked
    group = _make_group(plan)
    try:
        _run(plan, group, connection, lifeline)
    finally:
        if group:
            group.remove()


def _make_group(plan: Blueprint) -> cgroups.Group | None:
    parents = tuple(Path(parent) for parent in plan.cgroup_parents)
    cgroups.remove_abandoned(GROUP_PREFIX, parents)
    name = f"{GROUP_PREFIX}{os.getpid()}-{plan.name}"
    # Files in a sandbox are kept in memory, which the kernel counts like any other.
    memory_bytes = plan.memory_bytes + plan.disk_bytes
    return cgroups.make(name, parents, memory_bytes, plan.processes + 2 * _OUR_PROCESSES)


def _run(plan: Blueprint, group: cgroups.Group | None, connection: socket.socket, lifeline: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    watch = _open_watch(plan, group)
    try:
        with namespaces.step("user and PID namespace"):
            _leave_host(plan)
            pid = os.fork()
    except namespaces.SetupFailed as error:
        connection.sendall(frames.encode(_failure(error)))
        return
    if pid == 0:
        with ends_here():
            ours.close()
            lifeline.close()
            _become_init(plan, group, watch, connection, theirs)
    connection.close()
    theirs.close()
    # Where it ends in the middle of its making, or we cannot do what it needs, it tells the service why.
    with ours, contextlib.suppress(OSError):
        ours.sendall(_place(pid, group))
        if ours.recv(1):  # it has entered its user namespace
            _map_user(pid, plan.host_uid)
            ours.sendall(b"m")
    _wait(pid, lifeline, plan.lifetime_s)


def _become_init(
    plan: Blueprint, group: cgroups.Group | None, watch: MemoryWatch, connection: socket.socket, holder: socket.socket
) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    placed = holder.recv(1)
    if not placed:
        return
    if placed == _ALONE:
        group, watch = None, ProcessWatch(plan.memory_bytes)
    _clean_process()
    try:
        badness = namespaces.enter(plan, lambda: _ask(holder))
    except namespaces.SetupFailed as error:
        connection.sendall(frames.encode(_failure(error)))
        return
    holder.close()
    connection.sendall(frames.encode({"event": "ready", **_evidence(plan, group)}))
    kit = Kit(shell=plan.shell, env=plan.env, rlimits=_rlimits(plan, group), badness_fd=badness)
    asyncio.run(serve(connection, kit, watch))


def _ask(holder: socket.socket) -> None:
    holder.sendall(b"?")
    if not holder.recv(1):
        raise ConnectionResetError(errno.ECONNRESET, "nobody is there to map the user")


def _clean_process() -> None:
    """Nothing of how the service was started shows. And no signal sent from inside may end the first process: the
    kernel sees to that for each that has no handler, so Python's own for SIGINT goes.
    """
    os.setsid()
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        signal.signal(number, signal.SIG_DFL)


def _leave_host(plan: Blueprint) -> None:
    if plan.root_mode:
        os.setgroups([])
        linux.unshare(linux.CLONE_NEWPID)
        return
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{namespaces.UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{namespaces.UID} {gid} 1")


def _map_user(pid: int, host_uid: int) -> None:
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"{namespaces.UID} {host_uid} 1")


def _place(pid: int, group: cgroups.Group | None) -> bytes:
    """Put the sandbox into its group; says whether the kernel agreed, which shows only when trying."""
    with contextlib.suppress(PermissionError):
        # Whatever the service's standing when memory is short, nobody in a sandbox may go back to better than this.
        Path(f"/proc/{pid}/oom_score_adj").write_text("0")
    if group:
        with contextlib.suppress(OSError):
            group.add(pid)
            return _GROUPED
    return _ALONE


def _open_watch(plan: Blueprint, group: cgroups.Group | None) -> MemoryWatch:
    if group is None:
        return ProcessWatch(plan.memory_bytes)
    kills, usage = (os.open(file, os.O_RDONLY | os.O_CLOEXEC) for file in (group.kills_file, group.usage_file))
    return GroupWatch(kills, usage, plan.memory_bytes)


def _rlimits(plan: Blueprint, group: cgroups.Group | None) -> tuple[tuple[int, int], ...]:
    # Counted per user and user namespace, so these are this sandbox's own (Linux 5.14). Beside the control group's
    # bound, because it spares our own processes: they can start a command however many it may start.
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS)]
    limits += [(resource.RLIMIT_NPROC, plan.processes + _OUR_PROCESSES)]
    return tuple(limits if group else [*limits, (resource.RLIMIT_DATA, plan.memory_bytes)])


def _evidence(plan: Blueprint, group: cgroups.Group | None) -> dict[str, object]:
    return {
        "namespaces": "root" if plan.root_mode else "user",
        "memory": f"cgroup v{group.version}" if group else "watched, rlimit per process",
        "processes": f"cgroup v{group.version}" if group else "rlimit per user namespace",
    }


def _failure(error: namespaces.SetupFailed) -> dict[str, object]:
    return {"event": "failed", "step": error.step, "code": error.error.errno or 0, "detail": str(error.error)}


def _wait(pid: int, lifeline: socket.socket, lifetime_s: float) -> None:
    """Until the sandbox ends, is let go of, or has lived long enough; then see to it that it is gone."""
    process = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(lifeline, select.POLLIN | select.POLLHUP)
    deadline = time.monotonic() + lifetime_s
    while not poll.poll(max(0.0, min(deadline - time.monotonic(), 3600.0)) * 1000) and time.monotonic() < deadline:
        pass
    signal.pidfd_send_signal(process, signal.SIGKILL)
    os.waitpid(pid, 0)
