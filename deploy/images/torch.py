"""PyTorch for processors alone, made of the build for NVIDIA's GPUs: ``python -m deploy.images.torch FOLDER``.

Python's package index has no other build for Linux. It links to some 3 GB of NVIDIA's libraries, which have to be
there though a processor's work never enters them. In their place comes one small library under all their names; what
is asked of it answers that there is no device.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

LEFT_OUT = ("nvidia-", "cuda-", "triton")
"""Beginnings of the names of packages that only a GPU needs."""
_NO_DEVICE = 100
"""``cudaErrorNoDevice``; any answer but 0 is a failure to all of these libraries."""
_UNUSED = (
    "include",
    "test",
    "testing/_internal/py312*",  # syntax that 3.11 cannot compile
    "lib/libshm_windows",
    "bin/protoc*",
    "lib/libtorch_cuda_linalg.so",
    "lib/libgfortran*",
)
_OF_PYTHON_OR_CPP = re.compile(r"_?Py|_Z")
_OF_THE_SYSTEM = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2")
_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")


def lighten(site: Path) -> None:
    """Leave out of a folder of packages what only a GPU needs. Needs a C compiler and Binutils."""
    torch = site / "torch"
    for pattern in _UNUSED:
        for path in torch.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("nvidia", "cuda", "triton"):
        shutil.rmtree(site / name, ignore_errors=True)
    for about in site.glob("*.dist-info"):
        if about.name.replace("_", "-").startswith(LEFT_OUT):
            shutil.rmtree(about)
    kept = [path for path in (torch / "lib").glob("*.so*") if path.is_file()]
    absent = _absent(kept)
    if not absent:  # a build for processors
        return
    stand_in = _stand_in(_wanted(kept))
    for name in absent:
        (torch / "lib" / name).write_bytes(stand_in)


def _absent(kept: Iterable[Path]) -> list[str]:
    """Libraries that the kept ones name, and that are neither among them nor the system's."""
    named = {name for path in kept for name in _NEEDED.findall(_run("readelf", "--dynamic", "--wide", str(path)))}
    there = {path.name for path in kept}
    return sorted(name for name in named - there if _system_library(name) is None)


def _wanted(kept: Iterable[Path]) -> dict[str, list[str]]:
    """Version of a symbol, perhaps empty -> symbols that the kept libraries use and nobody has."""
    system = [path for name in _OF_THE_SYSTEM if (path := _system_library(name))]
    defined = {symbol.partition("@")[0] for path in (*kept, *system) for symbol in _symbols(path, "defined")}
    wanted: dict[str, list[str]] = {}
    for symbol in sorted({symbol for path in kept for symbol in _symbols(path, "undefined")}):
        name, _, version = symbol.partition("@")
        if name not in defined and not _OF_PYTHON_OR_CPP.match(name):
            wanted.setdefault(version, []).append(name)
    return wanted


def _symbols(library: Path, which: str) -> list[str]:
    """Names with their versions, those left out that a program can do without."""
    lines = _run("nm", "--dynamic", f"--{which}-only", str(library)).splitlines()
    return [line.split()[-1] for line in lines if line.split()[-2] not in "wv" or which == "defined"]


def _stand_in(wanted: dict[str, list[str]]) -> bytes:
    functions = "\n".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}" for names in wanted.values() for name in names)
    versions = "\n".join(f"{version} {{ {'; '.join(names)}; }};" for version, names in wanted.items() if version)
    with tempfile.TemporaryDirectory() as work:
        source, script, library = (Path(work, name) for name in ("none.c", "versions", "none.so"))
        source.write_text(functions)
        script.write_text(versions)
        _run("cc", "-shared", "-fPIC", "-w", "-s", f"-Wl,--version-script={script},--build-id=none", "-o",
             str(library), str(source))  # fmt: skip
        return library.read_bytes()


def _system_library(name: str) -> Path | None:
    places = (*Path("/lib").glob("*-linux-gnu"), *Path("/usr/lib").glob("*-linux-gnu"), Path("/lib64"))
    return next((place / name for place in places if (place / name).exists()), None)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    lighten(Path(sys.argv[1]))
