"""The process above each job: it runs the job, adopts what the job leaves behind, and tells how the job ended.

It is a fork of the first process and shares nothing with it but a pipe for its one line of news. Every function here
that runs in the new process ends it: control never returns to the event loop it was copied with.
"""

import errno
import fcntl
import json
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sandbox import files, linux
from sandbox.errors import SandboxRejected

_MAX_ARGUMENT = 120_000
"""A longer command line does not fit into one argument (Linux: 128 KiB), so the shell reads it from a file."""
_SCRIPT_FD = 9
_FIRST_TO_GO = "600"
"""Badness added to commands, so that the kernel ends them before our own processes when memory is short."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Starts keepers; holds what all of them need."""

    shell: str
    env: dict[str, str]
    rlimits: tuple[tuple[int, int], ...]
    """(resource, bound) for every command."""

    def start(self, head: dict[str, object], source: int, output: int, status: int) -> int:
        """Fork a keeper for the job that ``head`` asks for. Returns its process id."""
        pid = os.fork()
        if pid == 0:
            try:
                self._keep(head, source, output, status)
            finally:
                os._exit(1)  # an error of ours: the missing news tell
        return pid

    def _keep(self, head: dict[str, object], source: int, output: int, status: int) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        status = _keep_only(source, output, status)
        if head["op"] == "exec":
            self._keep_command(head, status)
        _call(str(head["op"]), str(head["path"]), status)

    def _keep_command(self, head: dict[str, object], status: int) -> NoReturn:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        shell = os.fork()
        if shell == 0:
            self._become_shell(head, status)
        os.closerange(0, 3)  # the end of the output is when the command and its children have let go of it
        while True:
            try:
                pid, code = os.wait()
            except ChildProcessError:
                os._exit(0)
            if pid == shell and os.WIFSIGNALED(code):
                _tell(status, {"how": "signalled", "code": os.WTERMSIG(code)})
            elif pid == shell:
                _tell(status, {"how": "exited", "code": os.WEXITSTATUS(code)})

    def _become_shell(self, head: dict[str, object], status: int) -> NoReturn:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores, and programs would inherit
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        # What is about to run may be looked into by its own user, unlike us.
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
        for kind, bound in self.rlimits:
            resource.setrlimit(kind, (bound, bound))
        try:
            os.chdir(str(head["cwd"]))
        except OSError as error:
            _tell(status, {"how": "rejected", "detail": f"working directory {head['cwd']}: {error.strerror}"})
            os._exit(1)
        try:
            os.execve(self.shell, [self.shell, "-c", _argument(str(head["line"]))], {**self.env, **_env(head)})
        except OSError as error:
            _tell(status, {"how": "rejected", "detail": f"the shell does not start: {error.strerror}"})
            os._exit(1)


def _call(name: str, path: str, status: int) -> NoReturn:
    """Run a file call and end this process."""
    try:
        with open(0, "rb", buffering=0) as source, open(1, "wb", buffering=256 * 1024) as out:
            files.CALLS[name](path, source, out)
    except SandboxRejected as error:
        _tell(status, {"how": "rejected", "detail": str(error)})
    except OSError as error:
        _tell(status, _failure(error, path))
    else:
        _tell(status, {"how": "exited"})
    os._exit(0)


def _failure(error: OSError, path: str) -> dict[str, object]:
    if error.errno == errno.ELOOP:
        return {"how": "rejected", "detail": f"{path} is, or leads through, a symbolic link"}
    return {"how": "failed", "code": error.errno or errno.EIO}


def _keep_only(source: int, output: int, status: int) -> int:
    """Make these the only descriptors of this process: 0 input, 1 and 2 output, 3 status."""
    # First out of the way: a pipe's own number may be a wanted one.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (source, output, status)]
    os.dup2(high[0], 0)
    os.dup2(high[1], 1)
    os.dup2(high[1], 2)
    os.dup2(high[2], 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return 3


def _argument(line: str) -> str:
    raw = os.fsencode(line)
    if len(raw) <= _MAX_ARGUMENT:
        return line
    script = os.memfd_create("line")
    os.write(script, raw)
    os.lseek(script, 0, os.SEEK_SET)
    os.dup2(script, _SCRIPT_FD)
    return f". /proc/self/fd/{_SCRIPT_FD}"


def _env(head: dict[str, object]) -> dict[str, str]:
    env = head["env"]
    assert isinstance(env, dict), env
    return env


def _tell(status: int, news: dict[str, object]) -> None:
    os.write(status, json.dumps({"code": 0, **news}).encode() + b"\n")
