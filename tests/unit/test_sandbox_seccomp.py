"""The filter as a program: run here by a small interpreter, for processors this machine does not have too."""

import shutil
import struct
import subprocess
from functools import cache

import pytest

from sandbox import program

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="not installed: go (Debian: golang-go)")

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOMEM, EACCES, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT = 1, 12, 13, 38, 93, 97
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003


@cache
def _filter(machine: str) -> bytes:
    command = [str(program.sandboxd(None)), "rules", machine]
    return bytes.fromhex(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _run(machine: str, arch: int, number: int, *arguments: int) -> int:
    """What the kernel would answer: classic BPF over `struct seccomp_data`."""
    data = struct.pack("iIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    code = _filter(machine)
    rules = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]
    at = accumulator = 0
    while True:
        kind, yes, no, value = rules[at]
        at += 1
        match kind:
            case 0x20:
                accumulator = struct.unpack_from("I", data, value)[0]
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                return int(value)
            case _:
                pytest.fail(f"unknown instruction {kind:#x}")


@pytest.mark.parametrize(
    ("machine", "arch", "numbers"),
    [
        ("amd64", X86, {"read": 0, "openat": 257, "execve": 59, "wait4": 61, "futex": 202, "close_range": 436}),
        ("arm64", ARM, {"read": 63, "openat": 56, "execve": 221, "wait4": 260, "futex": 98, "close_range": 436}),
    ],
)
def test_ordinary_calls_are_allowed(machine: str, arch: int, numbers: dict[str, int]) -> None:
    for name, number in numbers.items():
        assert _run(machine, arch, number) == ALLOW, name


@pytest.mark.parametrize(
    ("machine", "arch", "numbers"),
    [
        ("amd64", X86, {"mount": 165, "ptrace": 101, "bpf": 321, "unshare": 272, "keyctl": 250, "io_setup": 206}),
        ("arm64", ARM, {"mount": 40, "ptrace": 117, "bpf": 280, "unshare": 97, "keyctl": 219, "io_setup": 0}),
    ],
)
def test_calls_into_the_kernel_are_refused(machine: str, arch: int, numbers: dict[str, int]) -> None:
    for name, number in numbers.items():
        assert _run(machine, arch, number) == ERRNO | EPERM, name


@pytest.mark.parametrize(("machine", "arch", "clone"), [("amd64", X86, 56), ("arm64", ARM, 220)])
def test_clone_may_make_processes_and_threads_but_no_namespace(machine: str, arch: int, clone: int) -> None:
    thread, sigchld = 0x003D0F00, 17
    assert _run(machine, arch, clone, thread) == ALLOW
    assert _run(machine, arch, clone, sigchld) == ALLOW
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert _run(machine, arch, clone, flag | sigchld) == ERRNO | EPERM, hex(flag)
    assert _run(machine, arch, 435) == ERRNO | ENOSYS


@pytest.mark.parametrize(("machine", "arch", "socket"), [("amd64", X86, 41), ("arm64", ARM, 198)])
def test_only_sockets_that_stay_in_the_network_namespace_are_allowed(machine: str, arch: int, socket: int) -> None:
    for family in range(64):
        wanted = ALLOW if family in (1, 2, 10, 16) else ERRNO | EAFNOSUPPORT
        assert _run(machine, arch, socket, family) == wanted, family


@pytest.mark.parametrize(("machine", "arch", "socket"), [("amd64", X86, 41), ("arm64", ARM, 198)])
def test_protocols_for_which_the_kernel_would_load_a_module_are_not_there(machine: str, arch: int, socket: int) -> None:
    usual = {2: {0, 1, 6, 17, 58}, 10: {0, 1, 6, 17, 58}, 16: {0}}
    for family, allowed in usual.items():
        for protocol in range(300):
            wanted = ALLOW if protocol in allowed else ERRNO | EPROTONOSUPPORT
            assert _run(machine, arch, socket, family, 1, protocol) == wanted, (family, protocol)


@pytest.mark.parametrize(
    ("machine", "arch", "prlimit", "setrlimit"), [("amd64", X86, 302, 160), ("arm64", ARM, 261, 164)]
)
def test_the_bound_of_core_dumps_can_be_asked_for_and_not_changed(
    machine: str, arch: int, prlimit: int, setrlimit: int
) -> None:
    core, files = 4, 7
    for address in (0x1000, 0x7FFF_0000_0000):
        assert _run(machine, arch, prlimit, 0, core, address) == ERRNO | 0
        assert _run(machine, arch, prlimit, 0, files, address) == ALLOW
    assert _run(machine, arch, prlimit, 0, core, 0, 0x1000) == ALLOW
    assert _run(machine, arch, prlimit, 1, files, 0x1000) == ERRNO | EPERM
    assert _run(machine, arch, setrlimit, core, 0x1000) == ERRNO | 0
    assert _run(machine, arch, setrlimit, files, 0x1000) == ALLOW


@pytest.mark.parametrize(
    ("machine", "arch", "mmap", "shmget", "memfd_create"), [("amd64", X86, 9, 29, 319), ("arm64", ARM, 222, 194, 279)]
)
def test_there_are_no_huge_pages(machine: str, arch: int, mmap: int, shmget: int, memfd_create: int) -> None:
    for number, arguments, huge in (
        (mmap, (0, 4096, 3, 0x22), (0, 4096, 3, 0x22 | 0x40000)),
        (shmget, (0, 4096, 0o600), (0, 4096, 0o600 | 0o4000)),
        (memfd_create, (0x1000, 1), (0x1000, 1 | 4)),
    ):
        assert _run(machine, arch, number, *arguments) == ALLOW
        assert _run(machine, arch, number, *huge) == ERRNO | ENOMEM


@pytest.mark.parametrize(("machine", "arch", "fcntl"), [("amd64", X86, 72), ("arm64", ARM, 25)])
def test_no_lease_is_had_on_a_file_but_locks_are(machine: str, arch: int, fcntl: int) -> None:
    duplicate, lock, lease = 0, 6, 1024
    assert _run(machine, arch, fcntl, 3, lease, 1) == ERRNO | EACCES
    assert _run(machine, arch, fcntl, 3, duplicate) == ALLOW
    assert _run(machine, arch, fcntl, 3, lock, 0x1000) == ALLOW


def test_arguments_are_compared_as_the_kernel_reads_them() -> None:
    tiocsti, ioctl = 0x5412, 16
    assert _run("amd64", X86, ioctl, 0, tiocsti) == ERRNO | EPERM
    assert _run("amd64", X86, ioctl, 0, 0xFFFFFFFF_00000000 | tiocsti) == ERRNO | EPERM
    assert _run("amd64", X86, ioctl, 0, 0x5401) == ALLOW


def test_a_foreign_abi_has_no_call_at_all() -> None:
    for number in range(0, 460, 20):
        assert _run("amd64", I386, number) == ERRNO | EPERM
        assert _run("amd64", X86, 0x40000000 | number) == ERRNO | EPERM
        assert _run("arm64", X86, number) == ERRNO | EPERM
