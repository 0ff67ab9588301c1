"""The process above each job: it runs the job, adopts what the job leaves behind, and tells how the job ended.

It is a fork of the sandbox's first process, made before it is needed (a fork of Python takes longer than the start of
a shell), and gets its job over a socket: one byte, with the descriptors of the job. It never returns to the event
loop it was copied with.
"""

import errno
import fcntl
import json
import os
import resource
import signal
import socket
from dataclasses import dataclass

from sandbox import files, linux
from sandbox.errors import SandboxRejected
from sandbox.process import ends_here

_MAX_ARGUMENT = 120_000
"""A longer command line does not fit into one argument (Linux: 128 KiB), so the shell reads it from a file."""
_SCRIPT_FD = 9
_STATUS_FD = 3
_FIRST_TO_GO = b"600"
"""Badness of keepers and commands, so that the kernel ends them before the first process when memory is short."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """A keeper that waits for its job."""

    pid: int
    line: socket.socket

    def give(self, head: dict[str, object], source: int, output: int, status: int) -> bool:
        """Hand the job over; False where the keeper was ended meanwhile, by somebody in the sandbox."""
        request = _file_of(json.dumps(head).encode())
        try:
            socket.send_fds(self.line, [b"!"], [request, source, output, status])
        except ConnectionError:
            return False
        finally:
            os.close(request)
            self.line.close()
        return True


@dataclass(frozen=True, slots=True)
class _Command:
    line: str
    cwd: str
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class Kit:
    """What all keepers of a sandbox need."""

    shell: str
    env: dict[str, str]
    rlimits: tuple[tuple[int, int], ...]
    """(resource, bound) for every command."""
    badness_fd: int
    """The first process's own ``/proc/self/oom_score_adj``: what it says at a fork is inherited."""

    def fork_keeper(self) -> Keeper:
        ours, theirs = socket.socketpair()
        usual = os.pread(self.badness_fd, 16, 0)
        os.pwrite(self.badness_fd, _FIRST_TO_GO, 0)
        pid = os.fork()
        if pid == 0:
            with ends_here():
                self._keep(_only(theirs))
        os.pwrite(self.badness_fd, usual, 0)
        theirs.close()
        return Keeper(pid, ours)

    def _keep(self, line: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        message, fds, _, _ = socket.recv_fds(line, 1, 4)
        if not message:
            return
        line.detach()  # its number is about to be used for another
        request, source, output, status = fds
        head = json.loads(os.pread(request, os.fstat(request).st_size, 0))
        _keep_only(source, output, status)
        if head["op"] == "exec":
            self._run_command(_Command(head["line"], head["cwd"], head["env"]))
        else:
            _call(head["op"], head["path"])

    def _run_command(self, command: _Command) -> None:
        try:
            shell = self._start_shell(command)
        except BlockingIOError:
            _tell({"how": "crowded"})
            return
        except OSError as error:
            _tell({"how": "rejected", "detail": f"the shell does not start in {command.cwd}: {error.strerror}"})
            return
        # The output ends when the command and its children have let go of it; we must not be among them.
        os.closerange(0, _STATUS_FD)
        os.closerange(_STATUS_FD + 1, _SCRIPT_FD + 1)
        while True:
            try:
                pid, code = os.wait()
            except ChildProcessError:
                return
            if pid == shell and os.WIFSIGNALED(code):
                _tell({"how": "signalled", "code": os.WTERMSIG(code)})
            elif pid == shell:
                _tell({"how": "exited", "code": os.WEXITSTATUS(code)})

    def _start_shell(self, command: _Command) -> int:
        os.chdir(command.cwd)
        line = _argument(command.line)
        for kind, bound in self.rlimits:
            hardest = resource.getrlimit(kind)[1]
            bound = bound if hardest == resource.RLIM_INFINITY else min(bound, hardest)
            resource.setrlimit(kind, (bound, bound))
        # Python ignores these two signals, which programs would inherit.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        return os.posix_spawn(self.shell, [self.shell, "-c", line], {**self.env, **command.env}, setsid=True)


def _call(name: str, path: str) -> None:
    """Run a file call."""
    try:
        with open(0, "rb", buffering=0) as source, open(1, "wb", buffering=256 * 1024) as out:
            files.CALLS[name](path, source, out)
    except SandboxRejected as error:
        _tell({"how": "rejected", "detail": str(error)})
    except OSError as error:
        _tell(_failure(error, path))
    else:
        _tell({"how": "exited"})


def _failure(error: OSError, path: str) -> dict[str, object]:
    if error.errno == errno.ELOOP:
        return {"how": "rejected", "detail": f"{path} is, or leads through, a symbolic link"}
    return {"how": "failed", "code": error.errno or errno.EIO}


def _only(line: socket.socket) -> socket.socket:
    """Close all but ``line``: while we wait, other jobs must see the end of their input when its writer closes it."""
    fd = line.detach()
    if fd != _STATUS_FD:
        os.dup2(fd, _STATUS_FD, inheritable=False)
    os.closerange(_STATUS_FD + 1, os.sysconf("SC_OPEN_MAX"))
    return socket.socket(fileno=_STATUS_FD)


def _keep_only(source: int, output: int, status: int) -> None:
    """Make these the only descriptors of this process: 0 input, 1 and 2 output, 3 status."""
    # First out of the way: a descriptor's own number may be a wanted one.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (source, output, status)]
    os.dup2(high[0], 0)
    os.dup2(high[1], 1)
    os.dup2(high[1], 2)
    os.dup2(high[2], _STATUS_FD, inheritable=False)
    os.closerange(_STATUS_FD + 1, os.sysconf("SC_OPEN_MAX"))


def _argument(line: str) -> str:
    raw = os.fsencode(line)
    if len(raw) <= _MAX_ARGUMENT:
        return line
    script = _file_of(raw)
    os.dup2(script, _SCRIPT_FD)
    os.close(script)
    return f". /proc/self/fd/{_SCRIPT_FD}"


def _file_of(data: bytes) -> int:
    fd = os.memfd_create("job")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _tell(news: dict[str, object]) -> None:
    os.write(_STATUS_FD, json.dumps({"code": 0, **news}).encode() + b"\n")
