"""Packages of Python as images hold them: what the environment has installed, compiled, below one folder."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Collection
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.images.errors import ImageError

PLACE = "opt/mimo"
"""Where an image has them; ``PYTHONPATH`` says so."""
INTERPRETER = Path("/usr/bin/python3")
_ROOT = Path(__file__).parents[2]
_PROJECT = "pyproject.toml"
_BESIDE = (_PROJECT, "hatch_build.py", "README.md", "LICENSE")
_COMPILED_HERE = shutil.ignore_patterns("__pycache__", "*.so", "sandboxd-*", "egressd-*")


def distributions(*extras: str, without: Collection[str] = (), with_base: bool = True) -> list[Distribution]:
    """What our project needs, with these extras or groups, as it is installed; by name.

    Args:
        without: beginnings of names that are left out, with what only they need.
        with_base: also what it needs without any extra.
    """
    settings = tomllib.loads((_ROOT / _PROJECT).read_text())
    named = settings["project"]["optional-dependencies"] | settings["dependency-groups"]
    wanted = list(settings["project"]["dependencies"]) if with_base else []
    wanted += (need for extra in extras for need in named[extra])
    found: dict[str, Distribution] = {}
    seen = set[tuple[str, str]]()
    pending = [(Requirement(text), "") for text in wanted]
    while pending:
        need, extra = pending.pop()
        name = canonicalize_name(need.name)
        if name.startswith(tuple(without)) or (need.marker and not need.marker.evaluate({"extra": extra})):
            continue
        found.setdefault(name, distribution(name))
        for asked in ("", *need.extras):
            if (name, asked) not in seen:
                seen.add((name, asked))
                pending += [(Requirement(text), asked) for text in found[name].requires or ()]
    return [found[name] for name in sorted(found)]


def stage(folder: Path, packages: Collection[Distribution]) -> None:
    """Copy the files of packages into a folder, as an installer into it would have written them."""
    for package in packages:
        for file in package.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(package.locate_file(file)), target)
                shutil.copymode(str(package.locate_file(file)), target)


def stage_ours(folder: Path, wheel: Path, packages: Collection[str]) -> None:
    """Unpack some of the wheel's packages, and what it says about itself, into a folder."""
    with zipfile.ZipFile(wheel) as archive:
        chosen = [name for name in archive.namelist() if name.partition("/")[0].endswith((".dist-info", *packages))]
        archive.extractall(folder, chosen)
    for name in ("sandboxd", "egressd"):
        for program in folder.glob(f"sandbox/{name}/{name}-*"):
            program.chmod(0o755)


def compile_staged(folder: Path) -> None:
    """Compile what is staged: a root that cannot be written would compile everything at every start.

    The compiled files are never compared with their sources: those of an image do not change.
    """
    command = [str(INTERPRETER), "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"]
    subprocess.run([*command, "-s", str(folder), "-p", f"/{PLACE}", str(folder)], check=True)


def staged(folder: Path) -> dict[str, Path]:
    """Path inside -> file, of all that is staged."""
    return {f"{PLACE}/{file.relative_to(folder)}": file for file in folder.rglob("*") if not file.is_dir()}


def check_interpreter() -> str:
    """The version of the interpreter that images get.

    Raises:
        ImageError: our environment's packages are not for it.
    """
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = "import sys; print(*sys.version_info[:2], sep='.')"
    said = subprocess.run([INTERPRETER, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    if said != own:
        raise ImageError(f"{INTERPRETER} is Python {said}, .venv is {own}: make .venv with the system's Python")
    return said


def build_wheel(cache: Path) -> Path:
    """Our own wheel, with what it compiles; built once for the same sources.

    Raises:
        ImageError: it does not build.
    """
    project = tomllib.loads((_ROOT / _PROJECT).read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    with tempfile.TemporaryDirectory(dir=cache) as work:
        source = Path(work, "source")
        for package in packages:
            shutil.copytree(_ROOT / package, source / package, ignore=_COMPILED_HERE)
        for file in _BESIDE:
            shutil.copy(_ROOT / file, source / file)
        kept = cache / f"{_digest(source)}.whl"
        if not kept.exists():
            command = [sys.executable, "-m", "hatchling", "build", "--target=wheel", f"--directory={work}/built"]
            done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ImageError(f"our wheel does not build: {done.stderr.strip()[-2000:]}")
            next(Path(work, "built").iterdir()).replace(kept)
    kept.touch()
    return kept


def _digest(folder: Path) -> str:
    known = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        known.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return known.hexdigest()[:16]
