"""The system calls a sandbox may not make, as a classic BPF program for seccomp(2).

Refused calls fail with ``EPERM`` instead of ending the process: test suites probe for what they may do. Programs of a
foreign ABI (32 bit, x32) are refused as a whole, so that no call has a second name.
"""

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass

from sandbox import linux


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of processor."""

    audit_arch: int
    column: int
    """Its column in the table of system call numbers."""
    clone_flags: int
    socket: int
    ioctl: int
    prlimit64: int


MACHINES = {
    "x86_64": Machine(audit_arch=0xC000003E, column=0, clone_flags=56, socket=41, ioctl=16, prlimit64=302),
    "aarch64": Machine(audit_arch=0xC00000B7, column=1, clone_flags=220, socket=198, ioctl=29, prlimit64=261),
}

_X32 = 0x40000000
_CLONE3 = 435
_NAMESPACES = 0x7E020000
"""All ``CLONE_NEW...`` flags that clone(2) takes."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""``TIOCSTI`` and ``TIOCLINUX``: type into the terminal of somebody else."""
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6 (the sandbox's own loopback), netlink. Others, such as vsock, reach out of a network namespace."""

# (x86_64, aarch64); None where a machine does not have the call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "lookup_dcookie": (212, 18),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
}

_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_ERRNO = 0x00050000
_NUMBER, _ARCH = 0, 4


def install() -> None:
    """Bind this process and all it ever starts. ``no_new_privs`` must be set.

    Raises:
        OSError: the kernel has no seccomp filters.
    """
    code = program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(buffer)))
    linux.prctl(linux.PR_SET_SECCOMP, linux.SECCOMP_MODE_FILTER, ctypes.byref(head))


def program(machine_name: str) -> bytes:
    """The filter for a kind of processor, as the kernel's ``sock_filter`` array.

    Raises:
        OSError: there is no table for it.
    """
    machine = MACHINES.get(machine_name)
    if machine is None:
        raise OSError(errno.ENOSYS, f"no system call table for a {machine_name} processor")
    rules = [
        *_load(_ARCH),
        *_unless(machine.audit_arch, _fail(errno.EPERM)),
        *_load(_NUMBER),
        *_refuse_x32(machine),
        *_when(_CLONE3, _fail(errno.ENOSYS)),  # its flags are in memory, out of reach: libc falls back to clone
    ]
    for row in _REFUSED.values():
        if (number := row[machine.column]) is not None:
            rules += _when(number, _fail(errno.EPERM))
    rules += _only(machine.clone_flags, [*_load(_low(0)), _jump(_JSET, _NAMESPACES, 0, 1), _fail(errno.EPERM)])
    rules += _only(
        machine.ioctl, [*_load(_low(1)), *(op for bad in _TERMINAL_INPUT for op in _when(bad, _fail(errno.EPERM)))]
    )
    rules += _only(machine.prlimit64, [*_load(_low(0)), *_unless(0, _fail(errno.EPERM))])
    rules += _only(
        machine.socket,
        [*_load(_low(0)), *(op for good in _FAMILIES for op in _when(good, _ret(_ALLOW))), _fail(errno.EAFNOSUPPORT)],
    )
    return b"".join([*rules, _ret(_ALLOW)])


_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06


def _op(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("HBBI", code, true, false, value)


def _load(offset: int) -> list[bytes]:
    return [_op(_LD, offset)]


def _low(argument: int) -> int:
    """Offset of the low half of a call's argument (little endian)."""
    return 16 + 8 * argument


def _jump(code: int, value: int, true: int, false: int) -> bytes:
    return _op(code, value, true, false)


def _ret(value: int) -> bytes:
    return _op(_RET, value)


def _fail(code: int) -> bytes:
    return _ret(_ERRNO | code)


def _when(value: int, then: bytes) -> list[bytes]:
    return [_jump(_JEQ, value, 0, 1), then]


def _unless(value: int, then: bytes) -> list[bytes]:
    return [_jump(_JEQ, value, 1, 0), then]


def _only(number: int, body: list[bytes]) -> list[bytes]:
    """Run ``body`` for one system call; whatever falls through it is allowed."""
    return [_jump(_JEQ, number, 0, len(body) + 1), *body, _ret(_ALLOW)]


def _refuse_x32(machine: Machine) -> list[bytes]:
    return [_jump(_JGE, _X32, 0, 1), _fail(errno.EPERM)] if machine.column == 0 else []
