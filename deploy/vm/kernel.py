"""The kernel of a virtual machine: Debian's for clouds, unpacked into the cache, with no word to the system's own."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = "linux-image-cloud-amd64"
"""Depends on the newest kernel by its full name."""
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "fuse",
    "virtiofs",
    "overlay",
)
"""What it needs beside its image, in the order in which they can be loaded."""


class VmError(Exception):
    """A virtual machine cannot be had here, or ended before its command did."""


@dataclass(frozen=True, slots=True)
class Kernel:
    image: Path
    modules: tuple[Path, ...]


def fetched() -> Kernel | None:
    """The one that was fetched last; None before."""
    folders = [folder for folder in _cache().glob("linux-image-*") if not folder.suffix]
    if not folders:
        return None
    folder = max(folders, key=lambda folder: folder.stat().st_mtime)
    found = {path.name: path for path in folder.rglob("*.ko")}
    return Kernel(next((folder / "boot").glob("vmlinuz-*")), tuple(found[f"{name}.ko"] for name in MODULES))


def fetch() -> None:
    """Fetch the newest that the system's package sources know, unless it is there.

    Raises:
        VmError: this is no Debian, or it cannot be fetched.
    """
    if not shutil.which("apt-get"):
        raise VmError(f"the kernel is Debian's {PACKAGE}, and there is no apt-get to fetch it")
    depends = re.search(r"Depends: (linux-image-\S+)", _said("apt-cache", "depends", PACKAGE))
    if depends is None:
        raise VmError(f"the package sources do not know {PACKAGE}; try apt-get update")
    folder = _cache() / depends[1].replace(".", "_")
    if not folder.exists():
        _unpack(depends[1], folder)


def _cache() -> Path:
    return user_cache_path("mimo-coder") / "vm"


def _unpack(package: str, folder: Path) -> None:
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    _said("apt-get", "download", "-qq", package, folder=new)
    (archive,) = new.glob("*.deb")
    _said("dpkg-deb", "--extract", str(archive), str(new))
    archive.unlink()
    new.rename(folder)


def _said(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
