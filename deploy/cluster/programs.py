"""The programs of a cluster: compiled from pinned modules into the cache, or installed by the system.

A folder of ``sources/`` is one Go module. What it is built into is named after the module's files and the version of
Go, so that a changed pin is built anew and nothing else is.
"""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from deploy.cluster.errors import ClusterError

CACHE_VARIABLE = "MIMO_CLUSTER_CACHE"
"""Environment variable: where built programs are kept; they take about 650 MB."""
NETWORK_PLUGINS = Path("/usr/lib/cni")
SOURCES = Path(__file__).with_name("sources")
_MODULES = ("pause", "kubernetes", "coredns", "kwok", "helm")
_INSTALLED = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
}
_GO = (1, 21)
_GO_ADVICE = "Go 1.26, or any from 1.21 on that may fetch that one by itself (GOTOOLCHAIN=auto)"

_log = logging.getLogger(__name__)


def cache() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_path("mimo-coder") / "cluster")


def packages() -> list[str]:
    """The Debian packages that have to be installed before a cluster can run."""
    absent = {package for program, package in _INSTALLED.items() if shutil.which(program) is None}
    if not (NETWORK_PLUGINS / "bridge").exists():
        absent.add("containernetworking-plugins")
    return sorted(absent)


def missing() -> str:
    """What has to be installed before a cluster can be built and run; "" where nothing is missing."""
    absent = packages()
    wanted = [f"the Debian packages {' '.join(absent)}"] if absent else []
    if _go_version() < _GO:
        wanted.append(_GO_ADVICE)
    return " and ".join(wanted)


def are_built() -> bool:
    return all(_built(module).exists() for module in _MODULES)


def build() -> dict[str, Path]:
    """All programs by name; compiles those that are not in the cache yet.

    Raises:
        ClusterError: something is missing, or the compiler says no.
    """
    if reason := missing():
        raise ClusterError(f"not installed: {reason}")
    programs = {program.name: program for module in _MODULES for program in compiled(module).iterdir()}
    return {**{name: Path(shutil.which(name) or name) for name in _INSTALLED}, **programs}


def compiled(module: str) -> Path:
    """The folder with the programs of a module in ``sources/``, compiled where the cache has them not yet.

    Raises:
        ClusterError: the compiler says no.
    """
    if not _built(module).exists():
        _build(module)
    return _built(module)


def _build(module: str) -> None:
    built = _built(module)
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        _log.info("building %s (minutes, the first time)", module)
        packages = "." if (SOURCES / module / "main.go").exists() else "tool"
        out = Path(folder, "programs")
        done = _go(module, "build", "-trimpath", f"-ldflags={_link(module)}", "-o", f"{out}/", packages)
        if done.returncode != 0:
            raise ClusterError(f"{module} does not build: {done.stderr.strip()[-2000:]}")
        if not built.exists():  # two that build at once build the same
            out.rename(built)


def _link(module: str) -> str:
    """What the linker is told: no debugger's tables, and for Kubernetes its version, which clients ask for."""
    if module != "kubernetes":
        return "-s -w"
    version = _go(module, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").stdout.strip()
    major, minor, _ = version.removeprefix("v").split(".")
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in facts.items())])


def _built(module: str) -> Path:
    known = hashlib.sha256(_go(module, "env", "GOVERSION", "GOARCH").stdout.encode())
    for file in sorted((SOURCES / module).iterdir()):
        known.update(file.name.encode() + b"\0" + file.read_bytes())
    return cache() / f"{module}-{known.hexdigest()[:16]}"


def _go(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    return subprocess.run(
        ["go", *arguments], cwd=SOURCES / module, env=environment, capture_output=True, text=True, check=False
    )


def _go_version() -> tuple[int, int]:
    """Of the Go that is installed, (0, 0) where none is. One of 1.21 or later fetches the one that a module names."""
    if shutil.which("go") is None:
        return (0, 0)
    said = subprocess.run(["go", "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)
