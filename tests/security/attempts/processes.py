"""Processes that are not one's own: sandboxd, those of other sandboxes, and those of the host."""

import ctypes
import os
import resource
import signal
import time
from pathlib import Path

from tests.security.attempts.trying import Tries, call, main, pids, put, reach

_SECRETS = ("mem", "environ", "maps", "auxv", "stack", "syscall", "exe", "root", "cwd", "fd", "ns/pid", "map_files")


def first(tries: Tries) -> None:
    """Look into sandboxd, which has the key in its memory."""
    for name in _SECRETS:
        for task in ("", "task/1/") if name not in ("map_files",) else ("",):
            tries(f"{task}{name}", _look, f"/proc/1/{task}{name}")


def _look(place: str) -> None:
    path = Path(place)
    if path.is_symlink():
        path.readlink()
    elif path.is_dir():
        next(path.iterdir())
    else:
        os.read(os.open(path, os.O_RDONLY), 1)


def trace(tries: Tries) -> None:
    for pid in (1, os.getppid()):
        tries(f"attach {'first' if pid == 1 else 'shell'}", call, "ptrace", 16, pid, 0, 0)
        tries(f"seize {'first' if pid == 1 else 'shell'}", call, "ptrace", 0x4206, pid, 0, 0)
    room = ctypes.create_string_buffer(64)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(room), 64)
    for name in ("process_vm_readv", "process_vm_writev"):
        tries(name, call, name, 1, vector, 1, vector, 1, 0)
    tries("descriptor", lambda: call("pidfd_getfd", os.pidfd_open(1), 0, 0))
    tries("compare", call, "kcmp", 1, os.getpid(), 0, 0, 0)


def bend(tries: Tries) -> None:
    """Change what holds sandboxd, or what the kernel does with it."""
    for name in ("oom_score_adj", "coredump_filter", "clear_refs", "comm", "timerslack_ns", "uid_map", "setgroups"):
        tries(name, put, f"/proc/1/{name}", "1")
    tries("limits", call, "prlimit64", 1, 7, (ctypes.c_uint64 * 2)(0, 0), None)


def kill(tries: Tries, host_pid: str) -> None:
    """Every signal to the first process, and then to all there are."""
    tries("host", os.kill, int(host_pid), signal.SIGKILL)
    for number in range(1, 65):
        tries(f"signal {number}", os.kill, 1, number)
    tries("by descriptor", lambda: signal.pidfd_send_signal(os.pidfd_open(1), signal.SIGKILL))


def kill_all(tries: Tries) -> None:
    print("now", flush=True)
    os.kill(-1, signal.SIGKILL)  # this process is spared
    tries("all", os.getpid)


def shared(tries: Tries, key: str, name: str) -> None:
    """Memory, semaphores and queues that processes of one machine share."""
    tries("memory", call, "shmget", int(key), 0, 0)
    tries("semaphores", call, "semget", int(key), 0, 0)
    tries("messages", call, "msgget", int(key), 0)
    tries("by name", reach, f"/dev/shm/{name}", os.O_RDWR)
    tries("queue", call, "mq_open", f"/{name}".encode(), os.O_RDWR)


def others(tries: Tries, marker: str) -> None:
    """Processes whose command line has ``marker``, and files whose name is it."""
    seen = [pid for pid in pids() if pid != os.getpid() and marker in _line(pid)]
    for pid in seen:
        os.kill(pid, signal.SIGKILL)
    tries("processes", _found, seen)
    places = ("/workspace", "/tmp", "/dev/shm", "/var/tmp", "/home/sandbox", "/run", "/run/sandboxd")
    tries("files", _found, [place for place in places if Path(place, marker).exists()])


def _line(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .partition("others")[0]
        )
    except OSError:
        return ""


def _found(what: list[object]) -> None:
    if not what:
        raise ProcessLookupError(3, "nothing")


def crash(tries: Tries) -> None:
    """Die with a core dump, which the kernel hands to whatever the host has for that."""
    tries("limit", _raise_cores)
    pid = os.fork()
    if pid == 0:
        ctypes.string_at(0)
    tries("core", _any_core, os.waitpid(pid, 0)[1])


def _raise_cores() -> None:
    call("setrlimit", resource.RLIMIT_CORE, (ctypes.c_uint64 * 2)(2**40, 2**40))
    if resource.getrlimit(resource.RLIMIT_CORE)[0] <= 1:  # whatever the answer was: with 1 the kernel starts nothing
        raise PermissionError(1, "bounded as before")


def _any_core(status: int) -> None:
    assert os.WIFSIGNALED(status), status
    if not os.WCOREDUMP(status):
        raise PermissionError(1, "no core")


def linger(tries: Tries, marker: str) -> None:
    """Stay, whatever comes: away from every parent, session and group, deaf to what can be ignored."""
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
                signal.signal(number, signal.SIG_IGN)
            if os.fork() == 0:
                while True:
                    time.sleep(60)
            time.sleep(3600)
    tries("made", os.getpid)


if __name__ == "__main__":
    main(globals())
