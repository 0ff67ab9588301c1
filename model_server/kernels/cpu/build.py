"""Compiles the step for an instruction set: ``python -m model_server.kernels.cpu.build [FOLDER]``.

A checkout compiles on first use, into the user's cache folder. A wheel carries the libraries for x86-64 beside the
sources (``hatch_build.py``; the command above does the same) and needs no compiler.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    # Sums have one order and one rounding: the sources say where products are fused into them, not the compiler.
    "-ffp-contract=off",
)
VARIANTS = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx512bf16": ("-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16"),
    "avx2": ("-march=x86-64-v3",),
    "native": ("-march=native",),
}
"""Compiler flags by instruction set. "native" is for machines that are not x86-64, and is never shipped."""

_COMPILE_S = 300

_log = logging.getLogger(__name__)


class NoLibrary(Exception):
    """The step cannot be compiled here; the message says why."""


def find_library(variant: str) -> Path:
    """The compiled step: shipped beside the sources, or in the cache, or compiled now (about 15 s).

    Raises:
        NoLibrary: there is no compiler, or it fails.
    """
    shipped = _SOURCES / file_name(variant)
    if shipped.exists():
        return shipped
    compiler = _compiler()
    if compiler is None:
        raise NoLibrary(
            "no C++ compiler (c++, g++ or clang++) was found, and no compiled library came with the package"
        )
    folder = _cache_folder() / _key(compiler, variant)
    library = folder / file_name(variant)
    return library if library.exists() else compile_library(variant, compiler, library)


def compile_library(variant: str, compiler: str, library: Path) -> Path:
    """Raises NoLibrary."""
    _log.info("kernels.compile variant=%s library=%s", variant, library)
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            result = Path(scratch) / library.name
            command = [compiler, *_FLAGS, *VARIANTS[variant], str(_SOURCES / "step.cpp"), "-o", str(result)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_S)
            result.replace(library)  # whole or not at all: another process may be waiting for it
    except subprocess.CalledProcessError as error:
        raise NoLibrary(f"{compiler} failed: {_last_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibrary(f"the step cannot be compiled into {library.parent}: {error}") from error
    return library


def compile_shipped(folder: Path = _SOURCES) -> list[Path]:
    """Compile what a wheel for x86-64 carries. Raises NoLibrary."""
    compiler = _compiler()
    if compiler is None:
        raise NoLibrary("no C++ compiler (c++, g++ or clang++) was found")
    return [
        compile_library(variant, compiler, folder / file_name(variant)) for variant in ("avx512", "avx512bf16", "avx2")
    ]


def file_name(variant: str) -> str:
    """Names the sources and flags too: a library left from others is not taken for theirs."""
    return f"step-{variant}-{_digest(*_FLAGS, *VARIANTS[variant])}.so"


def main(arguments: Sequence[str]) -> int:
    try:
        for library in compile_shipped(*map(Path, arguments[:1])):
            print(library)  # noqa: T201
    except NoLibrary as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def _key(compiler: str, variant: str) -> str:
    """Of a machine's own libraries: the compiler and, for "native", the machine, whose folder others may share."""
    resolved = Path(compiler).resolve()
    return _digest(str(resolved), str(resolved.stat().st_mtime_ns), os.uname().nodename if variant == "native" else "")


def _digest(*parts: str) -> str:
    """Changes with the parts and with the sources."""
    state = hashlib.sha256("\0".join(parts).encode())
    for path in sorted((*_SOURCES.glob("*.h"), *_SOURCES.glob("*.cpp"))):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]


def _cache_folder() -> Path:
    """XDG's cache folder; where home cannot be written, one of our own under the temporary folder."""
    named = os.environ.get("XDG_CACHE_HOME")
    base = Path(named) if named else Path.home() / ".cache"
    folder = base / "mimo-coder" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"mimo-coder-kernels-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # a library another user put there must not be loaded
            raise NoLibrary(
                f"{folder} belongs to someone else: set XDG_CACHE_HOME to a folder that can be written"
            ) from None
    return folder


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
