"""The images of the service, each as its Dockerfile beside this file describes it, made without Docker.

Where a Dockerfile takes a base and its system's packages from a registry and a mirror, here they are the files of what
this machine has installed; where it takes packages of Python from an index, those of our own environment. Layers are
kept in a cache under what they are made of, so that only what has changed is made again.
"""

import fcntl
import hashlib
import logging
import re
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

from deploy.images import archive, debian, dockerfile, python, sbom, torch
from deploy.images.archive import Layer, Tree
from deploy.images.build import pytest_packages, task_tree
from deploy.images.dockerfile import Dockerfile
from sandbox.program import egressd, sandboxd

REPOSITORY = "docker.io/mimo-coder"
"""What Kubernetes and Docker take ``mimo-coder/agent`` for."""
_FOLDER = Path(__file__).parent
_BASE = ("base-files", "coreutils", "libc-bin", "libstdc++6", "mawk", "python3", "tzdata")
"""What the usual base of Python has too."""
_COMPILERS = re.compile(r"/lib(LLVM|z3)|/llvmjit|^usr/share/i18n/|^usr/bin/perl")
"""Half of what Debian's Postgres brings is for compiling queries, and for programs in Perl that tend clusters."""
_BILL = "usr/share/mimo/sbom.cdx.json"
"""What the image is made of."""
_AUTHORITY = re.compile(r"usr/share/ca-certificates/.*\.crt$")

_KEPT_S = 14 * 24 * 3600
"""A layer or a wheel that nobody has asked for in so long is removed from the cache."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """An image with packages of Python.

    Attributes:
        extras: of our project, or groups, whose packages it has; where nothing is ours, these alone.
        without: beginnings of names of packages that it has not.
        ours: packages of our own that it has.
        folders: that are there for its volumes.
        described: the image whose Dockerfile is this one's too. Empty: it has its own.
        programs: names in PATH of what installers would have written for its packages.
    """

    extras: tuple[str, ...]
    without: tuple[str, ...]
    ours: tuple[str, ...]
    folders: Mapping[str, int]
    described: str = ""
    programs: tuple[str, ...] = ()


_AGENT = Service(
    ("docker", "kubernetes", "postgres", "telemetry", "mcp", "acp"), (), ("agent", "sandbox", "evals"), {"data": 0o1777}
)
SERVICES = {
    "agent": _AGENT,
    "agent-ray": replace(_AGENT, extras=(*_AGENT.extras, "ray"), described="agent", programs=("ray",)),
    "model-server": Service(("model",), torch.LEFT_OUT, ("model_server",), {}),
    "router": Service(("router",), (), (), {}),
}
PROGRAMS: Mapping[str, Callable[[Path | None], Path]] = {"sandboxd": sandboxd, "egress-proxy": egressd}
"""Images of one program and nothing else."""
NAMES = (*SERVICES, *PROGRAMS, "postgres", "task")


def build_services(folder: Path, names: Collection[str] = NAMES) -> dict[str, Path]:
    """Write images as archives into ``folder``, those that are not there yet; full name -> archive.

    Raises:
        ImageError: something on this machine does not fit.
        SandboxUnavailable: a program cannot be compiled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = user_cache_path("mimo-coder") / "images"
    cache.mkdir(parents=True, exist_ok=True)
    tag = version("mimo-coder")
    with (cache / "lock").open("w") as lock:  # who comes second finds made what the first one makes
        fcntl.flock(lock, fcntl.LOCK_EX)
        _forget_unused(cache)
        return {f"{REPOSITORY}/{name}:{tag}": _build(folder, cache, name, tag) for name in names}


def file_of(name: str) -> Path:
    """The Dockerfile of an image."""
    described = SERVICES[name].described if name in SERVICES else ""
    return _FOLDER / f"{described or name}.Dockerfile"


def _build(folder: Path, cache: Path, name: str, tag: str) -> Path:
    described = dockerfile.read(file_of(name), VERSION=tag)
    layers = _layers(cache, name, tag, described)
    target = folder / f"{name}-{archive.identity(layers, described.config)[:16]}.tar"
    if not target.exists():
        _log.info("writing the image %s", name)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            archive.write(Path(work, "image.tar"), f"{REPOSITORY}/{name}:{tag}", layers, described.config)
            Path(work, "image.tar").replace(target)
        for other in set(folder.glob(f"{name}-{'?' * 16}.tar")) - {target}:
            other.unlink(missing_ok=True)
    return target


def _forget_unused(cache: Path) -> None:
    for kept in cache.glob("*.*"):
        if time.time() - kept.stat().st_mtime > _KEPT_S:
            kept.unlink()


