"""The programs of ours that are in Go: found, or built from their source beside this file.

A build depends on nothing but the source and the version of Go: the same bytes come out on every machine. Modules of
others are those whose hashes ``go.sum`` names.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from sandbox.errors import SandboxUnavailable

SOURCE = Path(__file__).with_name("sandboxd")
EGRESS_SOURCE = Path(__file__).with_name("egressd")
_BUILD_TIMEOUT_S = 300.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""The kernel's name of a processor -> Go's."""
_ADVICE = {
    "sandboxd": "install Go 1.19 or newer (Debian: golang-go), or name a built sandboxd in the settings "
    "(sandbox.sandboxd)",
    "egressd": "install Go 1.24 or newer, which fetches one module the first time, or name a built egressd in the "
    "settings (sandbox.egress.egressd)",
}


def sandboxd(given: Path | None, architecture: str = "") -> Path:
    """The program that serves a sandbox from inside; see :func:`_found`."""
    return _found(SOURCE, given, architecture)


def egressd(given: Path | None) -> Path:
    """The program that leads out of sandboxes; see :func:`_found`."""
    return _found(EGRESS_SOURCE, given, "")


def build(target: Path, architecture: str = "", *, source: Path = SOURCE, go: str = "go") -> None:
    """Build the program into ``target``.

    Raises:
        SandboxUnavailable: the compiler says no.
    """
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", str(target), "."]
    wanted = {"GOARCH": architecture} if architecture else {}
    # The toolchain that is there, and nothing from outside but what go.sum names.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", **wanted}
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        advice = _ADVICE.get(source.name, "")
        raise SandboxUnavailable(f"{source.name} does not build: {done.stderr.strip()[-1000:]}; {advice}")


def ship(source: Path = SOURCE) -> Path:
    """Build the program of this source as a wheel for this machine carries it.

    Raises:
        SandboxUnavailable: there is no Go, or it says no.
    """
    if shutil.which("go") is None:
        raise SandboxUnavailable(_ADVICE[source.name])
    build(_shipped(source, ""), source=source)
    return _shipped(source, "")


def _found(source: Path, given: Path | None, architecture: str) -> Path:
    """A program for an architecture as Go names it, empty for this machine's: shipped, or built once per source and Go.

    Raises:
        SandboxUnavailable: it is not there and cannot be built; says what to install.
    """
    name = source.name
    if given is not None:
        if not os.access(given, os.X_OK):
            raise SandboxUnavailable(f"{given} is not a program that can be run; {_ADVICE[name]}")
        return given.absolute()
    if _shipped(source, architecture).exists():
        return _shipped(source, architecture)
    go = shutil.which("go")
    if go is None:
        raise SandboxUnavailable(f"{name} has to be built first; {_ADVICE[name]}")
    built = user_cache_path("mimo-coder") / name / _fingerprint(source, go, architecture) / name
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            build(Path(folder, name), architecture, source=source, go=go)
            Path(folder, name).chmod(0o755)  # whatever the umask is: a sandbox's user runs it
            Path(folder, name).replace(built)  # two that build at once build the same
    return built


def _shipped(source: Path, architecture: str) -> Path:
    """Where a wheel has it. Named after the source too: one left from another is not taken for it."""
    own = _ARCHITECTURES.get(platform.machine(), platform.machine())
    return source / f"{source.name}-{architecture or own}-{_digest(source, b'')}"


def _fingerprint(source: Path, go: str, architecture: str) -> str:
    version = subprocess.run([go, "env", "GOVERSION", "GOARCH"], capture_output=True, cwd=source, check=False)
    return _digest(source, version.stdout + architecture.encode())


def _digest(source: Path, more: bytes) -> str:
    known = hashlib.sha256(more)
    for file in sorted(source.glob("*")):
        if file.suffix in (".go", ".mod", ".sum", ".s"):
            known.update(file.name.encode() + b"\0" + file.read_bytes())
    return known.hexdigest()[:16]
