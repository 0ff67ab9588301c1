"""The processes outside a sandbox that make it and clean up after it.

    service  ──starts──>  nursery  ──forks──>  holder  ──forks──>  first process of the sandbox, which becomes sandboxd

The nursery is a small Python that has imported everything, so that each further sandbox costs a fork. A holder stays
on the host's side: it owns the sandbox's control group and folder, ends the sandbox when it is told to or the lifetime
is over, and removes what it owns. Who may tell it so is who may enter the folder, in which it listens.

The nursery, and what it has ahead of need, end when the service dies, however it dies: their sockets close. A sandbox
that was made goes on, for the next service to take over; where none does, its lease ends it.

One holder is always ahead of need. Its first process is in a control group and in namespaces already, which takes the
kernel longest, and waits to be told what to build in them. Where bubblewrap makes the machine, it is in the group alone
and becomes bubblewrap, whose child becomes sandboxd; so a holder ends all that descends from it.

Standard library only, single-threaded, and nothing of the service's environment.
"""

import array  # noqa: F401  # socket.recv_fds imports it when called, which is too late
import contextlib
import errno
import gc
import os
import resource
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sandbox import linux
from sandbox.local import bubblewrap, cgroups, namespaces
from sandbox.local.blueprint import MAX_MESSAGE, Blueprint, Verdict, Way
from sandbox.local.folder import END, Folder
from sandbox.local.process import ends_here

GROUP_PREFIX = "mimo-sandbox-"
_GROUPED, _ALONE = b"g", b"-"
_MAP_USER, _READY = b"?", b"r"
_MAX_SAID = 4096
_UNCLAIMED = "30s"
"""A sandbox whose service died in the moment between is nobody's for so long."""
_OUR_PROCESSES = 32
"""Threads of sandboxd and of a file call. All count under the bound on processes."""


@dataclass(frozen=True, slots=True)
class _Order:
    """A sandbox that is wanted."""

    plan: Blueprint
    listener: int
    """Becomes sandboxd's."""
    line: socket.socket
    """To the service that wants it."""
    door: socket.socket
    """Where others come to have it ended."""


@dataclass(frozen=True, slots=True)
class _Inherited:
    """What sandboxd has from us."""

    listener: int
    holder: socket.socket
    """Told when it serves."""
    errors: int
    """Its standard error."""


def main(control_fd: int, way: Way) -> None:
    """The nursery: hand the sockets of each sandbox that is wanted to a holder, until no more can come."""
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # holders are not waited for: their lifelines tell
    # All is imported. From here on, no path is searched: in a sandbox, it might be one that commands can write.
    sys.path.clear()
    gc.freeze()  # or the collector would copy every page in every sandbox
    spare = _fork_holder(control, way)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 3)
        if not message:
            spare.dismiss()
            return
        while not spare.take(fds):
            spare = _fork_holder(control, way)  # somebody has ended it
        for fd in fds:
            os.close(fd)
        spare = _fork_holder(control, way)


@dataclass(frozen=True, slots=True)
class _Spare:
    """A holder that waits for its order."""

    pid: int
    line: socket.socket

    def take(self, fds: list[int]) -> bool:
        """False where somebody has ended it."""
        with self.line:
            try:
                socket.send_fds(self.line, [b"1"], fds)
            except ConnectionError:
                return False
        return True

    def dismiss(self) -> None:
        """Wait until it has cleaned up."""
        self.line.close()
        with contextlib.suppress(ChildProcessError):  # which comes when it has ended, for its end is not kept
            os.waitpid(self.pid, 0)


def _fork_holder(control: socket.socket, way: Way) -> _Spare:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with ends_here():
            control.close()
            ours.close()
            _hold(theirs, way)
    theirs.close()
    return _Spare(pid, ours)