def _layers(cache: Path, name: str, tag: str, described: Dockerfile) -> list[Layer]:
    if name in SERVICES:
        return _service(cache, name, tag, described)
    if name in PROGRAMS:
        program = PROGRAMS[name](None)
        return [_layer(cache, str(program), lambda _: Tree({program.name: program}))]
    system = debian.versions(*described.arguments["PACKAGES"].split())
    tree = task_tree(described) if name == "task" else _postgres(tuple(system), described)
    bill = sbom.document(name, tag, pytest_packages() if name == "task" else (), system)
    tree = replace(tree, texts={**tree.texts, _BILL: bill})
    return [_layer(cache, f"{name} {system} {tree.texts} {sorted(tree.files)}", lambda _: tree)]


def _service(cache: Path, name: str, tag: str, described: Dockerfile) -> list[Layer]:
    """From what changes seldom to what changes often: the system, packages of others, ours."""
    service = SERVICES[name]
    system = debian.versions(*_BASE, *described.arguments["PACKAGES"].split())
    packages = python.distributions(*service.extras, without=service.without, with_base=bool(service.ours))
    listed = [f"{package.metadata['Name']}=={package.version}" for package in packages]
    wheel = python.build_wheel(cache) if service.ours else None
    bill = sbom.document(name, tag, packages, system)

    def of_others(work: Path) -> Tree:
        python.stage(work, packages)
        if "model" in service.extras:
            torch.lighten(work)
        python.compile_staged(work)
        programs = {f"{python.PLACE}/bin/{name}": _FOLDER / f"{name}.sh" for name in service.programs}
        return Tree({**python.staged(work), **programs})

    def of_ours(work: Path) -> Tree:
        if wheel is not None:
            python.stage_ours(work, wheel, service.ours)
            python.compile_staged(work)
        return Tree(python.staged(work), texts={_BILL: bill}, folders=service.folders)

    return [
        _layer(
            cache,
            f"{python.check_interpreter()} {system} {described.config['User']}",
            lambda _: _system(tuple(system), described),
        ),
        _layer(cache, f"{service} {listed}", of_others),
        _layer(cache, f"{service} {wheel} {bill}", of_ours),
    ]


def _postgres(packages: tuple[str, ...], described: Dockerfile) -> Tree:
    system = _system(packages, described)
    kept = {path: file for path, file in system.files.items() if not _COMPILERS.search(path)}
    return replace(system, files={**kept, "usr/local/bin/run-postgres": _FOLDER / "postgres.sh"})


def _system(packages: tuple[str, ...], described: Dockerfile) -> Tree:
    files = debian.files(*packages)
    authorities = [file.read_text() for path, file in sorted(files.items()) if _AUTHORITY.match(path)]
    user = str(described.config["User"]).partition(":")[0]
    return Tree(
        files=files,
        texts={
            "etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nmimo:x:{user}:{user}::/tmp:/usr/sbin/nologin\n",
            "etc/group": f"root:x:0:\nmimo:x:{user}:\n",
            "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
            # As Debian's own program would join them, without those that only this machine trusts.
            **({"etc/ssl/certs/ca-certificates.crt": "".join(authorities)} if authorities else {}),
        },
        links={
            **{merged: f"usr/{merged}" for merged in ("bin", "sbin", "lib", "lib64")},
            **{f"usr/local/bin/{name}": str(python.INTERPRETER) for name in ("python", "python3")},
            "usr/bin/awk": "mawk",
            "usr/bin/sh": "bash",
        },
        folders={"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "run": 0o755, "mnt": 0o755},
    )


def _layer(cache: Path, inputs: str, make: Callable[[Path], Tree]) -> Layer:
    """A layer made of these inputs by the code of this package; kept under both and under its digest."""
    known = hashlib.sha256(inputs.encode())
    for source in sorted({*_FOLDER.glob("*.py"), *_FOLDER.glob("*.sh")} - {_FOLDER / "__main__.py"}):
        known.update(source.read_bytes())
    key = known.hexdigest()[:16]
    if kept := list(cache.glob(f"{key}-*.layer")):
        kept[0].touch()
        return Layer(kept[0], kept[0].stem.partition("-")[2])
    with tempfile.TemporaryDirectory(dir=cache) as work:
        (staging := Path(work, "staging")).mkdir()
        layer = archive.write_layer(Path(work, "layer"), make(staging))
        return Layer(layer.file.rename(cache / f"{key}-{layer.digest}.layer"), layer.digest)
