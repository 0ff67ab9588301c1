"""What a sandbox's root holds: the image ``host``, a read-only view of this machine's toolchain, or another one."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from sandbox.config import SandboxSettings
from sandbox.errors import SandboxUnavailable
from sandbox.local.blueprint import Blueprint
from sandbox.types import SandboxSpec

UID = 1000
"""User and group id of everything that runs in a sandbox, as seen inside."""
HOME = "/home/sandbox"
_WAY_OUT = "/run/egress"
"""Folder of the socket that leads out."""
_OF_EVERY_IMAGE = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def blueprint(
    spec: SandboxSpec,
    settings: SandboxSettings,
    *,
    root_mode: bool,
    host_uid: int,
    program: Path,
    folder: Path,
    bubblewrap: Path | None = None,
    tree: Path | None = None,
    way_out: Path | None = None,
) -> Blueprint:
    """Decide how the machine wanted by ``spec`` is built here.

    Args:
        folder: of the sandbox's sockets.
        bubblewrap: the program that makes it; None where we do.
        tree: the image's root; None for ``host``.
        way_out: a socket that leads out of the sandbox.

    Raises:
        SandboxUnavailable: the host lacks a program that every sandbox needs.
    """
    shell = "" if tree else find_shell(settings)
    binds, links = ({}, {}) if tree else view(settings)
    if way_out is not None:
        binds[_WAY_OUT] = str(way_out.parent)  # so that whoever takes the sandbox over can put another there
    return Blueprint(
        root_mode=root_mode,
        host_uid=host_uid,
        bubblewrap=str(bubblewrap or ""),
        program=str(program),
        tree=str(tree or ""),
        binds=binds,
        links=links,
        files={place: text for place, text in files().items() if tree is None or place in _OF_EVERY_IMAGE},
        shell=shell,
        folder=str(folder),
        egress="" if way_out is None else f"{_WAY_OUT}/{way_out.name}",
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
    links: dict[str, str] = {}
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


def environment(settings: SandboxSettings, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every command sees before its own variables are added. ``own`` are those of an image; None for ``host``."""
    usual = _host_environment(settings)
    return usual if own is None else {**usual, "PATH": _USUAL_PATH, **own, **settings.env}


def _host_environment(settings: SandboxSettings) -> dict[str, str]:
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
