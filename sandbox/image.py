"""The image ``host``, which every backend on one machine knows: a read-only view of that machine's toolchain."""

import shutil
from pathlib import Path

from sandbox.blueprint import Blueprint
from sandbox.config import SandboxSettings
from sandbox.errors import SandboxUnavailable, UnknownImage
from sandbox.types import SandboxSpec

UID = 1000
"""User and group id of everything that runs in a sandbox, as seen inside."""
HOME = "/home/sandbox"
_WAY_OUT = "/run/egress"


def blueprint(
    spec: SandboxSpec,
    settings: SandboxSettings,
    *,
    root_mode: bool,
    host_uid: int,
    program: Path,
    way_out: Path | None = None,
) -> Blueprint:
    """Decide how the machine wanted by ``spec`` is built here. ``way_out`` is a socket that leads out of it.

    Raises:
        UnknownImage: there is no such image.
        SandboxUnavailable: the host lacks a program that every sandbox needs.
    """
    if spec.image != "host":
        raise UnknownImage(f"the local sandbox has no image {spec.image!r}; the only one is 'host'")
    shell = find_shell(settings)
    binds, links = view(settings)
    if way_out is not None:
        binds[_WAY_OUT] = str(way_out)
    return Blueprint(
        root_mode=root_mode,
        host_uid=host_uid,
        program=str(program),
        binds=binds,
        links=links,
        files=files(),
        shell=shell,
        egress="" if way_out is None else _WAY_OUT,
        memory_bytes=spec.resources.memory_mib * 1024 * 1024,
        disk_bytes=spec.resources.disk_mib * 1024 * 1024,
        processes=spec.resources.processes,
        lifetime_s=spec.lifetime_s,
    )


def find_shell(settings: SandboxSettings) -> str:
    """Where bash is, here and in the image.

    Raises:
        SandboxUnavailable: it is nowhere.
    """
    path = ":".join(_path(settings))
    shell = shutil.which("bash", path=path)
    if shell is None:
        raise SandboxUnavailable(f"bash is not in {path}; install it: every command is run by it")
    return shell


def view(settings: SandboxSettings) -> tuple[dict[str, str], dict[str, str]]:
    """What of the host is seen. Links such as ``/bin -> usr/bin`` stay links."""
    binds: dict[str, str] = {}
    links = {"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1"}
    links["/dev/stderr"] = "/proc/self/fd/2"
    for path in (*settings.read_only_paths, Path("/etc/ld.so.cache"), Path("/etc/localtime")):
        if path.is_symlink() and path.parent == Path("/"):
            links[str(path)] = str(path.readlink())
        elif path.exists():
            binds[str(path)] = str(path.resolve())
    for prefix in settings.prefixes():
        if not any(prefix.is_relative_to(place) for place in binds):
            # Programs find an installation by the name it was made under and by its real one.
            binds |= {str(prefix): str(prefix.resolve()), str(prefix.resolve()): str(prefix.resolve())}
    return binds, links


def files(uid: int = UID) -> dict[str, str]:
    """Files of the image -> their text."""
    return {
        "/etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nsandbox:x:{uid}:{uid}::{HOME}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "/etc/group": f"root:x:0:\nsandbox:x:{uid}:\nnogroup:x:65534:\n",
        "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
        "/etc/hostname": "sandbox\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "/etc/resolv.conf": "",
        "/etc/gitconfig": "[safe]\n\tdirectory = *\n[user]\n\tname = sandbox\n\temail = sandbox@localhost\n"
        "[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n[core]\n\tpager = cat\n[advice]\n\tdetachedHead = false\n",
    }


def environment(settings: SandboxSettings) -> dict[str, str]:
    """What every command sees before its own variables are added."""
    return {
        "PATH": ":".join(_path(settings)),
        "HOME": HOME,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "PYTHONDONTWRITEBYTECODE": "1",
        **settings.env,
    }


def _path(settings: SandboxSettings) -> list[str]:
    return [*(str(prefix / "bin") for prefix in settings.prefixes()), *settings.path]
