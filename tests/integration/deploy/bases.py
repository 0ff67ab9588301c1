"""Bases of our Dockerfiles, of what this machine has installed, brought to a Docker daemon: no registry is asked.

What their builds still fetch, packages of Python and a module of Go, comes from where this machine has it.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import docker

from deploy.images import archive, debian
from deploy.images.archive import Tree

GOLANG, PYTHON, DEBIAN = "mimo.local/golang:local", "mimo.local/python:local", "mimo.local/debian:local"
_PROGRAMS = (
    *("apt", "base-files", "base-passwd", "bash", "coreutils", "dash", "debconf", "debian-archive-keyring"),
    *("debianutils", "diffutils", "dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers"),
    *("libc-bin", "login", "mawk", "passwd", "sed", "tar", "tzdata", "util-linux"),
)
"""What every Debian has."""
_OF_PYTHON = ("python3", "python3-pip", "python3-venv")
_LEFT_OUT_OF_GO = {"api", "doc", "misc", "test", "testdata"}
"""What no build needs."""
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def missing(*packages: str) -> str:
    """Which of Debian's packages the bases want and this machine lacks; "" where none."""
    if shutil.which("dpkg-query") is None:
        return "the bases are made of Debian's packages, and this is no Debian"
    wanted = {*_PROGRAMS, *_OF_PYTHON, *packages}
    shown = _said("dpkg-query", "--show", "--showformat=${Package}\\n")
    absent = sorted(wanted - set(shown.split()))
    return f"not installed: {' '.join(absent)} (Debian's packages)" if absent else ""


def bring_golang(client: docker.DockerClient, shell: Path) -> None:
    """This machine's Go and a shell, and nothing else."""
    with tempfile.TemporaryFile() as written:
        with tarfile.open(fileobj=written, mode="w", dereference=True) as tar:
            tar.add(shell, "bin/sh")
            tar.add(_said("go", "env", "GOROOT"), "usr/local/go", filter=_needed)
            tar.add(_AUTHORITIES, str(_AUTHORITIES).lstrip("/"))
            folder = tarfile.TarInfo("tmp")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(folder)
        written.seek(0)
        _bring(client, written, GOLANG, "ENV PATH=/usr/local/go/bin:/bin HOME=/tmp")


def bring_python(client: docker.DockerClient, *packages: str) -> None:
    """This machine's Debian and Python, with packages; what is here is all there is, and nothing is fetched by apt."""
    _bring_debian(client, PYTHON, (*_OF_PYTHON, *packages), sources="")


def bring_debian(client: docker.DockerClient, *packages: str) -> None:
    """A small Debian of this machine's, which has more from where this machine has its packages."""
    asked = ("--format", "deb $(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages", "Origin: Debian")
    _bring_debian(client, DEBIAN, packages, sources=_said("apt-get", "indextargets", *asked))


def _bring_debian(client: docker.DockerClient, tag: str, packages: tuple[str, ...], *, sources: str) -> None:
    wanted = (*_PROGRAMS, *packages)
    files, installed = debian.files(*wanted), debian.versions(*wanted)
    of_pam = {f"etc/pam.d/{file.name}": file for file in Path("/etc/pam.d").glob("common-*")}
    notes = {
        f"var/lib/dpkg/info/{file.name}": file
        for file in Path("/var/lib/dpkg/info").iterdir()
        if file.stem.partition(":")[0] in installed
    }
    master = Path("/usr/share/base-passwd")
    tree = Tree(
        files={**files, **of_pam, **notes},
        texts={
            "etc/apt/sources.list": sources,
            "etc/group": (master / "group.master").read_text(),
            "etc/passwd": (master / "passwd.master").read_text(),
            "etc/pip.conf": _settings_of_pip(),
            str(_AUTHORITIES).lstrip("/"): _AUTHORITIES.read_text(),
            "var/lib/dpkg/status": _status(installed.keys()),
        },
        links={
            **{merged: f"usr/{merged}" for merged in ("bin", "sbin", "lib", "lib64")},
            **_alternatives(set(files)),
            "usr/bin/sh": "dash",
            **({} if sources else {"usr/local/bin/python": "/usr/bin/python3"}),
        },
        folders={
            "tmp": 0o1777,
            "var/tmp": 0o1777,
            "etc/apt/preferences.d": 0o755,
            "root": 0o700,
            "run": 0o755,
            "usr/local/bin": 0o755,
            "var/cache/apt/archives/partial": 0o755,
            "var/lib/apt/lists/partial": 0o755,
            "var/lib/dpkg/updates": 0o755,
            "var/log/apt": 0o755,
        },
    )
    with tempfile.TemporaryDirectory() as work:
        layer = archive.write_layer(Path(work, "layer"), tree)
        with layer.file.open("rb") as content:
            _bring(client, content, tag)


def _status(packages: Collection[str]) -> str:
    """What dpkg is to know: these packages are installed."""
    stanzas = Path("/var/lib/dpkg/status").read_text().split("\n\n")
    known = {stanza.partition("\n")[0].removeprefix("Package: "): stanza for stanza in stanzas}
    return "".join(f"{known[package]}\n\n" for package in sorted(packages))


def _alternatives(files: Collection[str]) -> dict[str, str]:
    """Names that are links to one of several programs, straight to the one that is chosen here."""
    links = [path for path in Path("/usr/bin").iterdir() if path.is_symlink()]
    chosen = {str(path).lstrip("/"): str(path.resolve()) for path in links if "alternatives" in str(path.readlink())}
    return {name: target for name, target in chosen.items() if target.lstrip("/") in files}


def _settings_of_pip() -> str:
    """Those of this machine, also where they are in the environment."""
    listed = _said(sys.executable, "-m", "pip", "config", "list")
    settings = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items()), ""])


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name in _LEFT_OUT_OF_GO else member


def _bring(client: docker.DockerClient, content: IO[bytes], name: str, *changes: str) -> None:
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(content, repository=repository, tag=tag, changes=list(changes))


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()
