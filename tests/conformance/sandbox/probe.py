"""Runs inside a sandbox and prints what happened: `python probe.py NAME ARGUMENTS`."""

import ctypes
import errno
import mmap
import os
import platform
import socket
import sys

CALLS = {  # (x86_64, aarch64)
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "ptrace": (101, 117), "process_vm_readv": (310, 270), "bpf": (321, 280),
    "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "kexec_load": (246, 104), "init_module": (175, 105),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "fsopen": (430, 430), "mount_setattr": (442, 442),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "reboot": (169, 142), "swapon": (167, 224), "clone3": (435, 435),
    "clone": (56, 220), "prlimit64": (302, 261), "ioctl": (16, 29), "io_setup": (206, 0),
}  # fmt: skip
CLONE_NEWUSER = 0x10000000
TIOCSTI = 0x5412
TIOCSETD = 0x5423


def connect(host: str, port: str) -> None:
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            print("connected")
    except ConnectionRefusedError:
        print("ConnectionRefusedError")
    except OSError as error:
        print(f"OSError: {error.strerror}")


def resolve(name: str) -> None:
    try:
        print(socket.getaddrinfo(name, 80))
    except socket.gaierror:
        print("gaierror")


def serve() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        print("served")


def interfaces() -> None:
    print(" ".join(name for _, name in socket.if_nameindex()))


def abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect("\0" + name)
            print("connected")
        except ConnectionRefusedError:
            print("ConnectionRefusedError")


def family(number: str) -> None:
    try:
        socket.socket(int(number), socket.SOCK_STREAM).close()
        print("opened")
    except OSError as error:
        print(error.strerror)


def protocol(family: str, kind: str, number: str) -> None:
    try:
        socket.socket(int(family), int(kind), int(number)).close()
        print("opened")
    except OSError as error:
        print(error.strerror)


def syscall(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    number = CALLS[name][0 if platform.machine() == "x86_64" else 1]
    # Addresses that are no addresses: what gets past the filter fails with something else than EPERM.
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in (arguments or (-1, -1, -1, -1, -1))))
    print(errno.errorcode[ctypes.get_errno()] if result < 0 else f"returned {result}")


def clone_newuser() -> None:
    syscall("clone", CLONE_NEWUSER, 0, 0, 0, 0)


def clone3() -> None:
    syscall("clone3")


def tiocsti() -> None:
    syscall("ioctl", 0, TIOCSTI, 0)


def line_discipline() -> None:
    syscall("ioctl", 0, TIOCSETD, 0)


def prlimit_of_init() -> None:
    syscall("prlimit64", 1, 0, 0, 0)


def int80() -> None:
    """Ask for the process id by the 32-bit way into a 64-bit kernel: `mov eax, 20; int 0x80; ret`."""
    if platform.machine() != "x86_64":
        print("no such door")
        return
    if os.fork() == 0:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        print(errno.errorcode[-result] if result < 0 else f"returned {result}", flush=True)
        os._exit(0)
    _, status = os.wait()
    if os.WIFSIGNALED(status):
        print("no such door")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