def _hold(line: socket.socket, way: Way) -> None:
    """Prepare a sandbox, build it when it is wanted, stay until it ends, clean up."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    cgroups.remove_abandoned(GROUP_PREFIX, way.cgroup_parents)
    group = cgroups.make(f"{GROUP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}", way.cgroup_parents)
    try:
        _run(group, line, way)
    finally:
        if group:
            group.remove()


def _run(group: cgroups.Group | None, line: socket.socket, way: Way) -> None:
    first, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said, errors = os.pipe()
    try:
        with namespaces.step("user and PID namespace"):
            if not way.bubblewrap:
                _leave_host(way.root_mode)
            pid = os.fork()
    except namespaces.SetupFailed as error:
        if order := _receive(line):
            order.line.send(_failure(error).encode())
            Folder(Path(order.plan.folder)).remove()
        return
    if pid == 0:
        with ends_here():
            first.close()
            line.close()
            _become_first(group, theirs, errors, way)
    theirs.close()
    os.close(errors)
    order, lines = None, dict[int, socket.socket]()
    try:
        group = _place(pid, group, first)
        if order := _receive(line):
            order.line.send(_build(order, group, pid, first, said).encode())
            first.close()
            os.close(order.listener)
            _wait(pid, order, lines, said)
    except ConnectionError:
        pass  # the service is gone before the sandbox was there, and so will this be
    finally:
        _end_all(pid)
        if order:
            Folder(Path(order.plan.folder)).remove()
        for each in lines.values():
            each.close()


def _end_all(pid: int) -> None:
    """End the child and all that descends from it. bubblewrap's own child is in the same group of processes until it is
    about to become sandboxd, and from then on ends with its parent.
    """
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it had not got as far as to have a group
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _receive(line: socket.socket) -> _Order | None:
    """The next order; None where the service is gone, or gave up before it had asked."""
    message, fds, _, _ = socket.recv_fds(line, 1, 3)
    if not message:
        return None
    service = socket.socket(fileno=fds[1])
    wanted = service.recv(MAX_MESSAGE)
    return _Order(Blueprint.parse(wanted), fds[0], service, socket.socket(fileno=fds[2])) if wanted else None


def _build(order: _Order, group: cgroups.Group | None, pid: int, first: socket.socket, said: int) -> Verdict:
    """Have the first process build, and do for it what it may not do itself, until it serves or says why not."""
    plan = order.plan
    try:
        with namespaces.step("control group"):
            if group:
                # Files in a sandbox are kept in memory, which the kernel counts like any other.
                group.bound(plan.memory_bytes + plan.disk_bytes, plan.processes + _OUR_PROCESSES)
    except namespaces.SetupFailed as error:
        return _failure(error)
    with contextlib.suppress(ConnectionError):  # it ended before, and said why
        socket.send_fds(first, [plan.encode()], [order.listener])
    while told := first.recv(MAX_MESSAGE):
        if told == _READY:
            return _evidence(plan, group)
        if told != _MAP_USER:
            return Verdict.parse(told)
        _map_user(pid, plan.host_uid)
        first.send(b"m")
    text = os.read(said, _MAX_SAID).decode(errors="replace").strip()
    return Verdict(step="bubblewrap" if plan.bubblewrap else "program", detail=text or "it ended before it served")


def _become_first(group: cgroups.Group | None, holder: socket.socket, errors: int, way: Way) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    placed = holder.recv(1)
    if not placed:
        return
    # The first folder is the one that tells of memory.
    folders = [str(folder) for folder in group.folders[:1]] if group and placed == _GROUPED else []
    _clean_process()
    try:
        if not way.bubblewrap:
            namespaces.leave()
        wanted, fds, _, _ = socket.recv_fds(holder, MAX_MESSAGE, 1)
        if not wanted:
            return
        plan = Blueprint.parse(wanted)
        sockets = _Inherited(fds[0], holder, errors)
        if way.bubblewrap:
            _become_bubblewrap(plan, sockets, folders)
        program, *memory = namespaces.enter(plan, lambda: _ask(holder), (plan.program, *folders))
        _become_sandboxd(plan, sockets, program, memory)
    except namespaces.SetupFailed as error:
        holder.send(_failure(error).encode())


def _become_sandboxd(plan: Blueprint, sockets: _Inherited, program: int, memory: Sequence[int]) -> NoReturn:
    with namespaces.step("program"):
        _bound_memory(plan, grouped=bool(memory))
        _execute(program, _serve(plan, sockets, memory), sockets, memory)


def _become_bubblewrap(plan: Blueprint, sockets: _Inherited, folders: Sequence[str]) -> NoReturn:
    with namespaces.step("bubblewrap"):
        # Opened now: as somebody else we may not come to where they are.
        program, sandboxd = (os.open(path, os.O_RDONLY) for path in (plan.bubblewrap, plan.program))
        arguments, memory = bubblewrap.prepare(plan, folders)
        _bound_memory(plan, grouped=bool(memory))
        name, *serve = _serve(plan, sockets, memory)
        last = ("--argv0", name, "--", f"/proc/self/fd/{sandboxd}", *serve)
        _execute(program, ["bwrap", *arguments, *last], sockets, [*memory, sandboxd])


def _serve(plan: Blueprint, sockets: _Inherited, memory: Sequence[int]) -> list[str]:
    """What sandboxd is told."""
    options = {
        "--listener": sockets.listener,
        "--ready": sockets.holder.fileno(),
        "--memory": memory[0] if memory else -1,
        "--processes": _at_most(resource.RLIMIT_NPROC, plan.processes + _OUR_PROCESSES),
        "--shell": plan.shell,
        "--egress": plan.egress,
        "--unclaimed": _UNCLAIMED,
    }
    return ["sandboxd", "serve", *(str(part) for option in options.items() for part in option)]


def _execute(program: int, arguments: list[str], sockets: _Inherited, kept: Sequence[int]) -> NoReturn:
    for fd in (sockets.listener, sockets.holder.fileno(), *kept):
        os.set_inheritable(fd, True)
    os.dup2(sockets.errors, 2)
    os.execve(program, arguments, {})  # noqa: S606  # ourselves


def _ask(holder: socket.socket) -> None:
    holder.send(_MAP_USER)
    if not holder.recv(1):
        raise ConnectionResetError(errno.ECONNRESET, "nobody is there to map the user")


def _clean_process() -> None:
    """Nothing of how the service was started shows."""
    os.setsid()
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


def _bound_memory(plan: Blueprint, *, grouped: bool) -> None:
    """Of each process, where no group tells sandboxd of all together."""
    if not grouped:
        bound = _at_most(resource.RLIMIT_DATA, plan.memory_bytes)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def _at_most(kind: int, bound: int) -> int:
    """As much of this as may be asked for."""
    hardest = resource.getrlimit(kind)[1]
    return bound if hardest == resource.RLIM_INFINITY else min(bound, hardest)


def _leave_host(root_mode: bool) -> None:
    if root_mode:
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


def _place(pid: int, group: cgroups.Group | None, first: socket.socket) -> cgroups.Group | None:
    """Put the sandbox into its group, or None where the kernel does not agree, which shows only when trying."""
    with contextlib.suppress(PermissionError):
        # Whatever the service's standing when memory is short, nobody in a sandbox may go back to better than this.
        Path(f"/proc/{pid}/oom_score_adj").write_text("0")
    try:
        if group:
            group.add(pid)
    except OSError:
        group = None
    first.send(_GROUPED if group else _ALONE)
    return group


def _evidence(plan: Blueprint, group: cgroups.Group | None) -> Verdict:
    return Verdict(
        namespaces=("bubblewrap, " if plan.bubblewrap else "") + ("root" if plan.root_mode else "user"),
        memory=f"cgroup v{group.version}" if group else "watched, rlimit per process",
        processes=f"cgroup v{group.version}" if group else "rlimit per user namespace",
    )


def _failure(error: namespaces.SetupFailed) -> Verdict:
    return Verdict(step=error.step, detail=str(error.error))


def _wait(pid: int, order: _Order, lines: dict[int, socket.socket], errors: int) -> None:
    """Until the sandbox ends, somebody ends it, or it has lived long enough. Its standard error is passed on.

    Args:
        lines: gets the connections of those who wait for its end: the caller closes them once all is gone.
    """
    ended, door = os.pidfd_open(pid), order.door.fileno()
    lines[order.line.fileno()] = order.line
    poll = select.poll()
    for each in (ended, door, errors, *lines):
        poll.register(each, select.POLLIN)
    deadline = time.monotonic() + order.plan.lifetime_s
    while (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(min(left, 3600.0) * 1000):
            if fd == errors:
                with contextlib.suppress(BrokenPipeError):  # whoever read our standard error is gone
                    os.write(2, os.read(errors, _MAX_SAID))
            elif fd == door:
                line, _ = order.door.accept()
                lines[line.fileno()] = line
                poll.register(line, select.POLLIN)
            elif fd == ended or (said := _hear(lines[fd])) == END:
                return
            elif not said:
                poll.unregister(fd)
                lines.pop(fd).close()


def _hear(line: socket.socket) -> bytes:
    """Nothing where the other end is gone."""
    with contextlib.suppress(ConnectionError):
        return line.recv(len(END))
    return b""
