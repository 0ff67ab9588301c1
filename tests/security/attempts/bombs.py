"""Take all there is of something. Each goes on until it is ended, or until there is no more to be had."""

import ctypes
import os
import secrets
import socket
import sys
import threading
import time

from tests.security.attempts.trying import Tries, call, main, quietly

_MIB = 1024 * 1024


def fork(tries: Tries) -> None:
    """Processes that make processes, and do not stay long enough to be counted."""
    while True:
        quietly(os.fork)


def threads(tries: Tries) -> None:
    while True:
        try:
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        except RuntimeError:
            time.sleep(0.01)


def memory(tries: Tries) -> None:
    kept = []
    while True:
        kept.append(os.urandom(_MIB) * 8)


def files_in_memory(tries: Tries) -> None:
    """Files without a name, which are on no disk and belong to no process once they are sent away."""
    for number in range(4096):
        file = os.memfd_create(str(number))
        os.write(file, bytes(4 * _MIB))


def shared_memory(tries: Tries) -> None:
    """Segments that stay when their maker is gone."""
    while True:
        segment = call("shmget", 0, 16 * _MIB, 0o1666)
        attach = ctypes.CDLL(None).shmat
        attach.restype = ctypes.c_void_p
        ctypes.memset(attach(segment, None, 0), 1, 16 * _MIB)


def pipes(tries: Tries) -> None:
    """What waits in pipes and sockets is the kernel's memory."""
    while True:
        for _, writer in (os.pipe(), [each.detach() for each in socket.socketpair()]):
            os.set_blocking(writer, False)
            for _ in range(64):
                quietly(os.write, writer, bytes(65_536))


def disk(tries: Tries) -> None:
    file = os.open("/workspace/full", os.O_WRONLY | os.O_CREAT)
    tries("fill", lambda: [os.write(file, bytes(_MIB)) for _ in range(1000)])


def hole(tries: Tries) -> None:
    """A file as long as a file can be, of which nothing is there."""
    file = os.open("/workspace/hole", os.O_WRONLY | os.O_CREAT)
    tries("allocate", os.posix_fallocate, file, 0, 2**40)
    os.truncate(file, 2**40)


def inodes(tries: Tries) -> None:
    tries("empty files", _make_files, 300_000)


def _make_files(number: int) -> None:
    for each in range(number):
        os.mknod(f"/workspace/{each}")


def output(tries: Tries) -> None:
    while True:
        os.write(1, bytes(_MIB))


def many_outputs(tries: Tries) -> None:
    """The same from many processes, by every descriptor that leads there."""
    for _ in range(8):
        if os.fork() == 0:
            break
    places = [os.open(f"/proc/self/fd/{number}", os.O_WRONLY) for number in (1, 2)]
    while True:
        for place in (1, 2, *places):
            os.write(place, b"x" * 65_536)


def logs(tries: Tries) -> None:
    """Whatever of the host or the cluster keeps what is said."""
    for path in ("/proc/1/fd/1", "/proc/1/fd/2", "/dev/kmsg", "/dev/console", "/dev/log", "/dev/termination-log"):
        tries(path, _flood, path)


def _flood(path: str) -> None:
    file = os.open(path, os.O_WRONLY)
    for _ in range(64):
        os.write(file, b"escaped\n" * 8192)


def descriptors(tries: Tries) -> None:
    tries("open", lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(2**21)])


def counted_by_user(tries: Tries) -> None:
    """All that the kernel gives one user of what it counts so; a process stays that holds it."""
    for what, take in _COUNTED.items():
        tries(what, lambda take=take: [take() for _ in range(2**16)])
    if os.fork() == 0:
        time.sleep(3600)


def one_of_each(tries: Tries) -> None:
    for what, take in _COUNTED.items():
        tries(what, take)


def _watch() -> None:
    call("inotify_init1", 0)


def _queue() -> None:
    name = f"/mimo-{secrets.token_hex(6)}".encode()
    call("mq_open", name, os.O_RDWR | os.O_CREAT, 0o600, None)
    call("mq_unlink", name)


_COUNTED = {"watches": _watch, "queues": _queue}


def connections(tries: Tries, address: str) -> None:
    """Take up all the room that sandboxd has for clients."""
    links = []

    def connect() -> None:
        for _ in range(2000):
            link = socket.socket(socket.AF_INET if ":" in address else socket.AF_UNIX)
            links.append(link)
            link.settimeout(2)
            host, _, port = address.rpartition(":")
            link.connect((host, int(port)) if port.isdigit() else address)
            link.send(b"\0\0\0\x10\0\0")

    tries("connect", connect)
    sys.stdout.flush()
    time.sleep(2)


if __name__ == "__main__":
    main(globals())
