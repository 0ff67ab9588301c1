"""What there is outside of sandboxes that no sandbox may touch, and whether one did."""

import ctypes
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox import program

_KERNEL = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/ctrl-alt-del", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/status", "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/irq/default_smp_affinity",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Host:
    """The victim. Everything in it counts as harmed as soon as it is not as it was."""

    secret: Path
    """A file that only the host has."""
    stream: socket.socket
    datagrams: socket.socket
    """Both listen at every address of this machine."""
    pings: socket.socket | None
    """Hears ICMP; None where we may not."""
    by_path: socket.socket
    by_name: socket.socket
    """Unix sockets, with a path and with an abstract name."""
    process: subprocess.Popen[bytes]
    name: str
    """Of the shared memory and the message queue; and what pings to it say."""
    key: int
    """Of shared memory, semaphores and messages in the older way."""
    before: dict[str, str]
    clock_ahead_s: float

    @property
    def port(self) -> int:
        number: int = self.stream.getsockname()[1]
        return number

    @property
    def addresses(self) -> tuple[str, ...]:
        """Loopback, which for a sandbox is its own, and what others call this machine."""
        return ("127.0.0.1", "::1", *_outward())

    def harm(self) -> dict[str, str]:
        """What happened to it: empty as long as nobody got out."""
        after = {**_state(self.secret), **self._heard()}
        if self.process.poll() is not None:
            after["process"] = f"ended with {self.process.returncode}"
        if abs(_clock_ahead_s() - self.clock_ahead_s) > 3600:
            after["clock"] = "set"
        return {what: text for what, text in after.items() if self.before.get(what) != text}

    def _heard(self) -> dict[str, str]:
        heard = {}
        for name in ("stream", "by_path", "by_name"):
            with suppress(BlockingIOError):
                getattr(self, name).accept()[0].close()
                heard[name] = "somebody connected"
        with suppress(BlockingIOError):
            heard["datagrams"] = repr(self.datagrams.recv(2000))
        with suppress(BlockingIOError):
            while self.pings:
                if self.name.encode() in (packet := self.pings.recv(2000)):
                    heard["pings"] = repr(packet)
        return heard


@contextmanager
def standing(folder: Path) -> Iterator[Host]:
    """Set one up."""
    name, key = f"mimo-escape-{secrets.token_hex(4)}", secrets.randbelow(2**30) + 1
    secret = folder / "secret"
    secret.write_text(secrets.token_hex(16))
    with ExitStack() as stack, _shared(name, key):
        stream = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        datagrams = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.bind(("::", stream.getsockname()[1]))
        pings = None
        if os.geteuid() == 0:
            pings = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        by_path, by_name = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        by_path.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        by_name.bind(f"\0{name}")
        for listener in (by_path, by_name):
            listener.listen()
        for each in (stream, datagrams, pings, by_path, by_name):
            if each:
                each.setblocking(False)
        process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]))
        stack.callback(process.kill)
        yield Host(
            secret, stream, datagrams, pings, by_path, by_name, process, name, key, _state(secret), _clock_ahead_s()
        )


@contextmanager
def _shared(name: str, key: int) -> Iterator[None]:
    """Shared memory, semaphores and queues that everybody on this machine may use."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = Path("/dev/shm", name)  # the host's own
    file.touch(0o666)
    created = 0o1666  # IPC_CREAT
    memory, semaphores, messages = (
        libc.shmget(key, 4096, created),
        libc.semget(key, 1, created),
        libc.msgget(key, created),
    )
    # A small one: the kernel counts what a queue may ever hold, and a user may have but ten of the usual size.
    size = (ctypes.c_long * 8)(0, 1, 64)
    queue = libc.mq_open(f"/{name}".encode(), os.O_RDWR | os.O_CREAT, 0o666, ctypes.byref(size))
    assert min(memory, semaphores, messages, queue) >= 0, (memory, semaphores, messages, queue)
    try:
        yield
    finally:
        libc.shmctl(memory, 0, None)
        libc.semctl(semaphores, 0, 0)
        libc.msgctl(messages, 0, None)
        libc.mq_close(queue)
        libc.mq_unlink(f"/{name}".encode())
        file.unlink()


def kernel_settings() -> list[Path]:
    """Those that this kernel has. All sandboxes share them with the host, and some name a program that it runs."""
    return [Path(path) for path in _KERNEL if Path(path).exists()]


def running(marker: str) -> list[int]:
    """Processes of this machine whose command line has ``marker``."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and marker.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _state(secret: Path) -> dict[str, str]:
    state = {str(path): path.read_text() for path in kernel_settings()}
    state["secret"] = f"{secret.read_text()} {secret.stat().st_mode:o}"
    state["sandboxd"] = hashlib.sha256(program.sandboxd(None).read_bytes()).hexdigest()
    return state


def _clock_ahead_s() -> float:
    return time.time() - time.monotonic()


def _outward() -> tuple[str, ...]:
    """The address this machine has for others, if it has one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link, suppress(OSError):
        link.connect(("192.0.2.1", 9))
        return (link.getsockname()[0],)
    return ()
