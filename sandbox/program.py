"""The program that serves a sandbox from inside: found, or built from its source beside this file.

A build depends on nothing but the source and the version of Go: the same bytes come out on every machine.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from sandbox.errors import SandboxUnavailable

SOURCE = Path(__file__).with_name("sandboxd")
_BUILD_TIMEOUT_S = 300.0
_ADVICE = "install Go 1.19 or newer (Debian: golang-go), or name a built sandboxd in the settings (sandbox.sandboxd)"


def sandboxd(given: Path | None, architecture: str = "") -> Path:
    """The program for an architecture as Go names it, empty for this machine's; built once per source and Go.

    Raises:
        SandboxUnavailable: it is not there and cannot be built; says what to install.
    """
    if given is not None:
        if not os.access(given, os.X_OK):
            raise SandboxUnavailable(f"{given} is not a program that can be run; {_ADVICE}")
        return given.absolute()
    go = shutil.which("go")
    if go is None:
        raise SandboxUnavailable(f"the program that serves sandboxes has to be built first; {_ADVICE}")
    built = user_cache_path("mimo-coder") / "sandboxd" / _fingerprint(go, architecture) / "sandboxd"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            build(Path(folder, "sandboxd"), architecture, go=go)
            Path(folder, "sandboxd").replace(built)  # two that build at once build the same
    return built


def build(target: Path, architecture: str = "", *, source: Path = SOURCE, go: str = "go") -> None:
    """Build the program into ``target``.

    Raises:
        SandboxUnavailable: the compiler says no.
    """
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", str(target), "."]
    wanted = {"GOARCH": architecture} if architecture else {}
    # The toolchain that is there, and nothing from outside.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", **wanted}
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise SandboxUnavailable(f"sandboxd does not build: {done.stderr.strip()[-1000:]}; {_ADVICE}")


def _fingerprint(go: str, architecture: str) -> str:
    version = subprocess.run([go, "env", "GOVERSION", "GOARCH"], capture_output=True, cwd=SOURCE, check=False)
    known = hashlib.sha256(version.stdout + architecture.encode())
    for file in sorted(SOURCE.glob("*")):
        if file.suffix in (".go", ".mod", ".s"):
            known.update(file.name.encode() + b"\0" + file.read_bytes())
    return known.hexdigest()[:16]
