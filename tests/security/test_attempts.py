"""Every door is closed: each step of each attempt meets an error that says so, and the host notices nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.types import Sandbox
from tests.security import host as outside
from tests.security.conftest import on_the_host, tried
from tests.security.differences import accepted
from tests.security.host import Host, kernel_settings

pytestmark = pytest.mark.anyio

_NOWHERE = {"ENETUNREACH", "EADDRNOTAVAIL", "ECONNREFUSED"}

CLOSED_BY = {
    "files.descriptors": {"EBADF", "ENOTDIR"},
    "files.devices": {"EPERM", "ENOENT"},
    "files.groups": {"EPERM", "ENOENT"},
    "files.handles": {"EPERM"},
    "files.pages": {"EACCES", "EPERM", "EROFS", "EIO", "EXDEV"},
    "files.see": {"ENOENT", "EACCES"},
    "files.settings": {"EACCES", "EROFS", "ENOENT"},
    "files.superuser": {"EPERM"},
    "kernel.bpf": {"EPERM"},
    "kernel.chroot": {"EPERM", "ENOENT"},
    "kernel.clock": {"EPERM"},
    "kernel.clone3": {"ENOSYS"},
    "kernel.disks": {"EPERM", "ENOTTY", "ENOTSUP", "EROFS"},
    "kernel.foreign_abi": {"EPERM", "ENOSYS"},
    "kernel.io_uring": {"EPERM"},
    "kernel.keyring": {"EPERM"},
    "kernel.machine": {"EPERM"},
    "kernel.modules": {"EPERM"},
    "kernel.mount": {"EPERM"},
    "kernel.mount_api": {"EPERM"},
    "kernel.namespace_files": {"EPERM", "EACCES", "ENOTTY", "EINVAL"},
    "kernel.namespaces": {"EPERM", "EACCES"},
    "kernel.own_entries": {"EACCES", "EPERM", "EINVAL", "EROFS", "ENOENT"},
    "kernel.perf": {"EPERM"},
    "kernel.priority": {"EPERM", "EACCES"},
    "kernel.setuid": {"EPERM"},
    "kernel.terminal": {"EPERM", "ENXIO", "ENOENT"},
    "kernel.userfaultfd": {"EPERM"},
    "network.credentials": {"EPERM", "EINVAL"},
    "network.devices": {"EPERM", "ENOENT"},
    "network.families": {"EAFNOSUPPORT"},
    "network.icmp": {"EPERM", "EACCES", "ENETUNREACH"},
    "network.metadata": _NOWHERE,
    "network.names": {"gaierror"},
    "network.netlink": {"EPROTONOSUPPORT"},
    "network.options": {"EPERM", "EACCES", "ENOPROTOOPT", "ENOENT", "ENOTSUP"},
    "network.services": {"ENOENT"},
    "network.sockets": {"ENOENT", "ECONNREFUSED"},
    "network.tcp": _NOWHERE,
    "network.udp": _NOWHERE,
    "processes.bend": {"EACCES", "EPERM"},
    "processes.crash": {"EPERM"},
    "processes.first": {"EACCES"},
    "processes.shared": {"ENOENT"},
    "processes.trace": {"EPERM"},
}
"""Attempt -> the errors that close it. What a backend answers otherwise is in ``differences``."""

ARGUMENTS: dict[str, Callable[[Host], tuple[object, ...]]] = {
    "files.pages": lambda _: ("/usr/bin/env", "/etc/passwd"),
    "files.see": lambda host: (host.secret,),
    "files.settings": lambda _: tuple(kernel_settings()),
    "kernel.chroot": lambda host: (host.secret,),
    "network.icmp": lambda host: (host.name, *(address for address in host.addresses if ":" not in address)),
    "network.sockets": lambda host: (host.secret.with_name("socket"), host.name),
    "network.tcp": lambda host: (host.port, *host.addresses),
    "network.udp": lambda host: (host.port, *host.addresses),
    "processes.shared": lambda host: (host.key, host.name),
}


def _arguments(attempt: str, host: Host) -> tuple[object, ...]:
    return ARGUMENTS[attempt](host) if attempt in ARGUMENTS else ()


@pytest.mark.parametrize("attempt", CLOSED_BY)
async def test_every_step_of_an_attempt_is_refused(attempt: str, prison: Sandbox, host: Host, kind: str) -> None:
    said = await tried(prison, attempt, *_arguments(attempt, host))
    open_doors = {
        step: answer
        for step, answer in said.items()
        if answer not in CLOSED_BY[attempt] | accepted(attempt, step, kind)
    }
    assert open_doors == {}


@pytest.mark.parametrize(
    ("attempt", "noticed"),
    [
        ("network.tcp", {"stream"}),
        ("network.udp", {"datagrams"}),
        ("network.icmp", {"pings"}),
        ("network.sockets", {"by_path", "by_name"}),
    ],
)
def test_from_outside_the_same_attempt_is_noticed(attempt: str, noticed: set[str], tmp_path: Path) -> None:
    """So where nothing is noticed, nothing got out."""
    with outside.standing(tmp_path) as victim:
        if attempt == "network.icmp" and victim.pings is None:
            pytest.skip("needs the superuser, to hear ICMP")
        on_the_host(attempt, *_arguments(attempt, victim))
        assert set(victim.harm()) >= noticed


@pytest.mark.parametrize("attempt", ["files.see", "processes.shared"])
def test_from_outside_the_same_attempt_succeeds(attempt: str, tmp_path: Path) -> None:
    with outside.standing(tmp_path) as victim:
        assert '"done"' in on_the_host(attempt, *_arguments(attempt, victim))
